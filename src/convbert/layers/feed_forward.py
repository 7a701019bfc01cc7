"""The two halves of the feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.layers.linear import GroupedLinear, build_linear
from convbert.ops import add_norm, gelu, gelu_linear
from convbert.ops._torch_internals import is_listened_to


class Intermediate(nn.Module):
    """First half: up-projection and activation."""

    def __init__(
        self, width: int, inner_width: int, groups: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.dense = build_linear(width, inner_width, groups)
        self.activation = activation

    def forward(self, states: Tensor) -> Tensor:
        """(..., C) to (..., I)."""
        states = self.dense(states)
        return gelu(states) if self.activation is F.gelu else self.activation(states)


class ResidualNorm(nn.LayerNorm):
    """Dropout, residual and norm in one pass over memory."""

    def __init__(self, width: int, *, eps: float, dropout: float) -> None:
        super().__init__(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        """(..., C) and (..., C) to (..., C)."""
        if type(self.dropout) is not nn.Dropout or is_listened_to(self.dropout):
            return super().forward(self.dropout(states) + residual)
        dropout = self.dropout.p if self.dropout.training else 0.0
        return add_norm(states, residual, self.weight, self.bias, eps=self.eps, dropout=dropout)


class ResidualOutput(nn.Module):
    """Down-projection, dropout, residual and norm: the end of both halves of an encoder layer."""

    def __init__(
        self, dense: nn.Linear | GroupedLinear, width: int, *, norm_eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.dense = dense
        self.LayerNorm = ResidualNorm(width, eps=norm_eps, dropout=dropout)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        """(..., I) and (..., C) to (..., C)."""
        return self.LayerNorm(self.dense(states), residual)


def feed_forward(first: Intermediate, second: ResidualOutput, states: Tensor) -> Tensor:
    """Both halves, (..., C) to (..., C); where gradients are wanted, with one wide activation in memory and not two."""
    dense = second.dense
    is_plain = type(first) is Intermediate and type(second) is ResidualOutput and type(dense) is nn.Linear
    is_gelu = is_plain and first.activation is F.gelu
    # A traced program is run without gradients.
    saves_memory = torch.is_grad_enabled() and not torch.jit.is_tracing()
    if is_gelu and saves_memory and not any(map(is_listened_to, (first, second, dense))):
        return second.LayerNorm(gelu_linear(first.dense(states), dense.weight, dense.bias), states)
    return second(first(states), states)
