"""The two halves of the feed-forward layer, dense or grouped."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """A linear layer whose inputs and outputs fall into groups that do not see each other (paper, section 3.3).

    The weight is (groups, in / groups, out / groups), as the original and transformers store it.
    """

    def __init__(self, in_features: int, out_features: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(groups, in_features // groups, out_features // groups))
        self.bias = nn.Parameter(torch.empty(out_features))

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        grouped = states.flatten(0, -2).unflatten(-1, (self.groups, -1)).transpose(0, 1)
        mixed = torch.bmm(grouped, self.weight).transpose(0, 1).flatten(-2)
        return mixed.unflatten(0, states.shape[:-1]) + self.bias


class GlorotLinear(nn.Linear):
    """A linear layer that the original leaves to TensorFlow's default, Glorot uniform, when training starts."""


def linear(in_features: int, out_features: int, groups: int) -> nn.Module:
    """The layer of the original for this number of groups: `nn.Linear` for one."""
    if groups == 1:
        return nn.Linear(in_features, out_features)
    return GroupedLinear(in_features, out_features, groups)


class Intermediate(nn.Module):
    """First half: widen and activate."""

    def __init__(
        self, width: int, inner_width: int, groups: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.dense = linear(width, inner_width, groups)
        self.activation = activation

    def forward(self, states: Tensor) -> Tensor:
        """(..., C) to (..., I)."""
        return self.activation(self.dense(states))


class ResidualOutput(nn.Module):
    """Project back to model width, drop out, add the residual, normalise: the end of both halves of a block."""

    def __init__(self, dense: nn.Module, width: int, *, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = dense
        self.LayerNorm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        """(..., I) and (..., C) to (..., C)."""
        return self.LayerNorm(self.dropout(self.dense(states)) + residual)
