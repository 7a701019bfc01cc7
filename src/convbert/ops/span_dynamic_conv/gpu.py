"""Span-based dynamic convolution on a GPU, in Triton: one kernel forward, one backward.

A program takes a tile of BLOCK tokens and one head. The kernels of these tokens are the diagonals of a matrix of BLOCK
rows and SPAN columns, the tokens within reach, and mixing is one product of that band with the values there, as on the
CPU. The band is loaded as one, so that the softmax over k is a softmax over its rows. Each value is read once
and each result is written once, but for the K // 2 neighbours on either side of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from convbert.ops.gpu import as_rows, cut, find_tile

ROW_BYTES = 128  # of a head's channels, that a program takes at a time

LOG2_E = tl.constexpr(1.4426950408889634)


def forward(value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """(B, T, H, D) or (N, H, D); see the public function."""
    out = torch.empty(value.shape, dtype=value.dtype, device=value.device)
    _launch(_forward, [value, kernel_logits], [out], cu_seqlens)
    return out


def backward(
    grad: Tensor, value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `value` and `kernel_logits`. The softmax is computed again: nothing was kept but the inputs."""
    grad_value = torch.empty(value.shape, dtype=value.dtype, device=value.device)
    grad_logits = torch.empty(kernel_logits.shape, dtype=kernel_logits.dtype, device=value.device)
    _launch(_backward, [grad, value, kernel_logits], [grad_value, grad_logits], cu_seqlens)
    return grad_value, grad_logits


def _launch(kernel: Any, inputs: list[Tensor], outputs: list[Tensor], cu_seqlens: Tensor | None) -> None:
    """Run `kernel` on every tile and head. Of the inputs, value and logits are the last two."""
    value, logits = inputs[-2:]
    if value.numel() == 0:
        return
    heads, width = value.shape[-2:]
    kernel_size = logits.shape[-1]
    block, warps = tile(kernel is _backward, kernel_size, value.dtype)
    tiles = cut(value.shape, cu_seqlens, block)
    rows = [as_rows(x, x.dim() - 2) for x in inputs]
    with torch.cuda.device_of(value):
        kernel[(tiles.number * heads,)](
            *rows,
            *outputs,
            *tiles[1:],
            heads,
            *(stride for x in rows for stride in x.stride()[:2]),
            num_warps=warps,
            **constants(block, kernel_size, width, value.dtype),
        )


def tile(is_backward: bool, kernel_size: int, dtype: torch.dtype) -> tuple[int, int]:
    """Tokens of a tile, and warps of a program: what needs the fewest instructions per token and no spilled register.

    A tile of 16 has fewer zeros beside its band than one of 32; kernel sizes above 17 do not fit into it.
    """
    is_half = dtype != torch.float32
    block = 32 if kernel_size > 17 or (is_half and not is_backward) else 16
    return block, block // 16 if is_half else 4


