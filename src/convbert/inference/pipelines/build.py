"""`convbert.pipeline`: a task's name and a model folder to a pipeline."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch

from convbert.files import embedded
from convbert.files.damage import translate_errors
from convbert.inference.engine import MAX_TOKENS
from convbert.inference.loading import TASKS, Device, PathLike, find_device, find_task, load, unwrap
from convbert.inference.pipelines.base import PackedPipeline
from convbert.inference.pipelines.feature_extraction import FeatureExtraction
from convbert.inference.pipelines.fill_mask import FillMask
from convbert.inference.pipelines.multiple_choice import MultipleChoice
from convbert.inference.pipelines.question_answering import QuestionAnswering
from convbert.inference.pipelines.text_classification import TextClassification
from convbert.inference.pipelines.token_classification import TokenClassification
from convbert.inference.precision import Precision
from convbert.inference.runtimes import load_exported
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.tokenization import ConvBertTokenizer, ConvBertTokenizerFast
from convbert.util.errors import InputError

PIPELINES: dict[str, type[PackedPipeline]] = {
    "fill-mask": FillMask,
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "multiple-choice": MultipleChoice,
    "feature-extraction": FeatureExtraction,
}


def pipeline(
    task: str,
    model: PathLike | ConvBertPreTrainedModel | None = None,
    tokenizer: PathLike | ConvBertTokenizerFast | ConvBertTokenizer | None = None,
    *,
    device: Device = None,
    precision: Precision = "auto",
    runtime: str | None = None,
    max_tokens: int = MAX_TOKENS,
    **kwargs: Any,
) -> PackedPipeline:
    """Build the pipeline of a task.

    Args:
        task: "fill-mask", "text-classification" ("sentiment-analysis"), "token-classification" ("ner"),
            "question-answering", "multiple-choice" or "feature-extraction".
        model: a folder, a name on the Hub, or a model. None: the embedded English model, which can do fill-mask and
            feature-extraction.
        tokenizer: a folder, a name on the Hub, or a tokenizer. None: the one in the model's folder.
        device: None takes the GPU where there is one, or leaves a given model where it is.
        precision: "auto", "fp32", "bf16" or "int8", see `convbert.load`. A given model stays as it is.
        runtime: "onnx" or "openvino" runs a folder that `convbert export` has written, on a CPU; `precision` then says
            which of its files.
        max_tokens: tokens in one batch.
        kwargs: defaults for the arguments of the pipeline's calls; see its class. transformers' `batch_size` is best
            left out: texts of similar length make a batch, by their tokens, and it only bounds their number. Its
            `dtype` and `device_map` stand for `precision` and `device`; `use_fast` and `trust_remote_code` have no
            effect.

    Raises:
        InputError: an unknown task; a `dtype` that is no `precision`; a folder that is missing, damaged or was not
            trained for the task; a tokenizer with more tokens than the model; a precision that cannot run here.
    """
    device, precision = _translate(kwargs, device, precision)
    name = find_task(task)
    if name not in PIPELINES:
        raise InputError(f"there is no pipeline for {name}; there are {', '.join(PIPELINES)}")
    if isinstance(model, torch.nn.Module):
        if runtime is not None:
            raise InputError(f"runtime={runtime!r} runs an exported folder; got a model")
        wanted, built = TASKS[name].model, unwrap(model)
        if not isinstance(built, wanted):
            raise InputError(f"{name} runs a {wanted.__name__}, got a {type(built).__name__}")
        if precision != "auto":
            raise InputError(
                "precision is for loading: give a folder, or load the model with convbert.load(...)"
            )
        place = built.device if device is None else find_device(device)
        tokenizer = built.name_or_path if tokenizer is None else tokenizer
    elif runtime is not None:
        place = find_device("cpu" if device is None else device)
        if model is None or place.type != "cpu":
            raise InputError(
                f"runtime={runtime!r} runs an exported folder on a CPU: give model=, and no other device"
            )
        built = load_exported(os.fspath(model), name, runtime, precision)
        tokenizer = model if tokenizer is None else tokenizer
    else:
        place = find_device(device)
        built = load(model, name, precision=precision, device=place)
        tokenizer = (model or embedded.folder()) if tokenizer is None else tokenizer
    words: Any = tokenizer
    if isinstance(tokenizer, str | os.PathLike):
        if not os.fspath(tokenizer):
            raise InputError("a model that was not loaded from a folder needs a tokenizer: give tokenizer=")
        with translate_errors(os.fspath(tokenizer)):
            words = ConvBertTokenizerFast.from_pretrained(tokenizer)
    if len(words) > built.config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(words)} tokens and the model's vocab_size is "
            f"{built.config.vocab_size}: they do not belong together"
        )
    return PIPELINES[name](
        model=built, tokenizer=words, task=name, device=place, max_tokens=max_tokens, **kwargs
    )


_PRECISIONS: dict[str, Precision] = {"auto": "auto", "float32": "fp32", "bfloat16": "bf16"}


def _translate(given: dict[str, Any], device: Device, precision: Precision) -> tuple[Device, Precision]:
    """Take transformers' words out of what was given: device and precision, which they may stand for."""
    for name in ("dtype", "torch_dtype"):
        if (dtype := given.pop(name, None)) is not None:
            word = str(dtype).removeprefix("torch.")
            if word not in _PRECISIONS:
                raise InputError(f"{name} must be one of {', '.join(_PRECISIONS)}, got {word!r}")
            precision = _PRECISIONS[word] if precision == "auto" else precision
    place = given.pop("device_map", None)
    if isinstance(place, dict):
        raise InputError("device_map: the model runs on one device: give device=")
    if device is None and place != "auto":
        device = place
    for name in ("use_fast", "trust_remote_code"):
        if given.pop(name, None):
            warnings.warn(f"{name} has no effect here: model and tokenizer are convbert's own", stacklevel=3)
    return device, precision
