"""Finished plans for pre-training, and the type that holds one. Any field can be overridden by name."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from convbert.configuration import ConvBertConfig
from convbert.pretraining.data import Packing
from convbert.pretraining.masking import Masking
from convbert.pretraining.replaced_token import generator_config
from convbert.util.errors import InputError

_SIZES = ("small", "medium_small", "base")
# Shares of masked positions that show [MASK] and a random token.
_SHOWN = {"rtd": (0.85, 0.0), "mlm": (0.8, 0.1)}
_MASKED = ("masked_loss", "masked_accuracy")
_REPLACED = tuple(f"replaced_{what}" for what in ("loss", "accuracy", "precision", "recall", "auc"))
# What objectives measure on held-out text.
_FIGURES = {"rtd": (*_MASKED, "sampled_accuracy", *_REPLACED), "mlm": _MASKED}


@dataclass(frozen=True, kw_only=True)
class PretrainingPlan:
    """Everything that decides a pre-training run, except the corpus.

    Args:
        name: of the recipe, for the model card.
        objective: "rtd", replaced token detection; or "mlm", masked language modelling.
        size: published size that the model starts from: "small", "medium_small" or "base".
        model: fields of `ConvBertConfig` that differ from it; `vocab_size` comes from the tokenizer.
        vocab_size, min_frequency, limit_alphabet: see `train_wordpiece`; unused with a given tokenizer.
        lowercase, keep_accents: likewise, but refused with a given tokenizer, which has decided it.
        sequence_length, min_sequence_length, segments, cross_documents: see `Packing`.
        mask_prob, whole_words: see `Masking`.
        mask_token_prob, random_token_prob: likewise; None stands for the objective's own, 0.85 and 0 with "rtd", 0.8
            and 0.1 with "mlm".
        start_from: a model whose weights the run begins with, in place of random ones: a folder, a name on the Hub, or
            "embedded". Its vocabulary is the run's, and its architecture must be the plan's.
        start_generator_from: likewise, for the generator.
        generator_hidden_size, generator_layers: of "rtd", as fractions of the discriminator's; see
            `generator_config`.
        untied_generator_embeddings: the generator has embeddings of its own.
        uniform_generator: there is no generator: replacements are drawn from the vocabulary, all equally likely.
        temperature, disallow_correct, generator_weight, discriminator_weight: see `ReplacedTokenDetection`.
        batch_size: sequences per process and micro-batch.
        gradient_accumulation_steps: micro-batches per optimizer step.
        learning_rate: the peak; reached after `warmup_steps`, decayed linearly to zero over the whole run.
        weight_decay, adam_beta1, adam_beta2, adam_epsilon: of AdamW; norms and biases are not decayed.
        bias_correction: of AdamW's moments. The original has none.
        max_grad_norm: gradients are clipped to this norm.
        max_steps, max_minutes: length of the run in optimizer steps, or in minutes of time, evaluations
            included; exactly one is given. A run by minutes is not reproducible to the digit.
        bf16: autocast to bfloat16; "auto" where the hardware multiplies it.
        compile: run the model through `torch.compile`.
        fsdp: shard parameters, gradients and optimizer over the processes, which need GPUs.
        dataloader_workers: processes that prepare batches; None chooses, see `training_arguments`.
        max_skipped_steps: a step whose loss or gradient is not finite changes nothing; so many in a row end the run.
        gradient_checkpointing: keep only each layer's input and compute the rest again when it is needed: less
            memory, about a third more time.
        log_every, evaluate_every, save_every: intervals in optimizer steps.
        keep_checkpoints: so many, the newest, are kept.
        best_figure: of the held-out text, as "masked_loss"; the checkpoint where it is best is kept, too, and becomes
            the model when the run has finished.
        report_to: "tensorboard", or another of transformers' integrations.
        seed: of initial weights, data order and training masks.
        heldout_seed: of the masks of held-out text, which are the same at every evaluation.
    """

    name: str
    objective: str = "rtd"
    size: str = "small"
    model: dict[str, Any] = field(default_factory=dict)
    vocab_size: int = 30522
    lowercase: bool | None = None
    keep_accents: bool | None = None
    min_frequency: int = 2
    limit_alphabet: int | None = None
    sequence_length: int = 128
    min_sequence_length: int = 16
    segments: str = "one"
    cross_documents: bool = False
    mask_prob: float = 0.15
    mask_token_prob: float | None = None
    random_token_prob: float | None = None
    whole_words: bool = False
    start_from: str | None = None
    start_generator_from: str | None = None
    generator_hidden_size: float = 0.25
    generator_layers: float = 1.0
    untied_generator_embeddings: bool = False
    uniform_generator: bool = False
    temperature: float = 1.0
    disallow_correct: bool = False
    generator_weight: float = 1.0
    discriminator_weight: float = 50.0
    batch_size: int = 128
    gradient_accumulation_steps: int = 1
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-6
    bias_correction: bool = False
    max_grad_norm: float = 1.0
    warmup_steps: int = 10_000
    max_steps: int | None = None
    max_minutes: float | None = None
    bf16: bool | str = "auto"
    compile: bool = False
    fsdp: bool = False
    dataloader_workers: int | None = None
    max_skipped_steps: int = 20
    gradient_checkpointing: bool = False
    log_every: int = 50
    evaluate_every: int = 1000
    save_every: int = 1000
    keep_checkpoints: int = 2
    best_figure: str | None = None
    report_to: str | None = None
    seed: int = 0
    heldout_seed: int = 1

    def __post_init__(self) -> None:
        if self.objective not in _SHOWN:
            raise InputError(f"objective must be 'rtd' or 'mlm', got {self.objective!r}")
        if self.size not in _SIZES:
            raise InputError(f"size must be one of {', '.join(_SIZES)}; got {self.size!r}")
        if (self.max_steps is None) == (self.max_minutes is None):
            raise InputError(
                "give either max_steps or max_minutes, "
                f"got max_steps={self.max_steps} and max_minutes={self.max_minutes}"
            )
        if self.bf16 not in (True, False, "auto"):
            raise InputError(f"bf16 must be True, False or 'auto', got {self.bf16!r}")
        for name in ("lowercase", "keep_accents"):
            if getattr(self, name) not in (True, False, None):
                raise InputError(f"{name} must be True, False or None, got {getattr(self, name)!r}")
        if self.start_generator_from is not None and (self.objective != "rtd" or self.uniform_generator):
            raise InputError("start_generator_from is given, and this plan has no generator")
        if self.best_figure not in (None, *_FIGURES[self.objective]):
            told = ", ".join(_FIGURES[self.objective])
            raise InputError(f"best_figure must be one of {told}; got {self.best_figure!r}")
        self._check_ranges()
        self._check_model()

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
        return generator_config(
            config,
            self.generator_hidden_size,
            self.generator_layers,
            own_embeddings=self.untied_generator_embeddings,
        )

    def override(self, **changes: Any) -> PretrainingPlan:
        """A copy with some fields changed; fields of `ConvBertConfig` are recognised by their names, too.

        Giving one of `max_steps` and `max_minutes` takes the place of the other. A value of None is no
        change.

        Raises:
            InputError: a name belongs to neither, or a value is out of range.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        own = {name: value for name, value in changes.items() if name in _PLAN_FIELDS}
        model = {name: value for name, value in changes.items() if name not in _PLAN_FIELDS}
        if unknown := sorted(set(model) - _MODEL_FIELDS):
            raise InputError(f"neither the plan nor the model has a field named {', '.join(unknown)}")
        own["model"] = {**self.model, **own.get("model", {}), **model}
        if "max_minutes" in own and "max_steps" not in own:
            own["max_steps"] = None
        elif "max_steps" in own and "max_minutes" not in own:
            own["max_minutes"] = None
        return dataclasses.replace(self, **own)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, with everything that was left to the objective filled in."""
        masking = self.masking
        shown = {
            "mask_token_prob": masking.mask_token_prob,
            "random_token_prob": masking.random_token_prob,
        }
        return dataclasses.asdict(self) | shown

    def _check_ranges(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, got {value!r}")
        for name in (
            *("vocab_size", "batch_size", "gradient_accumulation_steps"),
            *("log_every", "evaluate_every", "save_every", "keep_checkpoints", "max_skipped_steps"),
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            *("max_steps", "max_minutes", "learning_rate", "max_grad_norm"),
            *("temperature", "generator_hidden_size", "generator_layers"),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise InputError(f"{name} must be a number above 0, got {value!r}")
        workers = self.dataloader_workers
        if workers is not None and not (isinstance(workers, int) and workers >= 0):
            raise InputError(f"dataloader_workers must be a number of processes, got {workers!r}")
        if self.max_steps is not None and not isinstance(self.max_steps, int):
            raise InputError(f"max_steps must be a whole number, got {self.max_steps!r}")
        for name in (
            *("warmup_steps", "weight_decay", "adam_epsilon", "seed", "heldout_seed"),
            *("generator_weight", "discriminator_weight"),
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a number and not negative, got {getattr(self, name)}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")

    def _check_model(self) -> None:
        """Build what the fields describe, so that a contradiction shows before any work is done."""
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


_UNDECIDED = {"lowercase": (True,), "keep_accents": (None,), "limit_alphabet": (100, 300, 1000)}


def as_begun(stored: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Settings of a vocabulary as they were noted, comparable with those that are wanted now.

    Earlier versions had fixed defaults where None now leaves a choice to the text. What they learned by them is kept.
    """
    if "keep_accents" in stored or "lowercase" not in stored:
        return stored
    kept = {
        name: None
        for name, defaults in _UNDECIDED.items()
        if wanted.get(name) is None and stored.get(name) in defaults
    }
    return {**stored, **kept}


_PLAN_FIELDS = {plan_field.name for plan_field in dataclasses.fields(PretrainingPlan)}
_MODEL_FIELDS = {plan_field.name for plan_field in dataclasses.fields(ConvBertConfig)} - {"vocab_size"}


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
    """The plan of that name, with fields overridden.

    Raises:
        InputError: there is no such recipe; the message lists them.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe named {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name](**overrides)
