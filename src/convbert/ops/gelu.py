"""GELU in its erf form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convbert.ops import compiled


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), Phi being the standard normal distribution.

    Args:
        x: any shape.
    """
    if not compiled.takes(x):
        return F.gelu(x)
    if not compiled.without_gradient(x):
        return _CompiledGelu.apply(x)
    x = x.contiguous()
    return _forward(x, torch.empty_like(x))


def gelu_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """`grad` times the derivative of GELU at `x`, of the same shape."""
    if not compiled.takes(grad, x):
        return torch.ops.aten.gelu_backward(grad, x)
    grad, x = grad.contiguous(), x.contiguous()
    grad_x = torch.empty_like(x)
    compiled.call("gelu_backward", compiled.threads_for(x.numel()), x.numel(), grad, x, grad_x)
    return grad_x


def _forward(x: Tensor, out: Tensor) -> Tensor:
    compiled.call("gelu_forward", compiled.threads_for(x.numel()), x.numel(), x, out)
    return out


class _CompiledGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        x = x.contiguous()
        return _forward(x, torch.empty_like(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return gelu_gradient(grad, *ctx.saved_tensors)
