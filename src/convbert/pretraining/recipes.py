"""Finished plans for pre-training, and the type that holds one. Any field can be overridden by name."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field

from convbert.configuration import ConvBertConfig
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.masking import Masking
from convbert.pretraining.objectives import generator_config
from convbert.util.errors import InputError
from convbert.util.settings import Settings, settings

# Shares of masked positions that show [MASK] and a random token.
_SHOWN = {"rtd": (0.85, 0.0), "mlm": (0.8, 0.1)}
_MASKED = ("masked_loss", "masked_accuracy")
_REPLACED = tuple(f"replaced_{what}" for what in ("loss", "accuracy", "precision", "recall", "auc"))
# What objectives measure on held-out text.
_METRICS = {"rtd": (*_MASKED, "sampled_accuracy", *_REPLACED), "mlm": _MASKED}

_FromZero = Annotated[int, Field(ge=0)]
_FromOne = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, lt=1)]


@settings
class PretrainingPlan(Settings):
    """Everything that decides a pre-training run, except the corpus."""

    name: str
    """Of the recipe, for the model card."""

    # -- model
    objective: Literal["rtd", "mlm"] = "rtd"
    """"rtd", replaced token detection; or "mlm", masked language modelling."""
    size: Literal["small", "medium_small", "base"] = "small"
    """Published size that the model is derived from."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Fields of `ConvBertConfig` that differ from it; `vocab_size` comes from the tokenizer."""
    start_from: str | None = None
    """A model whose weights the run begins with, in place of random ones: a folder, a name on the Hub, or "embedded".
    Its vocabulary is the run's, and its architecture must be the plan's."""
    start_generator_from: str | None = None
    """Likewise, for the generator."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input and compute the rest again when it is needed: less memory, about a third more
    time."""

    # -- vocabulary and data
    vocab_size: _FromOne = 30522
    """Tokens of a vocabulary that is learned; this and the next two are unused with a given tokenizer."""
    min_frequency: _FromOne = 2
    """A pair of pieces seen less often is not joined."""
    limit_alphabet: _FromOne | None = None
    """Distinct characters kept, at most."""
    lowercase: bool | None = None
    """Fold case in a vocabulary that is learned; null lets the text decide. Refused with a given tokenizer."""
    keep_accents: bool | None = None
    """Likewise, keep accents and vowel signs."""
    sequence_length: int = 128
    """Tokens in a full sequence, special tokens included."""
    min_sequence_length: int = 16
    """Shorter rests of documents are dropped."""
    segments: str = "one"
    """"one" or "two", the original's sentence pairs; see `Packing`."""
    cross_documents: bool = False
    """Sequences go on into the next document."""

    # -- masking
    mask_prob: float = 0.15
    """Share of the tokens that are predicted; see `Masking`."""
    mask_token_prob: float | None = None
    """Of those, the share that shows [MASK]; null stands for the objective's own, 0.85 with "rtd", 0.8 with "mlm"."""
    random_token_prob: float | None = None
    """Of those, the share that shows a random token; null stands for 0 with "rtd", 0.1 with "mlm"."""
    whole_words: bool = False
    """Predict all pieces of a word or none."""

    # -- generator, of "rtd"
    generator_hidden_size: _Positive = 0.25
    """Width and heads of the generator, as a fraction of the discriminator's."""
    generator_layers: _Positive = 1.0
    """Layers of the generator, likewise."""
    generator_weight: _NotNegative = 1.0
    """Of the generator's loss."""
    discriminator_weight: _NotNegative = 50.0
    """Of the discriminator's loss."""

    # -- optimizer
    batch_size: _FromOne = 128
    """Sequences per process and micro-batch."""
    gradient_accumulation_steps: _FromOne = 1
    """Micro-batches per optimizer step."""
    learning_rate: _Positive = 3e-4
    """The peak; reached after `warmup_steps`, decayed linearly to zero over the whole run."""
    warmup_steps: _FromZero = 10_000
    """Optimizer steps in which the learning rate rises."""
    weight_decay: _NotNegative = 0.01
    """Of AdamW; norms and biases are not decayed."""
    adam_beta1: _Share = 0.9
    """Of AdamW."""
    adam_beta2: _Share = 0.999
    """Of AdamW."""
    adam_epsilon: _NotNegative = 1e-6
    """Of AdamW."""
    bias_correction: bool = False
    """Of AdamW's moments. The original has none."""
    max_grad_norm: _Positive = 1.0
    """Gradients are clipped to this norm."""

    # -- run
    max_steps: _FromOne | None = None
    """Length of the run in optimizer steps; either this or `max_minutes` is given."""
    max_minutes: _Positive | None = None
    """Length of the run in minutes, evaluations included. Such a run is not reproducible to the digit."""
    bf16: bool | Literal["auto"] = "auto"
    """Autocast to bfloat16; "auto" where the hardware multiplies it."""
    compile: bool = False
    """Run the model through `torch.compile`."""
    fsdp: bool = False
    """Shard parameters, gradients and optimizer over the processes, which need GPUs."""
    dataloader_workers: _FromZero | None = None
    """Processes that prepare batches; null chooses, see `training_arguments`."""
    max_skipped_steps: _FromOne = 20
    """A step whose loss or gradient is not finite changes nothing; so many in a row end the run."""
    log_every: _FromOne = 50
    """Optimizer steps between entries of the log."""
    evaluate_every: _FromOne = 1000
    """Optimizer steps between evaluations on held-out text."""
    save_every: _FromOne = 1000
    """Optimizer steps between checkpoints."""
    keep_checkpoints: _FromOne = 2
    """So many, the newest, are kept."""
    best_figure: str | None = None
    """A metric of the held-out text, as "masked_loss"; the checkpoint where it is best is kept, too, and becomes the
    model when the run has finished."""
    report_to: str | None = None
    """"tensorboard", or another of transformers' integrations."""
    seed: _FromZero = 0
    """Of initial weights, data order and training masks."""
    heldout_seed: _FromZero = 1
    """Of the masks of held-out text, which are the same at every evaluation."""

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.max_minutes is None):
            raise InputError(
                "give either max_steps or max_minutes, "
                f"got max_steps={self.max_steps} and max_minutes={self.max_minutes}"
            )
        if self.start_generator_from is not None and self.objective != "rtd":
            raise InputError("start_generator_from is given, and this plan has no generator")
        if self.best_figure not in (None, *_METRICS[self.objective]):
            names = ", ".join(_METRICS[self.objective])
            raise InputError(f"best_figure must be one of {names}; got {self.best_figure!r}")
        # Build what the fields describe, so that a contradiction shows before any work is done.
        _ = self.masking, self.packing
        config = self.model_config(self.vocab_size)
        config.check_sizes()
        if self.objective == "rtd":
            self.generator_config(config)
        if self.sequence_length > config.max_position_embeddings:
            raise InputError(
                f"sequence_length ({self.sequence_length}) exceeds the model's max_position_embeddings "
                f"({config.max_position_embeddings})"
            )

    @property
    def masking(self) -> Masking:
        masked, random = _SHOWN[self.objective]
        return Masking(
            self.mask_prob,
            mask_token_prob=masked if self.mask_token_prob is None else self.mask_token_prob,
            random_token_prob=random if self.random_token_prob is None else self.random_token_prob,
            whole_words=self.whole_words,
        )

    @property
    def packing(self) -> Packing:
        return Packing(self.sequence_length, self.min_sequence_length, self.segments, self.cross_documents)

    def model_config(self, vocab_size: int, pad_token_id: int = 0) -> ConvBertConfig:
        """The model's configuration for a tokenizer of `vocab_size` entries."""
        fields = {"pad_token_id": pad_token_id, **self.model, "vocab_size": vocab_size}
        return getattr(ConvBertConfig, self.size)(**fields)

    def generator_config(self, config: ConvBertConfig) -> ConvBertConfig:
        """The configuration of the generator beside a discriminator of configuration `config`."""
        return generator_config(config, self.generator_hidden_size, self.generator_layers)

    def override(self, **changes: Any) -> PretrainingPlan:
        """A copy with some fields changed; fields of `ConvBertConfig` are recognised by their names, too.

        Giving one of `max_steps` and `max_minutes` takes the place of the other. A value of None is no change.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        own = {name: value for name, value in changes.items() if name in _PLAN_FIELDS}
        model = {name: value for name, value in changes.items() if name not in _PLAN_FIELDS}
        if unknown := sorted(set(model) - _MODEL_FIELDS):
            raise InputError(f"neither the plan nor the model has a field named {', '.join(unknown)}")
        own["model"] = {**self.model, **own.get("model", {}), **model}
        if "start_from" in own:  # whose vocabulary is the run's, whatever the recipe would learn
            own = {"lowercase": None, "keep_accents": None, **own}
        if "max_minutes" in own and "max_steps" not in own:
            own["max_steps"] = None
        elif "max_steps" in own and "max_minutes" not in own:
            own["max_minutes"] = None
        return super().override(**own)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, with everything that was left to the objective filled in."""
        masking = self.masking
        shown = {
            "mask_token_prob": masking.mask_token_prob,
            "random_token_prob": masking.random_token_prob,
        }
        return super().to_dict() | shown


