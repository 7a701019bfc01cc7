"""Everything that decides a distillation, except the teacher and the texts. Any field can be overridden by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from convbert.util.settings import Settings, settings

_FromOne = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, lt=1)]


@settings
class DistillationPlan(Settings):
    """How a student learns from a teacher."""

    # -- student
    size: Literal["small", "medium_small", "base"] | None = None
    """Published size that a new student is derived from; null: a ConvBERT teacher's own layers, see `layers`, or
    "small"."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Fields of `ConvBertConfig` of a new student that differ from its size."""
    layers: _FromOne | None = None
    """Layers that a student takes over from a ConvBERT teacher, evenly spaced; null: half of them."""
    start_from: str | None = None
    """A model that is the student, with its vocabulary: a folder, a name on the Hub, or "embedded"."""
    token_vectors: bool = True
    """Begin a new student's embeddings with the teacher's vector of each token, as model2vec does; of sentence
    teachers."""

    # -- texts
    max_texts: _FromOne = 1_000_000
    """Texts that are used, at most."""
    paragraph_share: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Of the paragraphs, the share that is learned whole, beside their sentences."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens of a text; longer ones are cut. Of task teachers, their own plan says it."""
    heldout_texts: _FromOne = 1000
    """Texts that are only evaluated on, at most a tenth."""

    # -- loss
    similarity_weight: _NotNegative = 5.0
    """Sentence teachers: of the squared error of the batch's similarities, beside 1 - cosine to the teacher."""
    temperature: _Positive = 2.0
    """Task teachers: both probabilities are softened by it (Hinton et al. 2015)."""
    hidden_weight: _NotNegative = 1.0
    """Task teachers of the student's width: of the squared error of the states after each layer taken over."""

    # -- optimizer
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Texts in an optimizer step, on average."""
    learning_rate: _Positive = 5e-4
    """The peak; reached after `warmup_fraction` of the steps, and decayed linearly to zero."""
    warmup_fraction: _Share = 0.03
    """Of the steps."""
    weight_decay: _NotNegative = 0.01
    """Of AdamW; norms and biases are not decayed."""
    max_grad_norm: _Positive = 1.0
    """Gradients are clipped to this norm."""
    epochs: _Positive = 3.0
    """Passes over the texts."""
    max_steps: _FromOne | None = None
    """The run ends after so many steps, whatever `epochs` says."""
    bf16: bool | Literal["auto"] = False
    """Autocast the student to bfloat16; "auto" where the hardware multiplies it."""
    teacher_bf16: bool | Literal["auto"] = "auto"
    """Likewise, run the teacher in bfloat16."""

    # -- run
    log_every: _FromOne = 50
    """Steps between entries of the log."""
    evaluate_every: _FromOne = 1000
    """Steps between evaluations of the held-out texts."""
    save_every: _FromOne = 500
    """Steps between checkpoints."""
    seed: int = 1
    """Of initial weights and of the order of the texts."""
