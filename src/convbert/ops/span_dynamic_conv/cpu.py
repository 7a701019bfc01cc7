"""Span-based dynamic convolution on the CPU: compiled for fp32, else as products with banded matrices.

For the products, tokens are cut into blocks of BLOCK. For a block, the kernels of its tokens are the diagonals of a
small matrix of BLOCK rows and BLOCK + K - 1 columns, and mixing is one product with the values of the block and K // 2
neighbours on either side. The zeros between the diagonals cost less than they save: the product runs in the matrix
library, and nothing of size N * C * K is ever made. A rectangle is treated as B sequences of equal length lying end to
end.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.ops import compiled
from convbert.ops.compiled.attention import evenly_spaced, room_for
from convbert.ops.unpad import position_in_sequence

BLOCK = 32


def forward(
    value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """(B, T, H, D) or (N, H, D); see the public function."""
    if _is_compiled(value, kernel_logits):
        value, kernel_logits = evenly_spaced(value), kernel_logits.contiguous()
        out = room_for(value, out)
        rows = value, value.stride(-3), kernel_logits, out, out.stride(-3)
        compiled.call("span_dynamic_conv_forward", *_sizes(value, kernel_logits, cu_seqlens), *rows)
        return out
    outside = _outside(value, kernel_logits.shape[-1], cu_seqlens)
    weights = _softmax(kernel_logits).masked_fill_(outside, 0).to(value.dtype)
    return _mix(_flat(weights), _flat(value)).view(value.shape)


def backward(
    grad: Tensor, value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `value` and `kernel_logits`.

    With weights w = softmax(logits), zeroed outside the sequence: the gradient of `value` is the same mixing with the
    transposed band, and the gradient of w[t, k] is grad[t] . value[t + k - K // 2].
    """
    taps = kernel_logits.shape[-1]
    if _is_compiled(grad, value, kernel_logits):
        inputs = [x.contiguous() for x in (grad, value, kernel_logits)]
        _, grad_value, grad_logits = (torch.empty_like(x) for x in inputs)
        weights = torch.empty_like(grad_logits)
        sizes = _sizes(value, kernel_logits, cu_seqlens)
        compiled.call("span_dynamic_conv_backward", *sizes, *inputs, weights, grad_value, grad_logits)
        return grad_value, grad_logits
    outside = _outside(value, taps, cu_seqlens)
    weights = _softmax(kernel_logits)
    flat_grad, flat_value = _flat(grad), _flat(value)
    transposed = _transposed_taps(_flat(weights.masked_fill(outside, 0)))
    grad_value = _mix(transposed.to(value.dtype), flat_grad)
    grad_weights = _tap_products(flat_grad, flat_value, taps).to(weights.dtype).view(weights.shape)
    grad_weights = grad_weights.masked_fill(outside, 0)
    grad_logits = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_value.view(value.shape), grad_logits.to(kernel_logits.dtype)


def _is_compiled(*tensors: Tensor) -> bool:
    taps = tensors[-1].shape[-1]
    return tensors[0].numel() > 0 and taps <= compiled.MAX_TAPS and compiled.takes(*tensors)


def _sizes(value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None) -> tuple[Any, ...]:
    """What both kernels are told first: threads, N, H, D, K, bounds."""
    heads, width = value.shape[-2:]
    bounds = compiled.bounds_arguments(value, cu_seqlens)
    threads = compiled.threads_for(value.numel())
    return threads, value.numel() // (heads * width), heads, width, kernel_logits.shape[-1], *bounds


def _flat(x: Tensor) -> Tensor:
    """(B, T, H, ...) or (N, H, ...) to (N, H, ...), contiguous."""
    return x.reshape(-1, *x.shape[-2:]).contiguous()


def _outside(value: Tensor, taps: int, cu_seqlens: Tensor | None) -> Tensor:
    """(T, 1, K) or (N, 1, K) bool: does tap k of token t fall outside the token's own sequence?"""
    if cu_seqlens is None:
        before = torch.arange(value.shape[1])
        after = before.flip(0)
    else:
        before, after = position_in_sequence(cu_seqlens, value.shape[0])
    offset = torch.arange(taps) - taps // 2
    return ((before[:, None] + offset < 0) | (offset > after[:, None]))[:, None]


def _softmax(kernel_logits: Tensor) -> Tensor:
    """Over the last axis, in fp32 or wider, contiguous."""
    taps = kernel_logits.shape[-1]
    # Taps first: the softmax over a contiguous axis of nine is several times slower than over a strided one.
    logits = kernel_logits.reshape(-1, taps).t().contiguous()
    weights = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(0)
    return weights.t().contiguous().view(kernel_logits.shape)


def _mix(weights: Tensor, value: Tensor) -> Tensor:
    """sum over k of weights[t, h, k] * value[t + k - K // 2, h], reading zero beyond the ends.

    Args:
        weights: (N, H, K). value: (N, H, D).
    """
    tokens, heads, width = value.shape
    blocks = _band(weights) @ _windows(value, weights.shape[-1])
    return blocks.transpose(1, 2).contiguous().view(-1, heads, width)[:tokens]


def _tap_products(grad: Tensor, value: Tensor, taps: int) -> Tensor:
    """(N, H, K): grad[t, h] . value[t + k - K // 2, h]."""
    tokens, heads, width = grad.shape
    rows = _pad_tokens(grad, 0, _num_blocks(tokens) * BLOCK - tokens).view(-1, BLOCK, heads, width)
    products = rows.transpose(1, 2) @ _windows(value, taps).transpose(-1, -2)
    return _diagonals(products.contiguous(), taps).contiguous().view(-1, heads, taps)[:tokens]


def _transposed_taps(weights: Tensor) -> Tensor:
    """(N, H, K): entry [s, h, j] is the weight with which token s + j - K // 2 reads token s."""
    tokens, _, taps = weights.shape
    padded = F.pad(weights.transpose(0, 1), (0, 0, taps // 2, taps // 2)).contiguous()
    heads, rows, _ = padded.shape
    view = padded.as_strided((heads, tokens, taps), (rows * taps, taps, taps - 1), taps - 1)
    return view.transpose(0, 1)


def _num_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


def _pad_tokens(x: Tensor, before: int, after: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, before, after)) if before or after else x


def _windows(x: Tensor, taps: int) -> Tensor:
    """(blocks, H, BLOCK + K - 1, D): each block's tokens with K // 2 neighbours on either side, overlapping."""
    tokens, heads, width = x.shape
    blocks, reach = _num_blocks(tokens), taps // 2
    padded = _pad_tokens(x, reach, reach + blocks * BLOCK - tokens)
    shape = (blocks, heads, BLOCK + 2 * reach, width)
    return padded.as_strided(shape, (BLOCK * heads * width, width, heads * width, 1))


def _band(weights: Tensor) -> Tensor:
    """(blocks, H, BLOCK, BLOCK + K - 1): row t of a block holds that token's taps from column t on."""
    tokens, heads, taps = weights.shape
    blocks = _num_blocks(tokens)
    band = weights.new_zeros(blocks, heads, BLOCK, BLOCK + taps - 1)
    rows = _pad_tokens(weights, 0, blocks * BLOCK - tokens).view(blocks, BLOCK, heads, taps)
    _diagonals(band, taps).copy_(rows)
    return band


def _diagonals(band: Tensor, taps: int) -> Tensor:
    """(blocks, BLOCK, H, K) view of the taps inside a contiguous band."""
    blocks, heads, rows, columns = band.shape
    strides = (heads * rows * columns, columns + 1, rows * columns, 1)
    return band.as_strided((blocks, rows, heads, taps), strides)
