"""`convbert.load`: a model folder, a name on the Hub or the embedded model to a model that is ready to run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils import logging

from convbert.configuration import ConvBertConfig
from convbert.files import embedded
from convbert.files.hub import check_hub
from convbert.files.weights import check_sizes
from convbert.inference.precision import Precision, check_precision, set_precision
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.model.heads.multiple_choice import ConvBertForMultipleChoice
from convbert.model.heads.question_answering import ConvBertForQuestionAnswering
from convbert.model.heads.replaced_token import ConvBertForPreTraining
from convbert.model.heads.sequence_classification import ConvBertForSequenceClassification
from convbert.model.heads.token_classification import ConvBertForTokenClassification
from convbert.ops._torch_internals import compiled_from
from convbert.util.errors import InputError

Device = str | int | torch.device | None
PathLike = str | os.PathLike[str]


class Task(NamedTuple):
    """The model of a task, and the embedded model that can do it."""

    model: type[ConvBertPreTrainedModel]
    embedded: str | None = None


TASKS = {
    "fill-mask": Task(ConvBertForMaskedLM, "embedded"),
    "text-classification": Task(ConvBertForSequenceClassification),
    "token-classification": Task(ConvBertForTokenClassification),
    "question-answering": Task(ConvBertForQuestionAnswering),
    "feature-extraction": Task(ConvBertModel, "embedded"),
    "sentence-similarity": Task(ConvBertModel, "embedded-sentences"),
    "multiple-choice": Task(ConvBertForMultipleChoice),
    "replaced-token-detection": Task(ConvBertForPreTraining),
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def load(
    source: PathLike | None = None,
    task: str = "fill-mask",
    *,
    precision: Precision = "auto",
    device: Device = None,
) -> ConvBertPreTrainedModel:
    """Load a model, ready to run: in evaluation mode, on its device, in the numbers it shall compute in.

    Args:
        source: a folder, a name on the Hub, "embedded" or "embedded-sentences". None: the embedded model that can do
            the task: fill-mask and feature-extraction, or sentence-similarity.
        task: "fill-mask", "text-classification" ("sentiment-analysis"), "token-classification" ("ner"),
            "question-answering", "multiple-choice", "replaced-token-detection", or "feature-extraction" or
            "sentence-similarity" for the encoder alone. It decides the class of the model.
        precision: "fp32"; "bf16"; "int8", 8-bit weights and activations in the encoder's wide linear layers, on a CPU
            and for inference alone; or "auto", fp32 (on a GPU, half precision
            stays as stored). `convbert doctor` says what this machine gains.
        device: None takes the GPU where there is one.

    Returns:
        A `ConvBertFor...` of the task, or a `ConvBertModel`.

    Raises:
        InputError: an unknown task; a source that is missing, damaged or was not trained for the task; a precision or a
            device that cannot be used here, with the reason.
    """
    name = find_task(task)
    place = find_device(device)
    check_precision(precision, place)
    model = load_filled(TASKS[name].model, find_model(default_source(name, source)), dtype="auto")
    set_precision(model, precision, place)
    return model.to(place).eval()


def default_source(task: str, source: PathLike | None) -> PathLike:
    """What the caller said, or the embedded model that can do the task, a key of `TASKS`."""
    found = TASKS[task].embedded if source is None else source
    if found is None:
        raise InputError(
            f"{task} needs a model that was fine-tuned for it: give a folder or a name on the Hub"
        )
    return found


def find_model(source: PathLike | None) -> str:
    """The folder (or name on the Hub) behind what the caller said; None and "embedded" are the embedded mask filler,
    "embedded-sentences" is the embedded encoder of sentences.

    Raises:
        InputError: it can only be a folder, and there is none with a model in it. A name on the Hub has one slash, and
            not in front.
    """
    name = "embedded" if source is None else os.fspath(source)
    if name in embedded.NAMES:
        return str(embedded.folder(name))
    if os.path.isfile(name):
        raise InputError(f"{name}: is a file; give the folder that holds it")
    is_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or (os.sep != "/" and os.sep in name)
    if not os.path.isdir(name):
        if is_path:
            raise InputError(f"{name}: there is no such folder")
        if "/" not in name:
            raise InputError(
                f"{name}: there is no such folder; a name on the Hub has an owner, as in owner/{name}"
            )
    elif not os.path.isfile(os.path.join(name, "config.json")):
        places = (os.path.join(name, part) for part in ("model", "generator"))
        inside = [place for place in places if os.path.isfile(os.path.join(place, "config.json"))]
        hint = f"; {' and '.join(inside)} can be meant" if inside else ""
        raise InputError(f"{name}: holds no model: there is no config.json{hint}")
    check_hub(name)
    return name


def load_filled(
    model_class: type[ConvBertPreTrainedModel],
    source: str,
    config: ConvBertConfig | None = None,
    *,
    dtype: torch.dtype | str = torch.float32,
    optional_head: bool = False,
) -> Any:
    """Load a model, on the CPU, and refuse weights that leave a part of it random; with `optional_head`, of the
    encoder alone.
    """
    if os.path.isdir(source):
        check_sizes(Path(source), ConvBertConfig.from_pretrained(source))
    options: dict[str, Any] = {} if config is None else {"config": config}
    with quiet_loading():
        model, report = model_class.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, dtype=dtype, **options
        )
    needed = f"{model_class.base_model_prefix}." if optional_head else ""
    for key, stored, wanted in sorted(report["mismatched_keys"]):
        if key.startswith(needed):
            raise InputError(
                f"{source}: config.json and the weights do not belong together: {key} is {tuple(stored)}, "
                f"and the configuration says {tuple(wanted)}"
            )
    if missing := sorted(key for key in report["missing_keys"] if key.startswith(needed)):
        task = next((name for name, task in TASKS.items() if task.model is model_class), "this")
        raise InputError(
            f"{source}: was not trained for {task}: a {model_class.__name__} needs {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}, which are not among its weights"
        )
    return ready(model, source)


def ready(model: ConvBertPreTrainedModel, source: object) -> ConvBertPreTrainedModel:
    """The model, without the switches of its configuration that ask for more than answers; an `InputError` where a
    weight is NaN or infinite.
    """
    config = model.config
    config.output_attentions = config.output_hidden_states = False
    config.return_dict = True
    for name, weight in model.named_parameters():
        # A sum costs little, but can overflow.
        if not weight.sum().isfinite() and not weight.isfinite().all():
            raise InputError(
                f"{source}: {name} holds NaN or infinity: the model is damaged, or its training failed"
            )
    return model


def unwrap(model: nn.Module) -> ConvBertPreTrainedModel:
    """The model behind `torch.compile`, `DataParallel` and adapters of peft, which stay part of it. Refuses what is no
    ConvBERT, and adapters that are a prompt, which the model alone does not read.
    """
    while not isinstance(model, ConvBertPreTrainedModel):
        inner = compiled_from(model) or getattr(model, "module", None)
        if inner is None and hasattr(model, "peft_config"):
            if any(config.is_prompt_learning for config in model.peft_config.values()):  # type: ignore[operator]
                raise InputError(
                    "a model with a learned prompt cannot be run here: merge it, or use transformers"
                )
            inner = model.get_base_model()  # type: ignore[operator]
        if not isinstance(inner, nn.Module):
            raise InputError(f"a ConvBERT model is needed, got a {type(model).__name__}")
        model = inner
    return model


def find_task(task: str) -> str:
    """The key of `TASKS`; an `InputError` lists those that there are."""
    name = ALIASES.get(task, task)
    if name not in TASKS:
        raise InputError(f"there is no task {task!r}; there are {', '.join([*TASKS, *ALIASES])}")
    return name


def find_device(device: Device) -> torch.device:
    """The device, or for None the GPU where there is one; an `InputError` says why PyTorch cannot use it here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(device, int) and device < 0:
        return torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
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
