"""The plan of a fine-tuning run: the original's recipe, by model size and task. Any field can be overridden.

Models of fewer layers than the paper's (12) are ours, and pre-trained briefly: every layer of them has to learn, so
they have no layer-wise decay. For the embedded model on SST-2 that is worth several points (docs/finetuning.md).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import inf
from typing import Any

from convbert.configuration import ConvBertConfig
from convbert.errors import InputError
from convbert.finetuning.tasks import Task

_BASE_WIDTH = 768
_PAPER_LAYERS = 12


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
    batching: str = "tokens"
    max_length: int = 128
    stride: int = 128
    max_question_length: int = 64
    max_answer_length: int = 30
    no_answer_threshold: float = 0.0
    both_orders: bool = False
    head: str = "two-layer"
    dropout: float | None = 0.1
    evaluations_per_epoch: int = 1
    patience: int | None = None
    lora_rank: int = 0
    lora_alpha: int = 16
    max_steps: int | None = None
    bf16: bool | str = "auto"
    log_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_grad_norm", "epochs", "adam_epsilon", "lora_alpha"):
            self._check(name, lambda value: 0 < value < inf, "above 0 and finite")
        for name in (
            *("batch_size", "stride", "max_question_length", "max_answer_length"),
            *("evaluations_per_epoch", "log_every"),
        ):
            self._check_whole(name, 1)
        for name in ("seed", "lora_rank"):
            self._check_whole(name, 0)
        self._check_whole("max_length", 4)  # [CLS], [SEP] and [SEP] of a pair, and a token
        self._check("weight_decay", lambda value: 0 <= value < inf, "at least 0 and finite")
        for name in ("warmup_fraction", "adam_beta1", "adam_beta2"):
            self._check(name, lambda value: 0 <= value < 1, "at least 0 and below 1")
        self._check("no_answer_threshold", lambda value: True, "a number")
        self._check("layer_decay", lambda value: 0 < value <= 1, "above 0 and at most 1")
        if self.dropout is not None:
            self._check("dropout", lambda value: 0 <= value < 1, "at least 0 and below 1")
        for name in ("patience", "max_steps"):
            if getattr(self, name) is not None:
                self._check_whole(name, 1)
        if self.batching not in ("tokens", "examples"):
            raise InputError(f"batching must be 'tokens' or 'examples', got {self.batching!r}")
        if self.head not in ("two-layer", "linear"):
            raise InputError(f"head must be 'two-layer' or 'linear', got {self.head!r}")
        if not isinstance(self.both_orders, bool):
            raise InputError(f"both_orders must be true or false, got {self.both_orders!r}")
        if self.bf16 not in (True, False, "auto"):
            raise InputError(f"bf16 must be True, False or 'auto', got {self.bf16!r}")

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

    def _check_whole(self, name: str, lowest: int) -> None:
        self._check(
            name,
            lambda value: isinstance(value, int) and value >= lowest,
            f"a whole number from {lowest}",
        )

    def _check(self, name: str, holds: Any, wanted: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
            raise InputError(f"{name} must be {wanted}, got {value!r}")


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
