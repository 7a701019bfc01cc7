"""The end of both halves of an encoder layer: dropout, residual, norm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convbert.ops import compiled


def add_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    dropout: float = 0.0,
) -> Tensor:
    """LayerNorm(dropout(x) + residual) over the last axis.

    The compiled kernel makes one pass over memory and keeps no dropout mask: whether an element is dropped is a hash of
    its position and a seed, which comes from PyTorch's generator.

    Args:
        x, residual: (..., C).
        weight, bias: (C,), of the norm.
        eps: added to the variance.
        dropout: probability of dropping an element of `x`; 0 where nobody trains.

    Returns:
        (..., C).
    """
    is_plain = 0 <= dropout < 1 and x.shape == residual.shape
    if not is_plain or not compiled.takes(x, residual, weight, bias):
        return F.layer_norm(F.dropout(x, dropout) + residual, weight.shape, weight, bias, eps)
    seed = compiled.draw_seed() if dropout else 0
    return _CompiledAddNorm.apply(x, residual, weight, bias, eps, dropout, seed)


class _CompiledAddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dropout: float,
        seed: int,
    ) -> Tensor:
        inputs = [tensor.contiguous() for tensor in (x, residual, weight, bias)]
        out, sums = torch.empty_like(inputs[0]), torch.empty_like(inputs[0])
        mean, inverse_std = x.new_empty(2, *x.shape[:-1]).unbind()
        results = out, sums, mean, inverse_std
        compiled.call("add_norm_forward", *_sizes(x), *inputs, eps, dropout, seed, *results)
        ctx.save_for_backward(sums, mean, inverse_std, weight)
        ctx.dropout, ctx.seed = dropout, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sums, mean, inverse_std, weight = ctx.saved_tensors
        inputs = grad.contiguous(), sums, mean, inverse_std, weight.contiguous()
        grad_sum = torch.empty_like(sums)
        grad_x = torch.empty_like(sums) if ctx.dropout else None
        threads, rows, columns = _sizes(sums)
        partial = sums.new_zeros(threads, 2, columns)
        results = grad_x, grad_sum, partial
        compiled.call("add_norm_backward", threads, rows, columns, *inputs, ctx.dropout, ctx.seed, *results)
        grad_weight, grad_bias = partial.sum(0).unbind()
        return grad_sum if grad_x is None else grad_x, grad_sum, grad_weight, grad_bias, None, None, None


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Threads, rows, columns."""
    return compiled.threads_for(x.numel()), x.numel() // x.shape[-1], x.shape[-1]
