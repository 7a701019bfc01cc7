"""Dropout without a mask in memory and without PyTorch's serial random numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convbert.ops import compiled


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability `p` and scale the others by 1 / (1 - p).

    The compiled kernel decides by a hash of the element's position and a seed from PyTorch's generator.

    Args:
        x: (..., C).
        p: 0 returns `x` itself.
    """
    if p == 0:
        return x
    if not 0 < p < 1 or x.dim() == 0 or not compiled.takes(x):
        return F.dropout(x, p)
    return _CompiledDropout.apply(x, p, compiled.draw_seed())


def _drop(x: Tensor, p: float, seed: int) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    columns = max(x.shape[-1], 1)
    compiled.call("dropout", compiled.threads_for(x.numel()), x.numel() // columns, columns, x, out, p, seed)
    return out


class _CompiledDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed
        return _drop(x, p, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _drop(grad, ctx.p, ctx.seed), None, None
