"""Attention over bounds on devices other than a CPU, through the libraries that have a kernel for it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from convbert.ops.attention.reference import attend_padded
from convbert.ops.backends import is_older_gpu
from convbert.ops.varlen import VarlenBounds

HAS_FLASH_ATTN = find_spec("flash_attn") is not None
HALF_DTYPES = (torch.float16, torch.bfloat16)
WIDEST_HEAD = 256  # of the flash kernels, which take multiples of 8


class Choice(NamedTuple):
    """ "padded", "varlen" or "flash_attn", and why."""

    name: str
    reason: str


def choose(device: torch.device, dtype: torch.dtype, head_size: int, dropout: float) -> Choice:
    """The kernel for an unpadded batch of this type and head width D."""
    if device.type != "cuda":
        return Choice("padded", f"PyTorch has no attention over bounds for {device.type}")
    if dtype not in HALF_DTYPES:
        return Choice("padded", f"attention over bounds computes in float16 and bfloat16, not in {dtype}")
    if head_size % 8 or head_size > WIDEST_HEAD:
        return Choice(
            "padded", f"attention over bounds takes heads of 8, 16, ... {WIDEST_HEAD}, not {head_size}"
        )
    if is_older_gpu(device):
        return Choice("padded", "attention over bounds needs a GPU of compute capability 8.0 or newer")
    if HAS_FLASH_ATTN:
        return Choice("flash_attn", "flash-attn is installed")
    if dropout:
        return Choice(
            "padded", "PyTorch's attention over bounds has no dropout; flash-attn, if installed, has"
        )
    return Choice("varlen", "PyTorch's attention over bounds")


def attend(query: Tensor, key: Tensor, value: Tensor, bounds: VarlenBounds, dropout: float) -> Tensor:
    """As the public `attention`, on (N, H, D)."""
    if query.shape[0] == 0:
        return query * key * value  # no tokens, but still part of the graph
    name = choose(query.device, query.dtype, query.shape[-1], dropout).name
    if name == "padded":
        plan = bounds.padding()
        query, key, value = (plan.pad(x) for x in (query, key, value))
        return plan.unpad(attend_padded(query, key, value, plan.mask, dropout))
    limits = (bounds.cu_seqlens, bounds.cu_seqlens, bounds.longest(), bounds.longest())
    if name == "flash_attn":
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(query, key, value, *limits, dropout_p=dropout)
    from torch.nn.attention.varlen import varlen_attn

    # The arguments that all versions share; by default all of a sequence's tokens are read, scaled by 1 / sqrt(D).
    mixed = varlen_attn(query, key, value, *limits)
    assert isinstance(mixed, Tensor)
    return mixed
