"""Linear layers whose weights lie as the matrix library wants them: for inference alone."""

from __future__ import annotations

from torch import Tensor, nn

from convbert import ops


class PackedLinear(nn.Module):
    """One or several linear layers of the same input as one product, on a packed weight.

    Args:
        weight: (out, in), as `ops.pack` accepts it.
        bias: (out,) or None.
    """

    def __init__(self, packed: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # Plain attributes: a packed weight can be neither trained nor saved.
        self.packed, self.bias = packed, bias

    def forward(self, states: Tensor, gelu: bool = False) -> Tensor:
        """(..., in) to (..., out)."""
        return ops.packed_linear(states, self.packed, self.bias, gelu=gelu)
