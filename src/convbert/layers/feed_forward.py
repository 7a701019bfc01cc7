"""The two halves of the feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.layers.linear import (
    GroupedLinear,
    Linear,
    add_and_norm,
    build_linear,
    is_plain,
    project_and_gelu,
)
from convbert.layers.packed_linear import PackedLinear
from convbert.ops import gelu_linear


class Intermediate(nn.Module):
    """First half: widen and activate."""

    def __init__(
        self, width: int, inner_width: int, groups: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.dense = build_linear(width, inner_width, groups)
        self.activation = activation

    def forward(self, states: Tensor) -> Tensor:
        """(..., C) to (..., I)."""
        if self.activation is F.gelu:
            return project_and_gelu(self.dense, states)
        return self.activation(self.dense(states))


class ResidualOutput(nn.Module):
    """Project back to model width, drop out, add the residual, normalise: the end of both halves of a block."""

    def __init__(self, dense: Linear | GroupedLinear, width: int, *, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = dense
        self.LayerNorm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        """(..., I) and (..., C) to (..., C)."""
        # Whoever listens to `dense` may have kept what it gave.
        is_ours = is_plain(self.dense, Linear) or is_plain(self.dense, PackedLinear)
        return self.finish(self.dense(states), residual, may_overwrite=is_ours)

    def finish(self, projected: Tensor, residual: Tensor, *, may_overwrite: bool) -> Tensor:
        """What comes after the projection: (..., C) and (..., C) to (..., C)."""
        return add_and_norm(self.dropout, self.LayerNorm, projected, residual, may_overwrite=may_overwrite)


def feed_forward(first: Intermediate, second: ResidualOutput, states: Tensor) -> Tensor:
    """Both halves, (..., C) to (..., C); where gradients are wanted, with one wide activation in memory and not two."""
    is_plain_pair = is_plain(first, Intermediate) and is_plain(second, ResidualOutput)
    dense = second.dense
    if torch.is_grad_enabled() and is_plain_pair and first.activation is F.gelu and is_plain(dense, Linear):
        projected = gelu_linear(first.dense(states), dense.weight, dense.bias)
        return second.finish(projected, states, may_overwrite=True)
    return second(first(states), states)
