"""The plan of a fine-tuning run: the original's recipe, by model size and task. Any field can be overridden.

Models of fewer layers than the paper's (12) are ours, and pre-trained briefly: every layer of them has to learn, so
they have no layer-wise decay. For the embedded model on SST-2 that is worth several points (docs/finetuning.md).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from convbert.finetuning.tasks import Task
from convbert.util.errors import InputError
from convbert.util.schema import Schema, check

if TYPE_CHECKING:
    from convbert.configuration import ConvBertConfig

_BASE_WIDTH = 768
_PAPER_LAYERS = 12
_Batching = Literal["tokens", "examples"]
_Head = Literal["two-layer", "linear"]
_Switch = bool | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class FinetuningPlan:
    """Everything that decides a run, except the data and the model it starts from.

    The defaults are those of the original's `configure_finetuning.py`.

    Args:
        learning_rate: the peak, of the head; 3e-4 below the width of base, 1e-4 from there on.
        layer_decay: how much slower each layer learns than the one above it, see `layerwise_groups`; 1 below 12 layers.
        warmup_fraction: share of the steps in which the rate rises; over the whole run it decays to zero.
        weight_decay, adam_beta1, adam_beta2, adam_epsilon: of AdamW; norms and biases are not decayed.
        max_grad_norm: gradients are clipped to this norm.
        epochs: passes over the training data.
        batch_size: examples in an optimizer step, on average, over all processes.
        batching: "tokens" puts examples of similar length together, about the same number of tokens in each batch;
            "examples" takes `batch_size` of them as they come.
        max_length: tokens of an example; texts beyond are cut, contexts and sentences are read in windows.
        stride: tokens by which the window on a context moves on.
        max_question_length, max_answer_length: tokens.
        no_answer_threshold: SQuAD 2: a question is left unanswered where "no answer" is preferred to the best span by
            more than this. Training ends with the best one on the dev data, which is stored with the model.
        both_orders: train on pairs in both orders.
        head: of classification and regression: "two-layer", transformers' own, or "linear", the original's dropout and
            one layer, which is stored as the other (see `linear_head`).
        dropout: of the whole model while training; None leaves what its configuration says.
        evaluations_per_epoch: how often the dev data is scored; the best of these models is kept.
        patience: evaluations without a better score after which a run ends early; None never.
        lora_rank: above 0, low-rank adapters are trained in place of the encoder (LoRA).
        lora_alpha: they are scaled by `lora_alpha / lora_rank`.
        max_steps: ends a run early, with the learning rate's schedule still as long as `epochs` say.
        bf16: autocast to bfloat16; "auto" on a GPU that multiplies it.
        log_every: optimizer steps between two entries of the log.
        seed: of the head's start, the order of the data and dropout.
    """

    learning_rate: float = 3e-4
    layer_decay: float = 0.8
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-6
    max_grad_norm: float = 1.0
    epochs: float = 3
    batch_size: int = 32
    batching: _Batching = "tokens"
    max_length: int = 128
    stride: int = 128
    max_question_length: int = 64
    max_answer_length: int = 30
    no_answer_threshold: float = 0.0
    both_orders: bool = False
    head: _Head = "two-layer"
    dropout: float | None = 0.1
    evaluations_per_epoch: int = 1
    patience: int | None = None
    lora_rank: int = 0
    lora_alpha: int = 16
    max_steps: int | None = None
    bf16: _Switch = "auto"
    log_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check(_Fields, self.to_dict(), "recipe")

    @classmethod
    def from_dict(cls, fields: Any, source: object = "recipe") -> FinetuningPlan:
        """The plan that `to_dict` wrote to JSON, in the file `source`.

        Raises:
            InputError: there is no such field, or a value of another type or out of range; the message names it.
        """
        found = check(_Fields, fields, source)
        if unknown := sorted(found.model_extra or ()):
            raise InputError(f"{source}: {unknown[0]}: a recipe has no such field")
        return cls(**found.model_dump())

    def override(self, **changes: Any) -> FinetuningPlan:
        """A copy with some fields changed.

        Raises:
            InputError: there is no such field, or a value is out of range.
        """
        if unknown := sorted(set(changes) - {each.name for each in dataclasses.fields(self)}):
            raise InputError(f"the plan has no field named {', '.join(unknown)}")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return dataclasses.asdict(self)


_FromZero = Annotated[int, Field(ge=0, lt=2**31)]
_FromOne = Annotated[int, Field(ge=1, lt=2**31)]
_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(ge=0, lt=1)]


class _Fields(Schema):
    """Types and ranges of the fields of a plan; its defaults are written there."""

    learning_rate: _Positive = FinetuningPlan.learning_rate
    layer_decay: Annotated[float, Field(gt=0, le=1)] = FinetuningPlan.layer_decay
    warmup_fraction: _Share = FinetuningPlan.warmup_fraction
    weight_decay: Annotated[float, Field(ge=0)] = FinetuningPlan.weight_decay
    adam_beta1: _Share = FinetuningPlan.adam_beta1
    adam_beta2: _Share = FinetuningPlan.adam_beta2
    adam_epsilon: _Positive = FinetuningPlan.adam_epsilon
    max_grad_norm: _Positive = FinetuningPlan.max_grad_norm
    epochs: _Positive = FinetuningPlan.epochs
    batch_size: _FromOne = FinetuningPlan.batch_size
    batching: _Batching = FinetuningPlan.batching
    max_length: Annotated[int, Field(ge=4, lt=2**31)] = FinetuningPlan.max_length
    stride: _FromOne = FinetuningPlan.stride
    max_question_length: _FromOne = FinetuningPlan.max_question_length
    max_answer_length: _FromOne = FinetuningPlan.max_answer_length
    no_answer_threshold: float = FinetuningPlan.no_answer_threshold
    both_orders: bool = FinetuningPlan.both_orders
    head: _Head = FinetuningPlan.head
    dropout: _Share | None = FinetuningPlan.dropout
    evaluations_per_epoch: _FromOne = FinetuningPlan.evaluations_per_epoch
    patience: _FromOne | None = FinetuningPlan.patience
    lora_rank: _FromZero = FinetuningPlan.lora_rank
    lora_alpha: _Positive = FinetuningPlan.lora_alpha
    max_steps: _FromOne | None = FinetuningPlan.max_steps
    bf16: _Switch = FinetuningPlan.bf16
    log_every: _FromOne = FinetuningPlan.log_every
    seed: _FromZero = FinetuningPlan.seed


def recipe(task: Task, config: ConvBertConfig, **overrides: Any) -> FinetuningPlan:
    """The plan for a task and a model, with fields overridden.

    Raises:
        InputError: an unknown field, one that means nothing to this task, or texts of more tokens than the model has
            positions.
    """
    learning_rate = 3e-4 if config.hidden_size < _BASE_WIDTH else 1e-4
    layer_decay = 1.0 if config.num_hidden_layers < _PAPER_LAYERS else 0.8
    plan = FinetuningPlan(learning_rate=learning_rate, layer_decay=layer_decay).override(**task.recipe)
    chosen = plan.override(**overrides)
    if chosen.both_orders and "text_pair" not in task.columns:
        raise InputError(f"both_orders is for pairs of texts, and {task.name} has no column text_pair")
    if chosen.head == "linear" and task.kind not in ("classification", "multi-label", "regression"):
        raise InputError(f"head=linear is for classification and regression, and {task.name} is {task.kind}")
    if chosen.max_length > config.max_position_embeddings:
        if "max_length" in overrides:
            raise InputError(
                f"max_length ({chosen.max_length}) exceeds the model's max_position_embeddings "
                f"({config.max_position_embeddings})"
            )
        chosen = chosen.override(max_length=config.max_position_embeddings)
    return chosen
