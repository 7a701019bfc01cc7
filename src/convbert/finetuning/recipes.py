"""The plan of a fine-tuning run: the original's recipe, by model size and task. Any field can be overridden.

Models of fewer layers than the paper's (12) are ours, and pre-trained briefly: every layer of them has to learn, so
they have no layer-wise decay. For the embedded model on SST-2 that is worth several points (docs/finetuning.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from convbert.finetuning.tasks import Task
from convbert.util.errors import InputError
from convbert.util.settings import Settings, settings

if TYPE_CHECKING:
    from convbert.configuration import ConvBertConfig

_BASE_WIDTH = 768
_PAPER_LAYERS = 12

_FromZero = Annotated[int, Field(ge=0, lt=2**31)]
_FromOne = Annotated[int, Field(ge=1, lt=2**31)]
_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(ge=0, lt=1)]


@settings
class FinetuningPlan(Settings):
    """Everything that decides a run, except the data and the model. The defaults are those of the original's
    `configure_finetuning.py`.
    """

    # -- optimizer
    learning_rate: _Positive = 3e-4
    """The peak, of the head; by default 3e-4 below the width of base, 1e-4 from there on."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Each layer's learning rate as a share of that of the layer above; by default 1 below 12 layers."""
    warmup_fraction: _Share = 0.1
    """Share of the steps in which the rate rises; over the whole run it decays to zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of AdamW; norms and biases are not decayed."""
    adam_beta1: _Share = 0.9
    """Of AdamW."""
    adam_beta2: _Share = 0.999
    """Of AdamW."""
    adam_epsilon: _Positive = 1e-6
    """Of AdamW."""
    max_grad_norm: _Positive = 1.0
    """Gradients are clipped to this norm."""
    # -- data
    epochs: _Positive = 3.0
    """Passes over the training data."""
    batch_size: _FromOne = 32
    """Examples in an optimizer step, on average, over all processes."""
    batching: Literal["tokens", "examples"] = "tokens"
    """"tokens" batches examples of similar length, about as many tokens each; "examples" takes them as they come."""
    max_length: Annotated[int, Field(ge=4, lt=2**31)] = 128
    """Tokens of an example, or of a window on it; to learn to classify, texts are cut."""
    long: Literal["windows", "cut", "refuse"] = "windows"
    """Longer texts, when the model answers: "windows" reads all of them, "cut" their beginning, "refuse" neither."""
    stride: _FromOne = 128
    """Tokens by which the window on a context moves on."""
    max_question_length: _FromOne = 64
    """Tokens of a question."""
    max_answer_length: _FromOne = 30
    """Tokens of an answer."""
    no_answer_threshold: float = 0.0
    """SQuAD 2: a question stays unanswered where "no answer" beats the best span by more; set on eval data."""
    both_orders: bool = False
    """Train on pairs in both orders."""
    # -- model
    head: Literal["two-layer", "linear"] = "two-layer"
    """"two-layer" is transformers' head, "linear" the original's: dropout and one layer, stored as the other."""
    dropout: _Share | None = 0.1
    """Of the whole model in training; null leaves what its configuration says."""
    lora_rank: _FromZero = 0
    """Above 0, low-rank adapters of this rank are trained in place of the encoder."""
    lora_alpha: _Positive = 16.0
    """Adapters are scaled by lora_alpha / lora_rank."""
    # -- run
    evaluations_per_epoch: _FromOne = 1
    """How often the eval data is scored; the best of these models is kept."""
    patience: _FromOne | None = None
    """Evaluations without a better score after which a run ends early; null never."""
    max_steps: _FromOne | None = None
    """Ends a run early, with a learning rate still scheduled over all epochs."""
    bf16: bool | Literal["auto"] = "auto"
    """Autocast to bfloat16; "auto" on a GPU that multiplies it."""
    log_every: _FromOne = 20
    """Optimizer steps between two entries of the log."""
    seed: _FromZero = 0
    """Of a new head, the order of the data and dropout."""


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
