"""The public door of span-based dynamic convolution: checks, the choice of form, registration."""

from __future__ import annotations

import torch
from torch import Tensor

from convbert.ops.backends import Backend, use_fast
from convbert.ops.registration import is_direct, register
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
        RuntimeError: "fast" where no fast form can run, with the reason.
    """
    _check(value, kernel_logits, cu_seqlens)
    if not use_fast(backend, value.device, (value.dtype, kernel_logits.dtype), kernel_logits.shape[-1]):
        return reference(value, kernel_logits, cu_seqlens)
    if value.device.type == "cpu" and is_direct(value, kernel_logits):
        return cpu.forward(value, kernel_logits, cu_seqlens)
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


register(
    "span_dynamic_conv",
    ("value", "kernel_logits"),
    cpu_forward=cpu.forward,
    cpu_backward=cpu.backward,
    gpu_module="convbert.ops.span_dynamic_conv.gpu",
)