_PLAN_FIELDS = {field.name for field in dataclasses.fields(PretrainingPlan)}
_MODEL_FIELDS = {field.name for field in dataclasses.fields(ConvBertConfig)} - {"vocab_size"}


def smoke(**overrides: Any) -> PretrainingPlan:
    """A run of seconds with a tiny model: shows that everything works, and learns next to nothing."""
    plan = PretrainingPlan(
        name="smoke",
        model={
            "embedding_size": 32,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
        },
        vocab_size=500,
        limit_alphabet=100,  # so that any text, Chinese as well, finds room in 500 rows
        sequence_length=32,
        min_sequence_length=4,
        batch_size=8,
        learning_rate=1e-3,
        warmup_steps=5,
        max_steps=20,
        log_every=5,
        evaluate_every=10,
        save_every=10,
    )
    return plan.override(**overrides)


def tiny(**overrides: Any) -> PretrainingPlan:
    """Replaced token detection on a few megabytes of text, in a quarter of an hour on a laptop: it does learn.

    Of a width that little text can fill; with what short runs want in place of the original's choices: bias correction,
    a shorter memory of squared gradients, no dropout, a generator of half the width.
    """
    plan = PretrainingPlan(
        name="tiny",
        model={
            "embedding_size": 64,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        vocab_size=4096,
        generator_hidden_size=0.5,
        batch_size=8,
        learning_rate=1e-3,
        adam_beta2=0.98,
        bias_correction=True,
        warmup_steps=400,
        max_steps=4000,
        evaluate_every=500,
        save_every=500,
    )
    return plan.override(**overrides)


def embedded(**overrides: Any) -> PretrainingPlan:
    """A small English model that a CPU trains in under two hours; the one in the package was trained twice by it."""
    plan = PretrainingPlan(
        name="embedded",
        objective="mlm",
        model={
            "num_hidden_layers": 6,
            "hidden_dropout_prob": 0.0,  # a model this small underfits: it sees each text once at most
            "attention_probs_dropout_prob": 0.0,
        },
        vocab_size=12_288,
        lowercase=True,
        keep_accents=False,
        limit_alphabet=300,  # what the embedded model was trained with
        batch_size=32,
        mask_prob=0.2,  # more to learn from each text, for a run that is short of time and not of text
        learning_rate=1e-3,
        adam_beta2=0.98,
        bias_correction=True,
        warmup_steps=400,
        max_minutes=100.0,
        evaluate_every=1000,
        save_every=500,
    )
    return plan.override(**overrides)


def small(**overrides: Any) -> PretrainingPlan:
    """ConvBERT-small with the paper's training numbers."""
    plan = PretrainingPlan(name="small", max_steps=1_000_000, evaluate_every=10_000, save_every=5_000)
    return plan.override(**overrides)


def medium_small(**overrides: Any) -> PretrainingPlan:
    """ConvBERT-medium-small with the paper's training numbers."""
    plan = small(name="medium_small", size="medium_small", learning_rate=5e-4)
    return plan.override(**overrides)


def base(**overrides: Any) -> PretrainingPlan:
    """ConvBERT-base with the paper's training numbers."""
    plan = small(name="base", size="base", batch_size=256, learning_rate=2e-4, generator_hidden_size=1 / 3)
    return plan.override(**overrides)


RECIPES = {recipe.__name__: recipe for recipe in (smoke, tiny, embedded, small, medium_small, base)}
"""Name to function, for the command line."""


def recipe(name: str, **overrides: Any) -> PretrainingPlan:
    """The plan of that name, with fields overridden."""
    if name not in RECIPES:
        raise InputError(f"no recipe named {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name](**overrides)
