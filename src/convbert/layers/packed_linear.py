"""Linear layers whose weights lie as the matrix library wants them: for inference alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from convbert import ops
from convbert.errors import InputError

Module = TypeVar("Module", bound=nn.Module)


class PackedLinear(nn.Module):
    """One or several linear layers of the same input as one product, on a packed weight.

    Args:
        packed: the weights, from `ops.pack`.
        bias: (out,).
    """

    fuses_gelu = True

    def __init__(self, packed: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.training = False
        # Plain attributes: a packed weight can be neither trained nor saved.
        self.packed, self.bias = packed, bias

    def forward(self, states: Tensor, gelu: bool = False) -> Tensor:
        """(..., in) to (..., out).

        Raises:
            InputError: on another device than a CPU, or where a gradient is asked for.
        """
        if states.device.type != "cpu":
            raise InputError(f"a model with packed weights runs on a CPU, not on {states.device.type}")
        if states.requires_grad:
            raise InputError("a model with packed weights has no gradients: load it with from_pretrained")
        return ops.packed_linear(states, self.packed, self.bias, gelu=gelu)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if fn(torch.empty(0, dtype=self.packed.dtype)).dtype != self.packed.dtype:
            raise InputError(
                "packed weights keep their precision: load the model anew, with another precision"
            )
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy_sharing(self, self.packed, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise InputError("a model with packed weights cannot be pickled: send its folder, and load it there")

    def _save_to_state_dict(self, *_: Any) -> None:
        raise InputError("a model with packed weights cannot be saved: keep the one it was loaded from")


def copy_sharing(module: Module, packed: Tensor, memo: dict[int, Any]) -> Module:
    """A deep copy of `module` but for `packed`, which PyTorch cannot copy and nobody writes to."""
    copied = type(module).__new__(type(module))
    memo[id(module)], memo[id(packed)] = copied, packed
    copied.__dict__.update(copy.deepcopy(module.__dict__, memo))
    return copied
