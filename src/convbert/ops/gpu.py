"""What the Triton kernels share: how tokens are cut into tiles. Imported when a tensor on a GPU first meets an op.

A tile is BLOCK tokens of one sequence, so a kernel knows two bounds and never reads across them, whatever stands
beyond. A batch (B, T) is B sequences of T tokens lying end to end.

The tiles of an unpadded batch are counted without reading `cu_seqlens`, which would wait for the device: sequence b
gets the tiles from cu_seqlens[b] // BLOCK + b on, up to those of sequence b + 1. That is always enough, at most one too
many, and `num_tokens // BLOCK + B` in all. A program finds its sequence by bisection, which costs a few cached loads
and no launch of its own; a tile too many masks everything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tiles(NamedTuple):
    """Arguments of `find_tile`, and the number of tiles.

    Attributes:
        number: of tiles.
        cu_seqlens: (B + 1,) bounds, or None for a batch (B, T).
        sequences: B.
        length: T of a batch (B, T).
    """

    number: int
    cu_seqlens: Tensor | None
    sequences: int
    length: int


def cut(shape: torch.Size, cu_seqlens: Tensor | None, block: int) -> Tiles:
    """Cut the tokens of a tensor (B, T, ...), or (N, ...) with bounds, into tiles of at most `block`."""
    if cu_seqlens is None:
        batch, length = shape[:2]
        return Tiles(batch * triton.cdiv(length, block), None, batch, length)
    sequences = len(cu_seqlens) - 1
    return Tiles(shape[0] // block + sequences, cu_seqlens, sequences, 0)


def as_rows(x: Tensor, token_dimensions: int) -> Tensor:
    """The token axes of `x` merged into one, the last axis contiguous: a view where the strides allow one."""
    rows = x.flatten(0, token_dimensions - 1)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


@triton.jit
def find_tile(tile, cu_seqlens, sequences, length, BLOCK: tl.constexpr):
    """The first token of this tile, and the first token of its sequence and the one after its last."""
    if cu_seqlens is None:
        tiles = tl.cdiv(length, BLOCK)
        start = tile // tiles * length
        first = start + tile % tiles * BLOCK
        end = start + length
    else:
        low = tile * 0  # its tiles begin here or before
        high = low + sequences  # its tiles begin beyond
        while high - low > 1:
            middle = (low + high) // 2
            begins = tl.load(cu_seqlens + middle) // BLOCK + middle <= tile
            low = tl.where(begins, middle, low)
            high = tl.where(begins, high, middle)
        start = tl.load(cu_seqlens + low).to(tl.int32)
        end = tl.load(cu_seqlens + low + 1).to(tl.int32)
        first = start + (tile - start // BLOCK - low) * BLOCK
    return first, start, end
