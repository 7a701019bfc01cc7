"""Weights of linear layers as the compiled products read them: groups of (in, out), as panels of some outputs each."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.ops import compiled

_TINY = torch.finfo(torch.float32).tiny


class WholeWeight(NamedTuple):
    """A weight in 8-bit numbers: (groups, panels, in / 4, columns of a panel, 4) int8; the unit of each output (out,); and
    the sum of its weights (out,)."""

    packed: Tensor
    scale: Tensor
    sums: Tensor


def grouped(weight: Tensor) -> Tensor:
    """(out, in), or (groups, in / groups, out / groups), to the latter."""
    return weight.detach().t()[None] if weight.dim() == 2 else weight.detach()


def prepack(weight: Tensor) -> Tensor:
    """fp32 (groups, I, O) to (groups, panels, I, columns of a panel); the last panel is filled up with zeros."""
    return _panels(weight).contiguous()


def prepack_int8(weight: Tensor) -> WholeWeight:
    """fp32 (groups, I, O) in 8-bit numbers, rounded to the nearest, with a unit for each output."""
    scale = _scale(weight)
    whole = (weight / scale[:, None]).round()
    fours = F.pad(whole, (0, 0, 0, -whole.shape[1] % 4)).to(torch.int8)
    packed = _panels(fours).unflatten(2, (-1, 4)).transpose(3, 4).contiguous()
    return WholeWeight(packed, scale.flatten(), (whole.sum(1) * scale).flatten())


def _panels(weight: Tensor) -> Tensor:
    """(groups, I, O) to (groups, panels, I, columns)."""
    columns = compiled.library().panel_columns()
    return F.pad(weight, (0, -weight.shape[-1] % columns)).unflatten(-1, (-1, columns)).transpose(1, 2)


def _scale(weight: Tensor) -> Tensor:
    """(groups, I, O) to (groups, O): the finest unit in which no sum of the product overflows.

    Without VNNI instructions, the products of two neighbouring inputs are added in 16 bits: 255 * (w + w') fits if
    |w + w'| is 128 at most, and rounding adds 1 at most to what it is before.
    """
    largest = weight.abs().amax(1) / 127
    if not compiled.library().adds_in_16_bits():
        return largest.clamp_min(_TINY)
    pairs = F.pad(weight, (0, 0, 0, weight.shape[1] % 2)).unflatten(1, (-1, 2)).sum(2)
    return torch.maximum(largest, pairs.abs().amax(1) / 127).clamp_min(_TINY)
