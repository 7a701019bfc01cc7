"""The public door of span-based dynamic convolution: checks, registration, backward formula, fake."""

from __future__ import annotations

import torch
from torch import Tensor

from convbert.ops.backends import Backend, use_fast
from convbert.ops.span_dynamic_conv import cpu
from convbert.ops.span_dynamic_conv.reference import span_dynamic_conv as reference


def span_dynamic_conv(
    value: Tensor,
    kernel_logits: Tensor,
    cu_seqlens: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Mix each token's neighbours with a kernel predicted for that token (paper, section 3.2).

    out[t, h] = sum over k of softmax(kernel_logits[t, h])[k] * value[t + k - K // 2, h]

    A tap outside the token's own sequence reads zero, and the other weights stay as they are. A rectangle has no
    bounds to consult: zero the padding of `value` first, or real tokens will read it.

    Args:
        value: (B, T, H, D), or (N, H, D) with `cu_seqlens`.
        kernel_logits: (B, T, H, K), or (N, H, K). K is odd; the softmax runs in fp32.
        cu_seqlens: (B + 1,) int32, first entry 0, last entry N.
        backend: "auto", "fast" or "reference".

    Returns:
        Same shape and dtype as `value`.

    Raises:
        ValueError: shapes that do not belong together, or an even K.
    """
    _check(value, kernel_logits, cu_seqlens)
    if not use_fast(backend, value.device):
        return reference(value, kernel_logits, cu_seqlens)
    return torch.ops.convbert.span_dynamic_conv(value, kernel_logits, cu_seqlens)


def _check(value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> None:
    dimensions = 4 if cu_seqlens is None else 3
    if value.dim() != dimensions or kernel_logits.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"value {tuple(value.shape)} and kernel_logits {tuple(kernel_logits.shape)} must have {dimensions} "
            "dimensions and agree in all but the last"
        )
    if kernel_logits.shape[-1] % 2 == 0:
        raise ValueError(f"the kernel must have an odd number of taps, got {kernel_logits.shape[-1]}")


torch.library.define(
    "convbert::span_dynamic_conv", "(Tensor value, Tensor kernel_logits, Tensor? cu_seqlens) -> Tensor"
)
# The backward is an op of its own that holds a formula: autograd is off inside an op.
torch.library.define(
    "convbert::span_dynamic_conv_backward",
    "(Tensor grad, Tensor value, Tensor kernel_logits, Tensor? cu_seqlens) -> (Tensor, Tensor)",
)
torch.library.impl("convbert::span_dynamic_conv", "cpu", cpu.forward)
torch.library.impl("convbert::span_dynamic_conv_backward", "cpu", cpu.backward)


@torch.library.register_fake("convbert::span_dynamic_conv")
def _(value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    return torch.empty_like(value, memory_format=torch.contiguous_format)


@torch.library.register_fake("convbert::span_dynamic_conv_backward")
def _(grad: Tensor, value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(value, memory_format=contiguous),
        torch.empty_like(kernel_logits, memory_format=contiguous),
    )


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor):
    grads = torch.ops.convbert.span_dynamic_conv_backward(grad, *ctx.saved_tensors)
    return *grads, None


torch.library.register_autograd("convbert::span_dynamic_conv", _backward, setup_context=_save)
