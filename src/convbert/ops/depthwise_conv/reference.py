"""The definition of the depthwise convolution (first half of the separable convolution of the span-based key)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv(hidden: Tensor, weight: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """out[t, c] = sum over k of weight[c, 0, k] * hidden[t + k - K // 2, c], each sequence alone."""
    if cu_seqlens is not None:
        bounds = cu_seqlens.tolist()
        sequences = [
            depthwise_conv(hidden[None, start:end], weight)[0]
            for start, end in list(pairwise(bounds)) or [(0, 0)]
        ]
        return torch.cat(sequences)
    length, kernel_size = hidden.shape[1], weight.shape[-1]
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    padded = F.pad(hidden.to(accumulate), (0, 0, kernel_size // 2, kernel_size // 2))
    out = torch.zeros_like(hidden, dtype=accumulate)
    for k in range(kernel_size):
        out = out + weight[:, 0, k].to(accumulate) * padded[:, k : k + length]
    return out.to(hidden.dtype)
