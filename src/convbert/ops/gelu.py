"""GELU in its erf form, alone and before a linear layer.

Nothing traced comes to the functions with gradients below, so they are no operators: on a short text, PyTorch's
dispatcher would cost as much as the kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convbert.ops import compiled
from convbert.ops.backends import autocast_dtype

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), Phi being the standard normal distribution.

    Args:
        x: any shape.
    """
    return _CompiledGelu.apply(x) if compiled.takes(x) else F.gelu(x)


def gelu_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """`grad` times the derivative of GELU at `x`, of the same shape."""
    if not compiled.takes(grad, x):
        return torch.ops.aten.gelu_backward(grad, x)
    grad, x = grad.contiguous(), x.contiguous()
    grad_x = torch.empty_like(x)
    compiled.call("gelu_backward", compiled.threads_for(x.numel()), x.numel(), grad, x, grad_x)
    return grad_x


class _CompiledGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        x = x.contiguous()
        out = torch.empty_like(x)
        compiled.call("gelu_forward", compiled.threads_for(x.numel()), x.numel(), x, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return gelu_gradient(grad, *ctx.saved_tensors)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """gelu(x) weight^T + bias, GELU in its erf form.

    Where gradients are wanted, GELU is computed again in the backward pass: the activations of a feed-forward layer,
    the widest there are, lie in memory once and not twice.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out), in the type that autocast asks for, if it does.
    """
    inputs = (x, weight, bias)
    if x.dtype not in _DTYPES or compiled.without_gradient(*inputs) or not compiled.runs_eagerly(*inputs):
        return F.linear(gelu(x), weight, bias)
    return _GeluLinear.apply(*inputs, autocast_dtype(x.device) or x.dtype)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dtype = dtype
        return F.linear(gelu(x).to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        rows = grad.flatten(0, -2)
        if wants_weight:
            grad_weight = (rows.t() @ gelu(x).flatten(0, -2).to(ctx.dtype)).to(weight.dtype)
        if wants_bias:
            grad_bias = rows.sum(0).to(weight.dtype)
        if wants_x:
            grad_x = gelu_gradient((grad @ weight.to(ctx.dtype)).to(x.dtype), x)
        return grad_x, grad_weight, grad_bias, None