def constants(block: int, kernel_size: int, width: int, dtype: torch.dtype) -> dict[str, int]:
    """What a kernel is compiled for. A tile reads block + kernel_size - 1 tokens, at most SPAN."""
    return {
        "K": kernel_size,
        "K_ROUNDED": triton.next_power_of_2(kernel_size),
        "WIDTH": width,
        "BLOCK": block,
        "SPAN": 2 * block,
        # Of fp32 products: three TF32 products on tensor cores instead of one in fp32. AMD's compiler has no such
        # thing, and tiles of 32 tokens would not fit into registers.
        "PRECISION": "ieee" if torch.version.hip or block > 16 else "tf32x3",
        "CHANNELS": min(ROW_BYTES // dtype.itemsize, max(16, triton.next_power_of_2(width))),
    }


@triton.jit(do_not_specialize=["sequences", "length"])
def _forward(
    value,
    logits,
    out,
    cu_seqlens,
    sequences,
    length,
    heads,
    value_row,
    value_head,
    logits_row,
    logits_head,
    K: tl.constexpr,
    K_ROUNDED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    program = tl.program_id(0)
    head = program % heads
    first, start, end = find_tile(program // heads, cu_seqlens, sequences, length, BLOCK)
    origin = first.to(tl.int64)
    row = tl.arange(0, BLOCK)
    near = tl.arange(0, SPAN) - K // 2  # tokens within reach, counted from the first of the tile
    written = first + row < end
    readable = (first + near >= start) & (first + near < end) & (near < BLOCK + K // 2)

    logits += origin * logits_row + head * logits_head
    weights = _own_kernels(logits, logits_row, row, near, written, K)

    value += origin * value_row + head * value_head
    out += (origin * heads + head) * WIDTH
    for channel in range(0, WIDTH, CHANNELS):
        columns = channel + tl.arange(0, CHANNELS)
        values = _rows_of(value, value_row, near, columns, readable, WIDTH)
        mixed = tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        _write_rows(out, heads * WIDTH, row, columns, mixed, written, WIDTH)


@triton.jit(do_not_specialize=["sequences", "length"])
def _backward(
    grad,
    value,
    logits,
    grad_value,
    grad_logits,
    cu_seqlens,
    sequences,
    length,
    heads,
    grad_row,
    grad_head,
    value_row,
    value_head,
    logits_row,
    logits_head,
    K: tl.constexpr,
    K_ROUNDED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """With weights w = softmax(logits): a value gathers the gradients of its readers, each times the w with which it
    reads; the gradient of w is gradient times value; and of the logits w * (grad_w - sum of w * grad_w)."""
    program = tl.program_id(0)
    head = program % heads
    first, start, end = find_tile(program // heads, cu_seqlens, sequences, length, BLOCK)
    origin = first.to(tl.int64)
    row = tl.arange(0, BLOCK)
    near = tl.arange(0, SPAN) - K // 2
    written = first + row < end
    readable = (first + near >= start) & (first + near < end) & (near < BLOCK + K // 2)

    logits += origin * logits_row + head * logits_head
    weights = _own_kernels(logits, logits_row, row, near, written, K)
    reading = _reading_kernels(logits, logits_row, row, near, readable, K, K_ROUNDED)

    grad += origin * grad_row + head * grad_head
    value += origin * value_row + head * value_head
    grad_value += (origin * heads + head) * WIDTH
    grad_weights = tl.zeros([BLOCK, SPAN], tl.float32)
    for channel in range(0, WIDTH, CHANNELS):
        columns = channel + tl.arange(0, CHANNELS)
        own_grads = _rows_of(grad, grad_row, row, columns, written, WIDTH)
        near_grads = _rows_of(grad, grad_row, near, columns, readable, WIDTH)
        values = _rows_of(value, value_row, near, columns, readable, WIDTH)
        grad_weights += tl.dot(own_grads, tl.trans(values), input_precision=PRECISION)
        gathered = tl.dot(reading.to(near_grads.dtype), near_grads, input_precision=PRECISION)
        _write_rows(grad_value, heads * WIDTH, row, columns, gathered, written, WIDTH)

    k = near[None, :] - row[:, None] + K // 2
    in_band = k.to(tl.uint32) < K
    grad_weights = tl.where(in_band, grad_weights, 0.0)
    centred = grad_weights - tl.sum(weights * grad_weights, 1)[:, None]
    grad_logits += (origin * heads + head) * K
    inside = in_band & written[:, None]
    tl.store(grad_logits + row[:, None] * (heads * K) + k, weights * centred, inside)


@triton.jit
def _own_kernels(logits, logits_row, row, near, written, K: tl.constexpr):
    """(BLOCK, SPAN): the weight with which token `row` reads token `near`, which may lie beyond the sequence."""
    k = near[None, :] - row[:, None] + K // 2
    in_band = k.to(tl.uint32) < K
    band = tl.load(logits + row[:, None] * logits_row + k, in_band & written[:, None], 0.0).to(tl.float32)
    band = tl.where(in_band, band, float("-inf"))
    band = _exp(band, tl.max(band, 1)[:, None])
    return band * (1 / tl.sum(band, 1))[:, None]


@triton.jit
def _reading_kernels(logits, logits_row, row, near, readable, K: tl.constexpr, K_ROUNDED: tl.constexpr):
    """(BLOCK, SPAN): the weight with which token `near` reads token `row`."""
    every_k = tl.arange(0, K_ROUNDED)[None, :]
    is_k = every_k < K
    kernels = tl.load(logits + near[:, None] * logits_row + every_k, readable[:, None] & is_k, 0.0)
    kernels = tl.where(is_k, kernels.to(tl.float32), float("-inf"))
    highest = tl.max(kernels, 1)
    total = tl.sum(_exp(kernels, highest[:, None]), 1)

    k = row[:, None] - near[None, :] + K // 2
    in_band = k.to(tl.uint32) < K
    band = tl.load(logits + near[None, :] * logits_row + k, in_band & readable[None, :], 0.0).to(tl.float32)
    return tl.where(in_band, _exp(band, highest[None, :]) * (1 / total)[None, :], 0.0)


@triton.jit
def _exp(x, highest):
    """exp(x - highest). The rounding of the product below is the same for all k, and cancels in the softmax."""
    return tl.exp2(tl.fma(x, LOG2_E, highest * -LOG2_E))


@triton.jit
def _rows_of(pointer, stride, tokens, columns, mask, WIDTH: tl.constexpr):
    """(tokens, columns), zero where the mask forbids reading."""
    inside = mask[:, None] & (columns < WIDTH)[None, :]
    return tl.load(pointer + tokens[:, None] * stride + columns[None, :], inside, 0.0)


@triton.jit
def _write_rows(pointer, stride, tokens, columns, result, mask, WIDTH: tl.constexpr):
    inside = mask[:, None] & (columns < WIDTH)[None, :]
    tl.store(pointer + tokens[:, None] * stride + columns[None, :], result, inside)
