"""What a layer must know about its tokens beside their states."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from convbert.ops import Backend


@dataclass(frozen=True)
class Layout:
    """Which tokens belong together, and how to compute with them.

    Attributes:
        cu_seqlens: (B + 1,) int32 bounds of an unpadded batch, whose states are (N, C). None: a rectangle (B, T, C).
        max_length: tokens in the longest of these sequences, or more; with bounds only.
        attention_mask: (B, T) bool, True at tokens; a rectangle with padding only.
        conv_mask: (B, T) bool, True where the convolution may read; None: everywhere.
        eager: attention in plain steps, so that its weights can be returned; rectangles only.
        conv_backend: form of the two convolution ops.
    """

    cu_seqlens: Tensor | None = None
    max_length: int | None = None
    attention_mask: Tensor | None = None
    conv_mask: Tensor | None = None
    eager: bool = False
    conv_backend: Backend = "auto"

    def readable(self, states: Tensor) -> Tensor:
        """`states` (B, T, ...) as the convolution sees them: zero where it may not read."""
        return states if self.conv_mask is None else states * self.conv_mask[..., None].to(states.dtype)
