"""What training takes, from the configuration alone: floating-point operations, parameters, memory.

Of operations, every product of matrices and both convolutions are counted, a multiplication with its addition as 2; not
what goes element by element: norms, softmax, activations, dropout, additions, look-ups. Only what the model needs is
counted: the vocabulary head, and the second half of the last layer below it, at the masked positions alone. So are
model-FLOPs meant (Chowdhery et al. 2022, PaLM, appendix B): work that a way of computing repeats is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from convbert.configuration import ConvBertConfig
from convbert.util.errors import InputError

if TYPE_CHECKING:
    from convbert.pretraining.recipes import PretrainingPlan

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
    """Training on one sequence of `length` tokens, `masked` of them predicted: `TRAINING` forward passes of each model.

    Returns:
        The parts of a lone `model` under their names, else with the model before them: "generator: attention".
    """
    found: Flops = {}
    for name, model in _models(objective).items():
        if name == "discriminator":
            parts = discriminator_flops(model.config, length)
        else:
            parts = masked_lm_flops(model.config, length, masked)
        prefix = "" if name == "model" else f"{name}: "
        found |= {prefix + part: TRAINING * value for part, value in parts.items()}
    return found


@dataclass(frozen=True)
class StepCost:
    """What one optimizer step takes, on all processes together: tokens, special ones included, and operations."""

    tokens: float
    parts: Flops

    @property
    def flops(self) -> float:
        """All parts together."""
        return sum(self.parts.values())


def step_cost(objective: nn.Module, *, sequences: int, length: float, mask_prob: float) -> StepCost:
    """The cost of a step on `sequences` sequences with a mean of `length` tokens, `[CLS]` and `[SEP]` included."""
    parts = training_flops(objective, length, max(1.0, mask_prob * length))
    return StepCost(sequences * length, {name: sequences * value for name, value in parts.items()})


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


# ---------------------------------------------------------------------------------------------- memory

BYTES = 16
"""Of each parameter in fp32: weight, gradient, and AdamW's two moments."""
CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_memory(plan: PretrainingPlan, vocab_size: int) -> None:
    """Refuse models that this machine, its GPUs included, cannot train with a vocabulary of this size.

    Raises:
        InputError: with the sizes, what training takes at least, and what there is.
    """
    config = plan.model_config(vocab_size)
    # At least so much of a micro-batch is kept for its backward pass: the input of each layer.
    kept = 2 * plan.batch_size * plan.min_sequence_length * config.hidden_size * config.num_hidden_layers
    parameters = plan_parameters(plan, config)
    needed, there = BYTES * parameters + kept, machine_memory()
    if needed > there:
        sizes = ("vocab_size", "embedding_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        told = ", ".join(f"{name}={getattr(config, name)}" for name in (*sizes, "max_position_embeddings"))
        raise InputError(
            f"training {parameters / 1e6:,.0f} M parameters ({told}) in batches of {plan.batch_size} takes at least "
            f"{needed / 2**30:,.0f} GiB of memory, and this machine has {there / 2**30:,.0f} GiB"
        )


def plan_parameters(plan: PretrainingPlan, config: ConvBertConfig) -> int:
    """Parameters of all models of a plan, shared ones counted once; `config` is of the model."""
    if plan.objective == "mlm":
        return _embeddings(config) + _layers(config) + _vocabulary_head(config)
    width, generator = config.hidden_size, plan.generator_config(config)
    discriminator = _embeddings(config) + _layers(config) + width * width + width + width + 1
    return discriminator + _layers(generator) + _vocabulary_head(generator)


def machine_memory() -> int:
    """Bytes that this process may use, of the machine or its container, and on its GPUs."""
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    limits = [psutil.virtual_memory().total]
    for file in CGROUPS:
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # not mounted, or "max"
            continue
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return min(limits) + sum(gpu.total_memory for gpu in gpus)


def _embeddings(config: ConvBertConfig) -> int:
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    return (rows + 2) * config.embedding_size


def _layers(config: ConvBertConfig) -> int:
    """Those of the encoder, and the projection before them."""
    width, inner = config.hidden_size, config.num_kept_heads * config.head_size
    taps, kernels = config.conv_kernel_size, config.num_kept_heads * config.conv_kernel_size
    mixed = 3 * (width + 1) * inner  # query, key, value
    mixed += width * taps + (width + 1) * inner  # the separable convolution of the keys
    mixed += (inner + 1) * kernels + (width + 1) * inner  # kernels, and what they are applied to
    feed_forward = 2 * width * config.intermediate_size // config.num_groups
    feed_forward += config.intermediate_size + width
    layer = mixed + (2 * inner + 1) * width + feed_forward + 4 * width
    projection = (config.embedding_size + 1) * width if config.embedding_size != width else 0
    return projection + config.num_hidden_layers * layer


def _vocabulary_head(config: ConvBertConfig) -> int:
    """Its table of words is the embeddings'."""
    return (config.hidden_size + 3) * config.embedding_size + config.vocab_size
