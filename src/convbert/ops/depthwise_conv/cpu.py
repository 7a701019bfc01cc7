"""Depthwise convolution on the CPU: compiled for fp32, else oneDNN's channels-last kernel, which reads (T, C) rows as
they lie.

For oneDNN, an unpadded batch is spread out first so that K // 2 zero rows separate its sequences, and is one long
row from then on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.ops import compiled
from convbert.ops.depthwise_conv.reference import depthwise_conv as reference
from convbert.ops.varlen import VarlenBounds

# oneDNN's bf16 kernel never returns for kernel sizes of 15 or more on 31 tokens or more (torch 2.13, AVX-512).
ONEDNN_KERNEL_SIZE = 13


def forward(hidden: Tensor, weight: Tensor, bounds: VarlenBounds | None) -> Tensor:
    """(B, T, C) or (N, C); see the public function."""
    if _is_compiled(hidden, weight):
        return _compiled_forward(hidden, _filter(weight), bounds)
    rows, spread = _spread(hidden, weight.shape[-1], bounds)
    return _gather(_convolve(spread, weight), rows)


def backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, bounds: VarlenBounds | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `hidden` (the same convolution with the filter reversed) and of `weight`."""
    if _is_compiled(grad, hidden, weight):
        grad_hidden = _compiled_forward(grad, _filter(weight.flip(-1)), bounds)
        return grad_hidden, _compiled_filter_gradient(grad, hidden, weight, bounds)
    rows, spread_grad = _spread(grad, weight.shape[-1], bounds)
    _, spread = _spread(hidden, weight.shape[-1], bounds)
    return _gather(_convolve(spread_grad, weight.flip(-1)), rows), _filter_products(
        spread_grad, spread, weight
    )


def _is_compiled(*tensors: Tensor) -> bool:
    return tensors[0].numel() > 0 and compiled.takes(*tensors)


def _filter(weight: Tensor) -> Tensor:
    """(C, 1, K) to (K, C): a row for each of the K, as the kernels read it."""
    return weight[:, 0].t().contiguous()


def _compiled_forward(hidden: Tensor, by_rows: Tensor, bounds: VarlenBounds | None) -> Tensor:
    hidden = hidden.contiguous()
    out = torch.empty_like(hidden)
    sizes = _sizes(hidden, len(by_rows), bounds)
    compiled.call("depthwise_conv_forward", *sizes, hidden, by_rows, out)
    return out


def _compiled_filter_gradient(
    grad: Tensor, hidden: Tensor, weight: Tensor, bounds: VarlenBounds | None
) -> Tensor:
    threads, *sizes = _sizes(hidden, weight.shape[-1], bounds)
    partial = hidden.new_zeros(threads, weight.shape[-1], hidden.shape[-1])
    compiled.call(
        "depthwise_conv_filter_gradient", threads, *sizes, grad.contiguous(), hidden.contiguous(), partial
    )
    return partial.sum(0).t().unsqueeze(1).contiguous()


def _sizes(hidden: Tensor, kernel_size: int, bounds: VarlenBounds | None) -> tuple[Any, ...]:
    """What both kernels are told first: threads, N, C, K, bounds."""
    channels = hidden.shape[-1]
    limits = compiled.bounds_arguments(hidden, bounds)
    return compiled.threads_for(hidden.numel()), hidden.numel() // channels, channels, kernel_size, *limits


def _convolve(hidden: Tensor, weight: Tensor) -> Tensor:
    """(B, T, C) to (B, T, C), zero beyond both ends."""
    batch, length, channels = hidden.shape
    kernel_size = weight.shape[-1]
    if hidden.numel() == 0:
        return torch.zeros_like(hidden)
    if kernel_size > ONEDNN_KERNEL_SIZE:
        return reference(hidden, weight)
    # A (B, 1, T, C) image in channels-last memory is our row-major tensor, so nothing is transposed.
    image = hidden.contiguous().view(batch, 1, length, channels).permute(0, 3, 1, 2)
    filters = weight.reshape(channels, 1, 1, kernel_size)
    out = F.conv2d(image, filters, padding=(0, kernel_size // 2), groups=channels)
    return out.permute(0, 2, 3, 1).contiguous().view(hidden.shape)


def _filter_products(grad: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
    """(C, 1, K): for each k, the sum over all tokens of grad[t] * hidden[t + k - K // 2]."""
    length, kernel_size = hidden.shape[1], weight.shape[-1]
    sums = grad.new_zeros(kernel_size, hidden.shape[-1], dtype=torch.promote_types(grad.dtype, torch.float32))
    for k in range(kernel_size):
        shift = k - kernel_size // 2
        first, last = max(0, -shift), length - max(0, shift)
        if last > first:
            products = grad[:, first:last] * hidden[:, first + shift : last + shift]
            sums[k] = products.sum((0, 1), dtype=sums.dtype)
    return sums.t().unsqueeze(1).to(weight.dtype).contiguous()


def _spread(tokens: Tensor, kernel_size: int, bounds: VarlenBounds | None) -> tuple[Tensor | None, Tensor]:
    """(B, T, C) as it is; or (N, C) to (1, N + gaps, C), zero between sequences, and the rows (N,) of the tokens."""
    if bounds is None:
        return None, tokens
    gap, batch = kernel_size // 2, len(bounds.cu_seqlens) - 1
    rows = bounds.token_indices(bounds.cu_seqlens[:-1] + gap * torch.arange(batch, device=tokens.device))
    spread = tokens.new_zeros(tokens.shape[0] + gap * batch, tokens.shape[1])
    return rows, spread.index_copy_(0, rows, tokens)[None]


def _gather(spread: Tensor, rows: Tensor | None) -> Tensor:
    return spread if rows is None else spread[0].index_select(0, rows)
