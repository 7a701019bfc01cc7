"""Whether a machine can hold what a plan describes, told before any memory is taken: from the configuration alone."""

from __future__ import annotations

from pathlib import Path

import torch

from convbert.configuration import ConvBertConfig
from convbert.pretraining.recipes import PretrainingPlan
from convbert.util.errors import InputError

BYTES = 16
"""Of each parameter in fp32: weight, gradient, and AdamW's two moments."""
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_memory(plan: PretrainingPlan, vocab_size: int) -> None:
    """Refuse models that this machine, its GPUs included, cannot train.

    Args:
        vocab_size: of the run's tokenizer.

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
    """Parameters of all models of a plan, shared ones counted once.

    Args:
        config: of the model, see `PretrainingPlan.model_config`.
    """
    if plan.objective == "mlm":
        return _embeddings(config) + _layers(config) + _vocabulary_head(config)
    width = config.hidden_size
    count = _embeddings(config) + _layers(config) + width * width + width + width + 1
    if plan.uniform_generator:
        return count
    generator = plan.generator_config(config)
    own = _embeddings(generator) if plan.untied_generator_embeddings else 0
    return count + own + _layers(generator) + _vocabulary_head(generator)


def machine_memory() -> int:
    """Bytes that this process may use, of the machine or its container, and on its GPUs."""
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    limits = [psutil.virtual_memory().total]
    for file in _CGROUPS:
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
