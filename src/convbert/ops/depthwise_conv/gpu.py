"""Depthwise convolution on a GPU, in Triton: one kernel forward, one backward.

A program takes a tile of BLOCK tokens and CHANNELS channels, and adds one shifted tile per k; all but the first find
their numbers in the cache. The backward kernel does the same with the filter reversed, and sums the gradient of the
filter over its tile. These partial sums are written out and added afterwards, always in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from convbert.ops.gpu import as_rows, cut, find_tile

BLOCK = 64
CHANNELS = 64


def forward(hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """(B, T, C) or (N, C); see the public function."""
    out = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    _launch(_forward, [hidden], weight, [out], cu_seqlens)
    return out


def backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `hidden` and `weight`."""
    channels, _, kernel_size = weight.shape
    grad_hidden = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    tiles = cut(hidden.shape, cu_seqlens, BLOCK).number if hidden.numel() else 0
    partial = torch.empty(tiles, kernel_size, channels, dtype=torch.float32, device=hidden.device)
    _launch(_backward, [grad, hidden], weight, [grad_hidden, partial], cu_seqlens)
    return grad_hidden, partial.sum(0).t().unsqueeze(1).contiguous().to(weight.dtype)


def _launch(
    kernel: Any, inputs: list[Tensor], weight: Tensor, outputs: list[Tensor], cu_seqlens: Tensor | None
) -> None:
    """Run `kernel` on every tile and block of channels."""
    hidden = inputs[-1]
    if hidden.numel() == 0:
        return
    rows = [as_rows(x, x.dim() - 1) for x in inputs]
    tiles = cut(hidden.shape, cu_seqlens, BLOCK)
    channels, _, kernel_size = weight.shape
    with torch.cuda.device_of(hidden):
        kernel[(tiles.number * triton.cdiv(channels, CHANNELS),)](
            *rows,
            weight.squeeze(1).t().contiguous(),  # (K, C), so that one k of many channels is one load
            *outputs,
            *tiles[1:],
            channels,
            *(x.stride(0) for x in rows),
            **constants(kernel_size),
        )


def constants(kernel_size: int) -> dict[str, int]:
    """What a kernel is compiled for. The tiles of up to 9 k are in flight at once; of 31, registers would spill."""
    return {
        "K": kernel_size,
        "UNROLL": kernel_size if kernel_size <= 9 else 2,
        "BLOCK": BLOCK,
        "CHANNELS": CHANNELS,
    }


@triton.jit(do_not_specialize=["sequences", "length"])
def _forward(
    hidden,
    filters,
    out,
    cu_seqlens,
    sequences,
    length,
    channels,
    hidden_row,
    K: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    blocks = tl.cdiv(channels, CHANNELS)
    tile = tl.program_id(0) // blocks
    first, start, end = find_tile(tile, cu_seqlens, sequences, length, BLOCK)
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    exists = column < channels
    hidden += first.to(tl.int64) * hidden_row + column[None, :]
    total = tl.zeros([BLOCK, CHANNELS], tl.float32)
    for k in tl.range(0, K, loop_unroll_factor=UNROLL):
        read = row + (k - K // 2)
        readable = (first + read >= start) & (first + read < end) & exists[None, :]
        factors = tl.load(filters + k * channels + column, exists, 0.0).to(tl.float32)
        total += factors[None, :] * tl.load(hidden + read * hidden_row, readable, 0.0).to(tl.float32)
    out += first.to(tl.int64) * channels + column[None, :]
    tl.store(out + row * channels, total, (first + row < end) & exists[None, :])


@triton.jit(do_not_specialize=["sequences", "length"])
def _backward(
    grad,
    hidden,
    filters,
    grad_hidden,
    partial,
    cu_seqlens,
    sequences,
    length,
    channels,
    grad_row,
    hidden_row,
    K: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    blocks = tl.cdiv(channels, CHANNELS)
    tile = tl.program_id(0) // blocks
    first, start, end = find_tile(tile, cu_seqlens, sequences, length, BLOCK)
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    exists = column < channels
    written = (first + row < end) & exists[None, :]
    hidden += first.to(tl.int64) * hidden_row + column[None, :]
    own = tl.load(hidden + row * hidden_row, written, 0.0).to(tl.float32)
    grad += first.to(tl.int64) * grad_row + column[None, :]
    partial += tile.to(tl.int64) * K * channels + column
    total = tl.zeros([BLOCK, CHANNELS], tl.float32)
    for k in tl.range(0, K, loop_unroll_factor=UNROLL):
        reader = row - (k - K // 2)  # the token that reads ours with this k
        readable = (first + reader >= start) & (first + reader < end) & exists[None, :]
        grads = tl.load(grad + reader * grad_row, readable, 0.0).to(tl.float32)
        factors = tl.load(filters + k * channels + column, exists, 0.0).to(tl.float32)
        total += factors[None, :] * grads
        tl.store(partial + k * channels, tl.sum(grads * own, 0), exists)
    grad_hidden += first.to(tl.int64) * channels + column[None, :]
    tl.store(grad_hidden + row * channels, total, written)
