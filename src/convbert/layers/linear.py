"""The linear layers of the model: dense, dense with Glorot start, grouped."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GlorotLinear(nn.Linear):
    """A linear layer that the original leaves to TensorFlow's default, Glorot uniform, when training starts."""


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


def build_linear(in_features: int, out_features: int, groups: int) -> nn.Linear | GroupedLinear:
    """The layer of the original for this number of groups."""
    if groups == 1:
        return nn.Linear(in_features, out_features)
    return GroupedLinear(in_features, out_features, groups)
