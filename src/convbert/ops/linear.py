"""A linear layer, optionally followed by GELU, through the fastest product of the machine at hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(states: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """states weight^T + bias, then GELU (the erf form) where asked.

    On a CPU without gradients, oneDNN computes both in one pass: its fp32 product is faster than PyTorch's default on
    many processors, and the activation costs no pass over memory of its own.

    Args:
        states: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out).
    """
    if _takes_onednn(states, weight):
        return torch.ops.mkldnn._linear_pointwise(
            states, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else ""
        )
    projected = F.linear(states, weight, bias)
    return F.gelu(projected) if gelu else projected


def _takes_onednn(states: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or states.device.type != "cpu" or states.numel() == 0:
        return False
    if torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad):
        return False
    if states.dtype != weight.dtype or torch.is_autocast_enabled("cpu") or not torch._C._get_mkldnn_enabled():
        return False
    if states.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return states.dtype == torch.float32 and torch.backends.mkldnn.is_available()
