"""Linear layers for inference, their weights laid out as the compiled products read them, in fp32 or in 8-bit numbers.

The scheme of the latter is torchao's: a unit for each output of the weight, a unit and an offset for each token, so
that a text's result does not depend on the texts beside it. Nothing is calibrated.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.ops import compiled

_TINY = torch.finfo(torch.float32).tiny


class LinearStruct(ctypes.Structure):
    """As in product.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("groups", "inputs", "columns")),
        *((name, ctypes.c_void_p) for name in ("panels", "bias", "whole", "scale", "weight_sum")),
    ]


class PrepackedLinear:
    """A linear layer on a copy of its weights. It has no gradients.

    A token x is lowest + unit * q in 8-bit numbers, with q in 0 ... 255 and 0 among the numbers from lowest to
    highest; a row of the weight is scale * w, with w from -127 to 127. The sum over q * w is exact.

    Args:
        weight: (out, in), or (groups, in / groups, out / groups); fp32.
        bias: (out,).
        int8: in 8-bit numbers.

    Attributes:
        sizes: in, out.
        struct: what the kernels are told of it.
        tensors: the copies that it points at.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, int8: bool = False) -> None:
        weight = grouped(weight)
        if bias.shape != (weight.shape[0] * weight.shape[2],) or not compiled.takes(weight, bias):
            raise ValueError(f"no linear layer: weight {tuple(weight.shape)}, bias {tuple(bias.shape)}")
        self.sizes, self.is_int8 = (weight.shape[0] * weight.shape[1], len(bias)), int8
        layouts = prepack_int8(weight) if int8 else (prepack(weight),)
        self.tensors = [bias.detach().clone(memory_format=torch.contiguous_format), *layouts]
        bias_at, *panels_at = (x.data_ptr() for x in self.tensors)
        addresses = [None, bias_at, *panels_at] if int8 else [*panels_at, bias_at]
        self.struct = LinearStruct(*weight.shape, *addresses)

    def __call__(self, states: Tensor, *, gelu: bool = False) -> Tensor:
        """fp32 (..., in) to (..., out), then GELU where asked."""
        if states.shape[-1] != self.sizes[0] or not compiled.takes(states):
            raise ValueError(f"states must be fp32 and {self.sizes[0]} wide, got {tuple(states.shape)}")
        states, out = states.contiguous(), states.new_empty(*states.shape[:-1], self.sizes[1])
        rows, threads, layer = (
            states.numel() // self.sizes[0],
            torch.get_num_threads(),
            ctypes.byref(self.struct),
        )
        scratch = states.new_empty(compiled.library().linear_scratch(layer, rows))
        compiled.call("linear_forward", threads, layer, rows, states, gelu, scratch, out)
        return out


class WholeWeight(NamedTuple):
    """A weight in 8-bit numbers: (groups, panels, in / 4, columns of a panel, 4) int8; the unit of each output (out,);
    and the sum of its weights (out,)."""

    panels: Tensor
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
    panels = _panels(fours).unflatten(2, (-1, 4)).transpose(3, 4).contiguous()
    return WholeWeight(panels, scale.flatten(), (whole.sum(1) * scale).flatten())


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
