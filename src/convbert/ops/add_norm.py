"""How every half of a block ends: drop out, add the residual, normalise."""

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

    The compiled form makes one pass over memory and keeps no dropout mask: whether an element is dropped is a hash of
    its place and of a seed, which comes from PyTorch's generator.

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
    inputs = (x.contiguous(), residual.contiguous(), weight, bias)
    if compiled.without_gradient(*inputs):
        return _forward(*inputs, eps, dropout, seed, torch.empty_like(inputs[0]))
    return _CompiledAddNorm.apply(*inputs, eps, dropout, seed)


def _forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout: float,
    seed: int,
    out: Tensor,
    sums: Tensor | None = None,
    mean: Tensor | None = None,
    inverse_std: Tensor | None = None,
) -> Tensor:
    columns = x.shape[-1]
    rows = x.numel() // columns
    threads = compiled.threads_for(x.numel())
    inputs = (x, residual, weight.contiguous(), bias.contiguous())
    compiled.call(
        "add_norm_forward", threads, rows, columns, *inputs, eps, dropout, seed, out, sums, mean, inverse_std
    )
    return out


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
        sums = torch.empty_like(x)
        mean, inverse_std = x.new_empty(2, *x.shape[:-1]).unbind()
        ctx.save_for_backward(sums, mean, inverse_std, weight)
        ctx.dropout, ctx.seed = dropout, seed
        out = torch.empty_like(x)
        return _forward(x, residual, weight, bias, eps, dropout, seed, out, sums, mean, inverse_std)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sums, mean, inverse_std, weight = ctx.saved_tensors
        columns = sums.shape[-1]
        threads = compiled.threads_for(sums.numel())
        grad_sum = torch.empty_like(sums)
        grad_x = torch.empty_like(sums) if ctx.dropout else None
        partial = sums.new_zeros(threads, 2, columns)
        compiled.call(
            "add_norm_backward",
            threads,
            sums.numel() // columns,
            columns,
            grad.contiguous(),
            sums,
            mean,
            inverse_std,
            weight.contiguous(),
            ctx.dropout,
            ctx.seed,
            grad_x,
            grad_sum,
            partial,
        )
        grad_weight, grad_bias = partial.sum(0).unbind()
        return grad_sum if grad_x is None else grad_x, grad_sum, grad_weight, grad_bias, None, None, None
