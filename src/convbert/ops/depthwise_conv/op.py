"""Depthwise convolution: the public function, and the operator with its gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.ops import compiled
from convbert.ops.backends import Backend, autocast_dtype, is_exported, use_fast
from convbert.ops.depthwise_conv import cpu
from convbert.ops.depthwise_conv.reference import depthwise_conv as reference
from convbert.ops.varlen import VarlenBounds


def depthwise_conv(
    hidden: Tensor,
    weight: Tensor,
    cu_seqlens: Tensor | VarlenBounds | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Convolve each channel with its own filter, within each sequence.

    out[t, c] = sum over k of weight[c, 0, k] * hidden[t + k - K // 2, c], reading zero outside the sequence. A batch
    (B, T) has no bounds: zero its padding first, or real tokens will read it. Under autocast it runs in the lower
    precision, as PyTorch's own convolutions do.

    Args:
        hidden: (B, T, C), or (N, C) with `cu_seqlens`.
        weight: (C, 1, K), the layout of `nn.Conv1d` with `groups=C`. K is odd.
        cu_seqlens: (B + 1,) int32, first entry 0, last entry N.
        backend: "auto", "fast" or "reference".

    Returns:
        Same shape as `hidden`.

    Raises:
        ValueError: shapes that do not belong together, an even K, or bounds that do not cover the tokens.
        RuntimeError: "fast" where no fast form can run, with the reason.
    """
    kernel_size, dimensions = weight.shape[-1], 3 if cu_seqlens is None else 2
    if hidden.dim() != dimensions or weight.shape[:-1] != (hidden.shape[-1], 1):
        raise ValueError(
            f"hidden {tuple(hidden.shape)} must have {dimensions} dimensions, and weight {tuple(weight.shape)} must "
            "be (channels, 1, kernel size)"
        )
    if kernel_size % 2 == 0:
        raise ValueError(f"the kernel size must be odd, got {kernel_size}")
    bounds = VarlenBounds.of(cu_seqlens, hidden.shape[0])
    ends = None if bounds is None else bounds.cu_seqlens
    dtype = autocast_dtype(hidden.device)
    if dtype is not None:
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if ends is None and is_exported():  # one node that every runtime has, for the dozens of the definition
        rows = hidden.transpose(1, 2)
        return F.conv1d(rows, weight, padding=kernel_size // 2, groups=len(weight)).transpose(1, 2)
    if not use_fast(backend, hidden.device, (hidden.dtype, weight.dtype), kernel_size):
        return reference(hidden, weight, ends)
    if compiled.is_direct(hidden, weight):
        return compiled.DirectConvolution.apply(cpu, hidden, weight, bounds)
    return _forward(hidden, weight, ends)


@torch.library.custom_op("convbert::depthwise_conv", mutates_args=(), device_types="cpu")
def _forward(hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return cpu.forward(hidden, weight, VarlenBounds.unchecked(cu_seqlens, hidden.shape[0]))


@torch.library.custom_op("convbert::depthwise_conv_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    return cpu.backward(grad, hidden, weight, VarlenBounds.unchecked(cu_seqlens, hidden.shape[0]))


@_forward.register_kernel("cuda")
def _(hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    from convbert.ops.depthwise_conv import gpu  # needs Triton

    return gpu.forward(hidden, weight, cu_seqlens)


@_backward.register_kernel("cuda")
def _(grad: Tensor, hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    from convbert.ops.depthwise_conv import gpu

    return gpu.backward(grad, hidden, weight, cu_seqlens)


@_forward.register_fake
def _(hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return hidden.new_empty(hidden.shape)


@_backward.register_fake
def _(grad: Tensor, hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad, *ctx.saved_tensors), None


_forward.register_autograd(_gradients, setup_context=_setup_context)
