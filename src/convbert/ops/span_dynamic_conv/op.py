"""Span-based dynamic convolution: the public function, and the operator with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convbert.ops import compiled
from convbert.ops.backends import Backend, use_fast
from convbert.ops.span_dynamic_conv import cpu
from convbert.ops.span_dynamic_conv.reference import span_dynamic_conv as reference
from convbert.ops.varlen import VarlenBounds


def span_dynamic_conv(
    value: Tensor,
    kernel_logits: Tensor,
    cu_seqlens: Tensor | VarlenBounds | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Mix each token's neighbours with a kernel predicted for that token (paper, section 3.2).

    out[t, h] = sum over k of softmax(kernel_logits[t, h])[k] * value[t + k - K // 2, h]

    What lies outside the token's own sequence counts as zero, and the other weights stay as they are. A batch (B, T)
    has no bounds: zero the padding of `value` first, or real tokens will read it.

    Args:
        value: (B, T, H, D), or (N, H, D) with `cu_seqlens`.
        kernel_logits: (B, T, H, K), or (N, H, K). K is odd; the softmax runs in fp32.
        cu_seqlens: (B + 1,) int32, first entry 0, last entry N.
        backend: "auto", "fast" or "reference".

    Returns:
        Same shape and dtype as `value`.

    Raises:
        ValueError: shapes that do not belong together, an even K, or bounds that do not cover the tokens.
        RuntimeError: "fast" where no fast form can run, with the reason.
    """
    kernel_size, dimensions = kernel_logits.shape[-1], 4 if cu_seqlens is None else 3
    if value.dim() != dimensions or kernel_logits.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"value {tuple(value.shape)} and kernel_logits {tuple(kernel_logits.shape)} must have {dimensions} "
            "dimensions and agree in all but the last"
        )
    if kernel_size % 2 == 0:
        raise ValueError(f"the kernel size must be odd, got {kernel_size}")
    bounds = VarlenBounds.of(cu_seqlens, value.shape[0])
    ends = None if bounds is None else bounds.cu_seqlens
    if not use_fast(backend, value.device, (value.dtype, kernel_logits.dtype), kernel_size):
        return reference(value, kernel_logits, ends)
    if compiled.is_direct(value, kernel_logits):
        return compiled.DirectConvolution.apply(cpu, value, kernel_logits, bounds)
    return _forward(value, kernel_logits, ends)


@torch.library.custom_op("convbert::span_dynamic_conv", mutates_args=(), device_types="cpu")
def _forward(value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return cpu.forward(value, kernel_logits, VarlenBounds.unchecked(cu_seqlens, value.shape[0]))


@torch.library.custom_op("convbert::span_dynamic_conv_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor, value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    return cpu.backward(grad, value, kernel_logits, VarlenBounds.unchecked(cu_seqlens, value.shape[0]))


@_forward.register_kernel("cuda")
def _(value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    from convbert.ops.span_dynamic_conv import gpu  # needs Triton

    return gpu.forward(value, kernel_logits, cu_seqlens)


@_backward.register_kernel("cuda")
def _(grad: Tensor, value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    from convbert.ops.span_dynamic_conv import gpu

    return gpu.backward(grad, value, kernel_logits, cu_seqlens)


@_forward.register_fake
def _(value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return value.new_empty(value.shape)


@_backward.register_fake
def _(grad: Tensor, value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    return value.new_empty(value.shape), kernel_logits.new_empty(kernel_logits.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad, *ctx.saved_tensors), None


_forward.register_autograd(_gradients, setup_context=_setup_context)
