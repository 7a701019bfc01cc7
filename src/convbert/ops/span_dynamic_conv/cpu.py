"""Span-based dynamic convolution on the CPU: compiled for fp32, else as products with banded matrices.

For the products, each sequence is cut into blocks of BLOCK tokens. For a block, the kernels of its tokens are the
diagonals of a small matrix of BLOCK rows and SPAN = BLOCK + K - 1 columns, and mixing is one product with the values of
the block and K // 2 neighbours on either side, zero beyond the sequence. The zeros between the diagonals cost less than
they save: the product runs in the matrix library, and nothing of size N * C * K is ever made. No block holds tokens of
two sequences: a weight of zero would not keep a NaN of one from the other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convbert.ops import compiled
from convbert.ops.varlen import VarlenBounds

BLOCK = 32


def forward(value: Tensor, kernel_logits: Tensor, bounds: VarlenBounds | None) -> Tensor:
    """(B, T, H, D) or (N, H, D); see the public function."""
    if _is_compiled(value, kernel_logits):
        value, kernel_logits = compiled.evenly_spaced(value), kernel_logits.contiguous()
        out = value.new_empty(value.shape)
        rows = value, value.stride(-3), kernel_logits, out, out.stride(-3)
        compiled.call("span_dynamic_conv_forward", *_sizes(value, kernel_logits, bounds), *rows)
        return out
    kernel_size = kernel_logits.shape[-1]
    blocks = _blocks_of(value, kernel_size, bounds)
    own = _own(_near(_softmax(kernel_logits).to(value.dtype), blocks), kernel_size)
    return _to_tokens(_band(own) @ _near(value, blocks), blocks).view(value.shape)


def backward(
    grad: Tensor, value: Tensor, kernel_logits: Tensor, bounds: VarlenBounds | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `value` and `kernel_logits`.

    With weights w = softmax(logits): the gradient of `value` is the same mixing with the transposed band, and the
    gradient of w[t, k] is grad[t] . value[t + k - K // 2], zero outside the sequence.
    """
    kernel_size = kernel_logits.shape[-1]
    if _is_compiled(grad, value, kernel_logits):
        inputs = [x.contiguous() for x in (grad, value, kernel_logits)]
        _, grad_value, grad_logits = (torch.empty_like(x) for x in inputs)
        weights = torch.empty_like(grad_logits)
        sizes = _sizes(value, kernel_logits, bounds)
        compiled.call("span_dynamic_conv_backward", *sizes, *inputs, weights, grad_value, grad_logits)
        return grad_value, grad_logits
    blocks = _blocks_of(value, kernel_size, bounds)
    weights = _softmax(kernel_logits)
    near_grad = _near(grad, blocks)
    readers = _readers(_near(weights.to(value.dtype), blocks), kernel_size)
    grad_value = _to_tokens(_band(readers) @ near_grad, blocks)
    products = _own(near_grad, kernel_size) @ _near(value, blocks).transpose(-1, -2)
    grad_weights = (
        _to_tokens(_diagonals(products.contiguous(), kernel_size), blocks)
        .to(weights.dtype)
        .view(weights.shape)
    )
    grad_logits = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_value.view(value.shape), grad_logits.to(kernel_logits.dtype)


def _is_compiled(*tensors: Tensor) -> bool:
    kernel_size = tensors[-1].shape[-1]
    return tensors[0].numel() > 0 and kernel_size <= compiled.MAX_KERNEL_SIZE and compiled.takes(*tensors)


def _sizes(value: Tensor, kernel_logits: Tensor, bounds: VarlenBounds | None) -> tuple[Any, ...]:
    """What both kernels are told first: threads, N, H, D, K, bounds."""
    heads, width = value.shape[-2:]
    limits = compiled.bounds_arguments(value, bounds)
    threads = compiled.threads_for(value.numel())
    return threads, value.numel() // (heads * width), heads, width, kernel_logits.shape[-1], *limits


class _Blocks(NamedTuple):
    """The way from the rows (N * H, D) of all tokens and heads into blocks, and back.

    Attributes:
        near: (blocks, H, SPAN) the row at each slot of a block, neighbours included; any row beyond the sequence.
        beyond: (n,) the slots, counted over all blocks, that lie beyond the sequence.
        back: (N, H) where each row stands in the blocks without neighbours (blocks, H, BLOCK).
    """

    near: Tensor
    beyond: Tensor
    back: Tensor


