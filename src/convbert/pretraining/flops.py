"""Floating-point operations of a model, in closed form from its configuration.

Counted is every product of matrices and both convolutions, a multiplication with its addition as 2; not counted is
what goes element by element: norms, softmax, activations, dropout, additions, look-ups. Only what the model needs is
counted: the vocabulary head, and the second half of the last layer below it, at the masked positions alone. So are
model-FLOPs meant (Chowdhery et al. 2022, PaLM, appendix B): work that a way of computing repeats is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from convbert.configuration import ConvBertConfig

Flops = dict[str, float]
"""Name of a part to its operations."""

TRAINING = 3
"""A training step takes so many forward passes: each product has two in the backward, one for either factor."""


def encoder_flops(config: ConvBertConfig, length: float, kept: float | None = None) -> Flops:
    """A forward pass of the encoder over one sequence.

    Args:
        length: tokens T of the sequence; a mean gives a good mean, as only attention grows faster than T.
        kept: positions whose last states are wanted, see `positions_to_keep` of `ConvBertModel`; None is all.
    """
    width, inner = config.hidden_size, config.num_kept_heads * config.head_size
    taps, layers = config.conv_kernel_size, config.num_hidden_layers
    finished = (layers - 1) * length + (length if kept is None else kept) if layers else 0
    span = width * taps + width * inner + inner * config.num_kept_heads * taps + inner * taps
    projects = config.embedding_size != width
    return {
        "embedding projection": 2 * length * config.embedding_size * width * projects,
        "query, key, value": 2 * layers * length * 3 * width * inner,
        "attention": 2 * layers * length * 2 * length * inner,
        "span convolution": 2 * layers * length * (width * inner + span),
        "output of both": 2 * finished * 2 * inner * width,
        "feed-forward": 2 * finished * 2 * width * config.intermediate_size / config.num_groups,
    }


def masked_lm_flops(config: ConvBertConfig, length: float, masked: float) -> Flops:
    """A forward pass of `ConvBertForMaskedLM` over one sequence of `length` tokens, `masked` of them predicted."""
    transform, table = config.hidden_size * config.embedding_size, config.embedding_size * config.vocab_size
    return encoder_flops(config, length, masked) | {"vocabulary": 2 * masked * (transform + table)}


def discriminator_flops(config: ConvBertConfig, length: float) -> Flops:
    """A forward pass of `ConvBertForPreTraining` over one sequence of `length` tokens."""
    head = config.hidden_size**2 + config.hidden_size
    return encoder_flops(config, length) | {"judgement": 2 * length * head}


def training_flops(objective: nn.Module, length: float, masked: float) -> Flops:
    """Training on one sequence: `TRAINING` forward passes of each model of the objective.

    Args:
        objective: with a `generator` (or none that computes) and a `discriminator`, or with one `model`.
        length: tokens of the sequence.
        masked: of them, predicted ones.

    Returns:
        The parts of a lone model under their names, else with the model before them: "generator: attention".
    """
    models = _models(objective)
    forward = {
        name: discriminator_flops(model.config, length)
        if name == "discriminator"
        else masked_lm_flops(model.config, length, masked)
        for name, model in models.items()
    }
    if len(models) == 1 and "model" in models:
        return _times(TRAINING, forward["model"])
    return {
        f"{name}: {part}": TRAINING * value
        for name, parts in forward.items()
        for part, value in parts.items()
    }


@dataclass(frozen=True)
class StepCost:
    """What one optimizer step takes, on all processes together.

    Args:
        tokens: special ones included.
        parts: floating-point operations, see `training_flops`.
    """

    tokens: float
    parts: Flops

    @property
    def flops(self) -> float:
        """All parts together."""
        return sum(self.parts.values())


def step_cost(objective: nn.Module, *, sequences: int, length: float, mask_prob: float) -> StepCost:
    """The cost of a step on `sequences` sequences with a mean of `length` tokens, `[CLS]` and `[SEP]` included."""
    masked = max(1.0, mask_prob * length)
    return StepCost(sequences * length, _times(sequences, training_flops(objective, length, masked)))


def parameter_counts(objective: nn.Module) -> dict[str, int]:
    """Parameters of each model of an objective, `shared`, counted in two of them, and `together`, each once."""
    counts = {
        name: sum(parameter.numel() for parameter in model.parameters())
        for name, model in _models(objective).items()
    }
    together = sum(parameter.numel() for parameter in objective.parameters())
    return counts | {"shared": sum(counts.values()) - together, "together": together}


def _models(objective: nn.Module) -> dict[str, Any]:
    """The models of an objective that compute something, by name."""
    found = {name: getattr(objective, name, None) for name in ("generator", "discriminator", "model")}
    return {name: model for name, model in found.items() if model is not None}


def _times(factor: float, parts: Flops) -> Flops:
    return {name: factor * value for name, value in parts.items()}
