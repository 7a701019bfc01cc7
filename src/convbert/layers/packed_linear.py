"""Linear layers whose weights lie as the matrix library wants them: for inference alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from convbert import ops
from convbert.errors import InputError


class PackedLinear(nn.Module):
    """One or several linear layers of the same input as one product, on a packed weight.

    Args:
        packed: the weights (out, in), from `ops.pack`.
        bias: (out,) or None.
    """

    def __init__(self, packed: Tensor, bias: Tensor | None) -> None:
        super().__init__()
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

    def _save_to_state_dict(self, *_: Any) -> None:
        raise InputError("a model with packed weights cannot be saved: keep the one it was loaded from")
