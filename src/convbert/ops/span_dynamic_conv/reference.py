"""The definition of the mixing step of span-based dynamic convolution (paper, equations 4 and 6)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def span_dynamic_conv(value: Tensor, kernel_logits: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """out[t, h] = sum over k of softmax(kernel_logits[t, h])[k] * value[t + k - K // 2, h], each sequence alone."""
    if cu_seqlens is not None:
        bounds = cu_seqlens.tolist()
        sequences = [
            span_dynamic_conv(value[None, start:end], kernel_logits[None, start:end])[0]
            for start, end in list(pairwise(bounds)) or [(0, 0)]
        ]
        return torch.cat(sequences)
    length, kernel_size = value.shape[1], kernel_logits.shape[-1]
    accumulate = torch.promote_types(value.dtype, torch.float32)
    weights = kernel_logits.to(accumulate).softmax(-1)
    padded = F.pad(value.to(accumulate), (0, 0, 0, 0, kernel_size // 2, kernel_size // 2))
    out = torch.zeros_like(value, dtype=accumulate)
    for k in range(kernel_size):
        out = out + weights[..., k, None] * padded[:, k : k + length]
    return out.to(value.dtype)
