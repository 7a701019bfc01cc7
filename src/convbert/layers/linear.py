"""The linear layers of the model: dense, dense with Glorot start, grouped."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from convbert import ops

Kind = TypeVar("Kind", bound=nn.Module)


class Linear(nn.Linear):
    """`nn.Linear` through `ops.linear`."""

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return ops.linear(states, self.weight, self.bias)


class GlorotLinear(Linear):
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


def project_and_gelu(dense: nn.Module, states: Tensor) -> Tensor:
    """GELU of `dense(states)`, in one step where that is the same thing."""
    if is_plain(dense, Linear):
        return ops.linear(states, dense.weight, dense.bias, gelu=True)
    if getattr(dense, "fuses_gelu", False):
        return dense(states, gelu=True)
    return ops.gelu(dense(states))


def add_and_norm(
    dropout: nn.Dropout, norm: nn.LayerNorm, states: Tensor, residual: Tensor, *, may_overwrite: bool = False
) -> Tensor:
    """`norm(dropout(states) + residual)`, in one step where that is the same thing. `may_overwrite`: nobody needs
    `states` any more."""
    if is_plain(dropout, nn.Dropout) and is_plain(norm, nn.LayerNorm):
        drop = dropout.p if dropout.training else 0.0
        weights = {"weight": norm.weight, "bias": norm.bias}
        return ops.add_norm(
            states, residual, **weights, eps=norm.eps, dropout=drop, may_overwrite=may_overwrite
        )
    return norm(dropout(states) + residual)


def is_plain(module: nn.Module, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether `module` may be computed without being called: neither it (by an adapter, a quantised layer) nor its
    `forward` (by accelerate, whose weights come when called) was replaced, and nobody listens to what goes in or comes
    out."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    is_itself = type(module) is kind and "forward" not in module.__dict__
    return is_itself and not hooks and not module._backward_pre_hooks


def build_linear(in_features: int, out_features: int, groups: int) -> Linear | GroupedLinear:
    """The layer of the original for this number of groups."""
    if groups == 1:
        return Linear(in_features, out_features)
    return GroupedLinear(in_features, out_features, groups)
