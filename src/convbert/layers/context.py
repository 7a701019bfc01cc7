"""What a layer must know about its tokens beside their states."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from convbert.ops import Backend, VarlenBounds


@dataclass(frozen=True)
class ForwardContext:
    """Which tokens belong together, and how to compute with them.

    Attributes:
        bounds: of the sequences of an unpadded batch, whose states are (N, C). None: states are (B, T, C).
        attention_mask: (B, T) bool, True at tokens; of a padded batch.
        conv_mask: (B, T) bool, True where the convolution may read; None: everywhere.
        eager: attention in plain steps, so that its weights can be returned; not with bounds.
        conv_backend: of the two convolution ops.
    """

    bounds: VarlenBounds | None = None
    attention_mask: Tensor | None = None
    conv_mask: Tensor | None = None
    eager: bool = False
    conv_backend: Backend = "auto"

    def readable(self, states: Tensor) -> Tensor:
        """`states` (B, T, ...) as the convolution sees them: zero where it may not read."""
        return states if self.conv_mask is None else states * self.conv_mask[..., None].to(states.dtype)
