"""Attention within each sequence of an unpadded batch: which form runs, why, and those that PyTorch has kernels for."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from convbert.ops.attention.rectangle import additive_mask, rectangle
from convbert.ops.attention.sequences import attend_sequences
from convbert.ops.backends import is_older_gpu
from convbert.ops.unpad import pack_bounds

HAS_FLASH_ATTN = find_spec("flash_attn") is not None
HALF_DTYPES = (torch.float16, torch.bfloat16)
WIDEST_HEAD = 256  # of the flash kernels, which take multiples of 8


class Form(NamedTuple):
    """A key of `FORMS`, and why it is the one."""

    name: str
    reason: str


def packed_form(device: torch.device, dtype: torch.dtype, head_size: int, dropout: float) -> Form:
    """The form that attention takes on an unpadded batch of this type and head width D."""
    if device.type in ("cpu", "meta"):
        return Form("sequences", "one call of PyTorch's kernel per text")
    if device.type != "cuda":
        return Form("padded", f"PyTorch has no attention over bounds for {device.type}")
    if dtype not in HALF_DTYPES:
        return Form("padded", f"attention over bounds computes in float16 and bfloat16, not in {dtype}")
    if head_size % 8 or head_size > WIDEST_HEAD:
        return Form(
            "padded", f"attention over bounds takes heads of 8, 16, ... {WIDEST_HEAD}, not {head_size}"
        )
    if is_older_gpu(device):
        return Form("padded", "attention over bounds needs a GPU of compute capability 8.0 or newer")
    if HAS_FLASH_ATTN:
        return Form("flash_attn", "flash-attn is installed")
    if dropout:
        return Form("padded", "PyTorch's attention over bounds has no dropout; flash-attn, if installed, has")
    return Form("varlen", "PyTorch's attention over bounds")


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_length: int | None, dropout: float
) -> Tensor:
    """As the public `attention`, on (N, H, D)."""
    device = query.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        query, key, value = (x.to(dtype) for x in (query, key, value))
    form = packed_form(device, query.dtype, query.shape[-1], dropout)
    if form.name == "sequences":
        return attend_sequences(query, key, value, cu_seqlens, dropout)
    if query.shape[0] == 0:
        return query * key * value  # no tokens, but still part of the graph
    longest = int(cu_seqlens.diff().max()) if max_length is None else max_length
    return FORMS[form.name](query, key, value, cu_seqlens, longest, dropout)


def _padded(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float
) -> Tensor:
    """In a rectangle with a mask, for this step alone."""
    packing = pack_bounds(cu_seqlens, max_length, query.shape[0])
    lengths = cu_seqlens.diff()
    mask = torch.arange(max_length, device=query.device) < lengths[:, None]
    query, key, value = (packing.unpack(x) for x in (query, key, value))
    return packing.pack(rectangle(query, key, value, additive_mask(mask, query.dtype), dropout))


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    assert not dropout, "see packed_form"
    # The arguments that all versions share; by default all of a sequence's tokens are read, scaled by 1 / sqrt(D).
    mixed = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, max_length, max_length)
    assert isinstance(mixed, Tensor)
    return mixed


def _flash_attn(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_length: int, dropout: float
) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    bounds = (cu_seqlens, cu_seqlens, max_length, max_length)
    return flash_attn_varlen_func(query, key, value, *bounds, dropout_p=dropout)


FORMS = {"padded": _padded, "varlen": _varlen, "flash_attn": _flash_attn}
