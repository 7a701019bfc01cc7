"""GELU and the linear layer behind it, which keep one tensor for the backward pass and not two."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convbert.ops import compiled
from convbert.ops.backends import autocast_dtype
from convbert.ops.gelu import gelu, gelu_gradient

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
