"""Products with packed weights through the compiled kernels: fp32, for inference."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from convbert.ops import compiled

BUILDS = {"avx2"}
"""Where it was measured, and beats the matrix library; elsewhere that is taken."""

_WORK_PER_ELEMENT = 16  # multiplications that take as long as a pass over one element


def takes(weight: Tensor) -> bool:
    """Whether `weight` is packed for this product."""
    return compiled.build() in BUILDS and compiled.takes(weight)


def pack(weight: Tensor) -> Tensor:
    """(out, in), or (groups, in / groups, out / groups), to (groups, panels, in / groups, columns of a panel).

    Panels stand side by side; the last one is filled up with zeros.
    """
    grouped = weight.detach().t()[None] if weight.dim() == 2 else weight.detach()
    columns = panel_columns()
    filled = F.pad(grouped, (0, -grouped.shape[-1] % columns))
    return filled.unflatten(-1, (-1, columns)).transpose(1, 2).contiguous()


def panel_columns() -> int:
    """Outputs that the kernel takes at a time."""
    return compiled.library().panel_columns()


def is_packed(weight: Tensor) -> bool:
    """Whether `weight` is from `pack`, and not from oneDNN."""
    return not weight.is_mkldnn


def packed_linear(states: Tensor, packed: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    """(..., in) to (..., out), on the weight from `pack` and bias (out,).

    Raises:
        ValueError: states, weight and bias do not belong together.
    """
    groups, panels, inputs, columns = packed.shape
    outputs = bias.shape[0]
    if states.shape[-1] != groups * inputs or panels != -(-outputs // (groups * columns)):
        raise ValueError(
            f"states {tuple(states.shape)}, packed weight {tuple(packed.shape)} and bias {tuple(bias.shape)} "
            "do not belong together"
        )
    states, out = states.contiguous(), states.new_empty(*states.shape[:-1], outputs)
    rows = states.numel() // (groups * inputs)
    if rows:
        threads = compiled.threads_for(rows * inputs * outputs // _WORK_PER_ELEMENT)
        sizes = rows, groups, inputs, outputs // groups
        compiled.call("packed_linear", threads, *sizes, states, packed, bias.contiguous(), gelu, out)
    return out