def _blocks_of(value: Tensor, kernel_size: int, bounds: VarlenBounds | None) -> _Blocks:
    """Of (B, T, H, D), or of (N, H, D) with bounds."""
    if bounds is None:
        batch, length = value.shape[:2]
        ends = range(0, batch * length + 1, length) if length else [0] * (batch + 1)
    else:
        ends = bounds.cu_seqlens.tolist()
    return _cut(tuple(ends), value.shape[-2], kernel_size)


@lru_cache(maxsize=2)  # the layers of a model, or of two that train together, ask one after the other
def _cut(all_ends: tuple[int, ...], heads: int, kernel_size: int) -> _Blocks:
    ends = torch.tensor(all_ends, device="cpu")
    number = (ends.diff() + BLOCK - 1) // BLOCK
    sequence = torch.repeat_interleave(number)
    in_sequence = torch.arange(len(sequence), device="cpu") - (number.cumsum(0) - number)[sequence]
    start, end = ends[sequence, None], ends[sequence + 1, None]
    reach = kernel_size // 2
    near = start + BLOCK * in_sequence[:, None] + torch.arange(-reach, BLOCK + reach, device="cpu")
    exists = (near >= start) & (near < end)
    head = torch.arange(heads, device="cpu")
    by_head = near.clamp(0, all_ends[-1] - 1)[:, None] * heads + head[:, None]
    beyond = (~exists)[:, None].expand(by_head.shape).flatten().nonzero().squeeze(1)
    # The slots that exist, block by block, are the tokens in their order.
    slot = exists[:, reach : reach + BLOCK].flatten().nonzero()
    back = slot // BLOCK * (heads * BLOCK) + head * BLOCK + slot % BLOCK
    return _Blocks(by_head, beyond, back)


def _near(x: Tensor, blocks: _Blocks) -> Tensor:
    """(B, T, H, D) or (N, H, D) to (blocks, H, SPAN, D): each block with its neighbours, zero beyond the sequence."""
    rows = x.reshape(-1, x.shape[-1]).index_select(0, blocks.near.flatten())
    return rows.index_fill_(0, blocks.beyond, 0).view(*blocks.near.shape, x.shape[-1])


def _own(near: Tensor, kernel_size: int) -> Tensor:
    """(blocks, H, SPAN, D) to (blocks, H, BLOCK, D): without the neighbours."""
    return near[:, :, kernel_size // 2 : kernel_size // 2 + BLOCK]


def _to_tokens(x: Tensor, blocks: _Blocks) -> Tensor:
    """(blocks, H, BLOCK, D) to (N * H, D)."""
    return x.reshape(-1, x.shape[-1]).index_select(0, blocks.back.flatten())


def _softmax(kernel_logits: Tensor) -> Tensor:
    """Over the last axis, in fp32 or wider, contiguous."""
    kernel_size = kernel_logits.shape[-1]
    # K first: the softmax over a contiguous axis of nine is several times slower than over a strided one.
    logits = kernel_logits.reshape(-1, kernel_size).t().contiguous()
    weights = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(0)
    return weights.t().contiguous().view(kernel_logits.shape)


def _readers(near: Tensor, kernel_size: int) -> Tensor:
    """Kernels (blocks, H, SPAN, K) to (blocks, H, BLOCK, K): entry [t, j] is the weight with which token t + j - K // 2
    reads token t."""
    blocks, heads, span, _ = near.shape
    strides = (heads * span * kernel_size, span * kernel_size, kernel_size, kernel_size - 1)
    return near.as_strided((blocks, heads, BLOCK, kernel_size), strides, kernel_size - 1)


def _band(kernels: Tensor) -> Tensor:
    """(blocks, H, BLOCK, K) to (blocks, H, BLOCK, SPAN): row t of a block holds its K numbers from column t on."""
    blocks, heads, _, number = kernels.shape
    band = kernels.new_zeros(blocks, heads, BLOCK, BLOCK + number - 1)
    _diagonals(band, number).copy_(kernels)
    return band


def _diagonals(band: Tensor, kernel_size: int) -> Tensor:
    """(blocks, H, BLOCK, K) view of the numbers inside a contiguous band."""
    blocks, heads, rows, columns = band.shape
    strides = (heads * rows * columns, rows * columns, columns + 1, 1)
    return band.as_strided((blocks, heads, rows, kernel_size), strides)
