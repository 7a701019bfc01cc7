"""From a checkpoint to the model that training starts from, and from a fine-tuned folder back to its task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers.utils import cached_file

from convbert.configuration import ConvBertConfig
from convbert.files.atomic import write_json
from convbert.files.damage import translate_errors
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.linear_head import use_linear_head
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import Task
from convbert.inference.loading import load_filled
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel
from convbert.model.heads.sequence_classification import ConvBertForSequenceClassification
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError
from convbert.util.optional import require
from convbert.util.schema import read_json

TASK_FILE = "finetuning.json"
"""Beside the weights: the task and the plan that the model was trained with."""

_PRETRAINED = ("ConvBertModel", "ConvBertForMaskedLM", "ConvBertForPreTraining")


def architecture_of(config: ConvBertConfig) -> str:
    """The class that a configuration names: the one with a head where there are several, the encoder for none."""
    names = config.architectures or ["ConvBertModel"]
    return next((name for name in names if name.startswith("ConvBertFor")), names[0])


def read_config(source: str) -> ConvBertConfig:
    """The model's configuration."""
    with translate_errors(source):
        return ConvBertConfig.from_pretrained(source)


def read_tokenizer(source: str) -> ConvBertTokenizerFast:
    """The model's tokenizer."""
    with translate_errors(source):
        return ConvBertTokenizerFast.from_pretrained(source)


def check_head(config: ConvBertConfig, source: str, adapter: TaskAdapter, new_head: bool) -> bool:
    """Whether the checkpoint's head is for this task, and training goes on with it, in its own order of labels.
    Refuses one that was fine-tuned for something else, unless a `new_head` is wanted.
    """
    if new_head or architecture_of(config) in _PRETRAINED:
        return False
    # The name of a single output says nothing.
    is_number = adapter.task.kind == "regression" and config.num_labels == 1
    remedy = "to train a new head in its place, say --new-head"
    _check_fit(config, source, adapter, () if is_number else adapter.labels, remedy)
    if adapter.labels and not is_number:
        adapter.labels = _labels_of(config)
    return True


def adapter_of_model(task: Task, config: ConvBertConfig, source: str) -> TaskAdapter:
    """The task's adapter, with the labels of a fine-tuned model; an `InputError` where its head is of another kind."""
    adapter = adapter_of(task, _labels_of(config))
    _check_fit(config, source, adapter, task.labels, "fine-tune it first")
    return adapter


def _check_fit(
    config: ConvBertConfig, source: str, adapter: TaskAdapter, labels: Sequence[str], remedy: str
) -> None:
    architecture, task, theirs = architecture_of(config), adapter.task.name, _labels_of(config)
    wanted, problem = adapter.model_class.__name__, adapter.config_changes().get("problem_type")
    difference = ""
    if architecture != wanted:
        difference = f"is a {architecture}, and {task} needs a {wanted}"
    elif labels and set(theirs) != set(labels):
        difference = f"has the labels {', '.join(theirs)}, and {task} has {', '.join(labels)}"
    elif problem and config.problem_type not in (None, problem):
        difference = f"was trained for {config.problem_type}, and {task} is {problem}"
    if difference:
        raise InputError(f"{source}: {difference}; {remedy}")


def _labels_of(config: ConvBertConfig) -> tuple[str, ...]:
    return tuple(config.id2label[number] for number in range(config.num_labels))


def build_model(
    source: str, config: ConvBertConfig, adapter: TaskAdapter, plan: FinetuningPlan, keep_head: bool
) -> ConvBertPreTrainedModel:
    """The checkpoint's encoder with a head for the task: its own, or a fresh one."""
    for name, value in adapter.config_changes().items():
        setattr(config, name, value)
    if plan.dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = plan.dropout
    config.dtype = torch.float32
    if keep_head:
        model = load_filled(adapter.model_class, source, config)
        adapter.rescale(model, to_data=False)
        return model
    model = adapter.model_class(config)
    model.base_model.load_state_dict(load_filled(ConvBertModel, source, config).state_dict())
    if plan.head == "linear" and isinstance(model, ConvBertForSequenceClassification):
        use_linear_head(model)
    return model


def write_task(folder: Path, task: Task, plan: FinetuningPlan) -> None:
    """Note the task beside a model, for `read_task`."""
    write_json(folder / TASK_FILE, {"task": task.to_dict(), "plan": plan.to_dict()})


def read_task(source: str) -> tuple[Task, FinetuningPlan] | None:
    """What `write_task` noted, in a folder or on the Hub; None where the model was made otherwise."""
    try:
        path = cached_file(source, TASK_FILE)
    except OSError:  # neither in the folder, nor on the Hub or in its cache
        return None
    record = read_json(str(path))
    if not isinstance(record, dict):
        raise InputError(f"{source}/{TASK_FILE}: an object is wanted, got {type(record).__name__}")
    task = Task.from_dict(record.get("task"), f"{source}/{TASK_FILE}: task")
    return task, FinetuningPlan.from_dict(record.get("plan"), f"{source}/{TASK_FILE}: plan")


def target_modules(model: ConvBertPreTrainedModel) -> list[str]:
    """Full names of the encoder's dense layers, which low-rank adapters can stand beside; transformers knows none for
    "convbert".

    Grouped feed-forward layers (medium-small) are no `nn.Linear`, and the separable convolution is a depthwise and a
    pointwise `nn.Conv1d`: both stay frozen.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".encoder.layer." in name
    ]


def add_adapters(model: ConvBertPreTrainedModel, plan: FinetuningPlan) -> nn.Module:
    """The model with low-rank adapters of peft beside its dense layers; they and the head are trained."""
    if plan.lora_rank > (width := model.config.hidden_size):
        raise InputError(f"lora_rank ({plan.lora_rank}) exceeds the model's hidden_size ({width})")
    require("lora", "--lora")
    from peft import LoraConfig, get_peft_model

    heads = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    trained = [name for name in heads if any(True for _ in getattr(model, name).parameters())]
    settings = LoraConfig(
        r=plan.lora_rank,
        lora_alpha=plan.lora_alpha,
        lora_dropout=plan.dropout or 0.0,
        target_modules=target_modules(model),
        modules_to_save=trained,
    )
    adapted = get_peft_model(model, settings)
    if not any(parameter.requires_grad for name, parameter in adapted.named_parameters() if "lora_" in name):
        raise InputError("this model has no dense layer that an adapter could stand beside")
    return adapted
