"""The public door of the depthwise convolution: checks, the choice of form, registration."""

from __future__ import annotations

import torch
from torch import Tensor

from convbert.ops.backends import Backend, use_fast
from convbert.ops.depthwise_conv import cpu
from convbert.ops.depthwise_conv.reference import depthwise_conv as reference
from convbert.ops.registration import is_direct, register


def depthwise_conv(
    hidden: Tensor,
    weight: Tensor,
    cu_seqlens: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Convolve each channel with its own filter, within each sequence.

    out[t, c] = sum over k of weight[c, 0, k] * hidden[t + k - K // 2, c], reading zero outside the sequence. A
    rectangle has no bounds to consult: zero its padding first, or real tokens will read it. Under autocast it runs in
    the lower precision, as PyTorch's own convolutions do.

    Args:
        hidden: (B, T, C), or (N, C) with `cu_seqlens`.
        weight: (C, 1, K), the layout of `nn.Conv1d` with `groups=C`. K is odd.
        cu_seqlens: (B + 1,) int32, first entry 0, last entry N.
        backend: "auto", "fast" or "reference".

    Returns:
        Same shape as `hidden`.

    Raises:
        ValueError: shapes that do not belong together, or an even K.
        RuntimeError: "fast" where no fast form can run, with the reason.
    """
    _check(hidden, weight, cu_seqlens)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if not use_fast(backend, hidden.device, (hidden.dtype, weight.dtype), weight.shape[-1]):
        return reference(hidden, weight, cu_seqlens)
    if hidden.device.type == "cpu" and is_direct(hidden, weight):
        return cpu.forward(hidden, weight, cu_seqlens)
    return torch.ops.convbert.depthwise_conv(hidden, weight, cu_seqlens)


def _check(hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> None:
    dimensions = 3 if cu_seqlens is None else 2
    if hidden.dim() != dimensions or weight.shape[:-1] != (hidden.shape[-1], 1):
        raise ValueError(
            f"hidden {tuple(hidden.shape)} must have {dimensions} dimensions, and weight {tuple(weight.shape)} must "
            "be (channels, 1, taps)"
        )
    if weight.shape[-1] % 2 == 0:
        raise ValueError(f"the filter must have an odd number of taps, got {weight.shape[-1]}")


register(
    "depthwise_conv",
    ("hidden", "weight"),
    cpu_forward=cpu.forward,
    cpu_backward=cpu.backward,
    gpu_module="convbert.ops.depthwise_conv.gpu",
)
