"""What surrounds a product in 8-bit numbers: rounding its tokens, and giving its sums their size."""

from __future__ import annotations

import torch
from torch import Tensor

from convbert.ops import compiled
from convbert.ops.gelu import gelu as apply_gelu

_TINY = torch.finfo(torch.float32).tiny


def round_tokens(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """fp32 (N, C) to whole numbers (N, C) of uint8, and lowest and unit (N, 1): a token is about lowest + unit * whole.

    0 is among the numbers from a token's lowest to its highest, so that it is rounded to itself or close by.
    """
    if tokens.numel() and compiled.takes(tokens):
        tokens = tokens.contiguous()
        whole = torch.empty_like(tokens, dtype=torch.uint8)
        lowest, unit = tokens.new_empty(2, len(tokens), 1).unbind()
        compiled.call(
            "round_tokens", compiled.threads_for(tokens.numel()), *tokens.shape, tokens, whole, lowest, unit
        )
        return whole, lowest, unit
    lowest = tokens.amin(1, keepdim=True).clamp_max(0)
    highest = tokens.amax(1, keepdim=True).clamp_min(0)
    unit = ((highest - lowest) / 255).clamp_min(_TINY)
    # Conversion cuts off what is behind the point, so adding a half rounds.
    return torch.addcmul(0.5 - lowest / unit, tokens, 1 / unit).to(torch.uint8), lowest, unit


def finish_int8(
    sums: Tensor, lowest: Tensor, unit: Tensor, weight_sum: Tensor, bias: Tensor, *, gelu: bool = False
) -> Tensor:
    """unit * sums + lowest * weight_sum + bias, then GELU where asked; `sums` may be overwritten.

    Args:
        sums: (N, out) fp32, over the products of whole numbers and weights.
        lowest, unit: (N, 1), from `round_tokens`.
        weight_sum, bias: (out,); the former is the sum of each output's weights.
    """
    operands = (sums, lowest, unit, weight_sum, bias)
    if sums.numel() and compiled.takes(*operands) and all(x.is_contiguous() for x in operands):
        threads = compiled.threads_for(sums.numel())
        compiled.call("finish_int8", threads, *sums.shape, *operands, gelu)
        return sums
    finished = sums.mul_(unit).addcmul_(lowest, weight_sum).add_(bias)
    return apply_gelu(finished, may_overwrite=True) if gelu else finished
