"""`convbert.pipeline`: a task's name and a model folder to a pipeline."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

from convbert import embedded
from convbert.errors import InputError
from convbert.heads.masked_lm import ConvBertForMaskedLM
from convbert.heads.question_answering import ConvBertForQuestionAnswering
from convbert.heads.sequence_classification import ConvBertForSequenceClassification
from convbert.heads.token_classification import ConvBertForTokenClassification
from convbert.model import ConvBertModel, ConvBertPreTrainedModel
from convbert.pipelines.feature_extraction import FeatureExtraction
from convbert.pipelines.fill_mask import FillMask
from convbert.pipelines.packed import MAX_TOKENS, PackedTexts
from convbert.pipelines.question_answering import QuestionAnswering
from convbert.pipelines.text_classification import TextClassification
from convbert.pipelines.token_classification import TokenClassification
from convbert.tokenization import ConvBertTokenizer, ConvBertTokenizerFast


class Task(NamedTuple):
    """What a task needs, and whether the embedded model, which was only pre-trained, can do it."""

    pipeline: type[PackedTexts]
    model: type[ConvBertPreTrainedModel]
    embedded_model_serves: bool = False


TASKS = {
    "fill-mask": Task(FillMask, ConvBertForMaskedLM, embedded_model_serves=True),
    "text-classification": Task(TextClassification, ConvBertForSequenceClassification),
    "token-classification": Task(TokenClassification, ConvBertForTokenClassification),
    "question-answering": Task(QuestionAnswering, ConvBertForQuestionAnswering),
    "feature-extraction": Task(FeatureExtraction, ConvBertModel, embedded_model_serves=True),
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def pipeline(
    task: str,
    model: str | os.PathLike[str] | ConvBertPreTrainedModel | None = None,
    tokenizer: str | os.PathLike[str] | ConvBertTokenizerFast | ConvBertTokenizer | None = None,
    *,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    max_tokens: int = MAX_TOKENS,
    **kwargs: Any,
) -> PackedTexts:
    """Build the pipeline of a task.

    Args:
        task: "fill-mask", "text-classification" ("sentiment-analysis"), "token-classification" ("ner"),
            "question-answering" or "feature-extraction".
        model: a folder, a name on the Hub, or a model. None: the embedded English model, which can do
            fill-mask and feature-extraction.
        tokenizer: a folder, a name on the Hub, or a tokenizer. None: the one in the model's folder.
        device: None takes the GPU where there is one, or leaves a given model where it is.
        dtype: of the weights. None or "auto": as stored, but half precision runs in fp32 on a CPU.
        max_tokens: tokens in one batch.
        kwargs: defaults for the arguments of the pipeline's calls; see its class.

    Raises:
        InputError: an unknown task; a folder that is missing, damaged or was not trained for the task; a
            tokenizer with more tokens than the model.
    """
    name = ALIASES.get(task, task)
    if name not in TASKS:
        raise InputError(f"there is no task {task!r}; there are {', '.join([*TASKS, *ALIASES])}")
    chosen = TASKS[name]
    if model is None:
        model = _embedded_folder(name)
    if isinstance(model, torch.nn.Module):
        place = model.device if device is None else _device(device)
        tokenizer = model.name_or_path if tokenizer is None else tokenizer
        built = _check_given(model, chosen, name, dtype)
    else:
        place = _device(device)
        tokenizer = model if tokenizer is None else tokenizer
        built = _load_model(os.fspath(model), chosen, name, place, dtype)
    words = _load_tokenizer(tokenizer)
    _check_sizes(words, built)
    return chosen.pipeline(
        model=built, tokenizer=words, task=name, device=place, max_tokens=max_tokens, **kwargs
    )


def _embedded_folder(task: str) -> str:
    if not TASKS[task].embedded_model_serves:
        raise InputError(
            f"{task} needs a model that was fine-tuned for it: give model=, a folder or a name on the Hub"
        )
    return str(embedded.folder())


def _device(device: str | int | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(device, int) and device < 0:
        return torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


def _check_given(
    model: torch.nn.Module, task: Task, name: str, dtype: str | torch.dtype | None
) -> ConvBertPreTrainedModel:
    if not isinstance(model, task.model):
        raise InputError(f"{name} runs a {task.model.__name__}, got a {type(model).__name__}")
    if dtype is not None:
        raise InputError("dtype is for loading; convert a model that is there already with model.to(...)")
    return model


def _load_model(
    source: str, task: Task, name: str, device: torch.device, dtype: str | torch.dtype | None
) -> ConvBertPreTrainedModel:
    _check_source(source)
    options = {"dtype": dtype or "auto", "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with _quiet():
            model, report = task.model.from_pretrained(source, **options)
    except InputError as error:
        # A contradiction within the configuration does not say which folder it is from.
        raise error if source in str(error) else InputError(f"{source}: {error}") from error
    _check_report(source, task, name, report)
    if device.type == "cpu" and dtype in (None, "auto") and model.dtype in (torch.float16, torch.bfloat16):
        model = model.float()
    return model.eval()


def _check_source(source: str) -> None:
    """Refuse what can only be a folder and is none; a name on the Hub has at most one slash, and not in front."""
    if os.path.isfile(source):
        raise InputError(f"{source}: is a file; give the folder that holds it")
    is_path = (
        source.startswith((".", "~", os.sep)) or source.count("/") > 1 or (os.sep != "/" and os.sep in source)
    )
    if is_path and not os.path.isdir(source):
        raise InputError(f"{source}: there is no such folder")
    if os.path.isdir(source) and not os.path.isfile(os.path.join(source, "config.json")):
        raise InputError(f"{source}: holds no model: there is no config.json")


def _check_report(source: str, task: Task, name: str, report: dict[str, Any]) -> None:
    """Refuse weights that do not fill the model: what is missing would be random."""
    for key, stored, wanted in sorted(report["mismatched_keys"]):
        raise InputError(
            f"{source}: config.json and the weights do not belong together: {key} is {tuple(stored)}, "
            f"and the configuration says {tuple(wanted)}"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{source}: was not trained for {name}: a {task.model.__name__} needs {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}, which are not among its weights"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of weights: left-over ones are normal here, missing ones an error."""
    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()


def _load_tokenizer(tokenizer: Any) -> ConvBertTokenizerFast | ConvBertTokenizer:
    if not isinstance(tokenizer, (str, os.PathLike)):
        return tokenizer
    source = os.fspath(tokenizer)
    if not source:
        raise InputError("a model that was not loaded from a folder needs a tokenizer: give tokenizer=")
    try:
        return ConvBertTokenizerFast.from_pretrained(source)
    except OSError as error:
        raise InputError(f"{source}: {error}") from error


def _check_sizes(
    tokenizer: ConvBertTokenizerFast | ConvBertTokenizer, model: ConvBertPreTrainedModel
) -> None:
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens and the model's vocab_size is "
            f"{model.config.vocab_size}: they do not belong together"
        )
