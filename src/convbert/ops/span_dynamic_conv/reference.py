"""The definition of the mixing step of span-based dynamic convolution (paper, equations 4 and 6)."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import add

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
    kernel_size = kernel_logits.shape[-1]
    accumulate = torch.promote_types(value.dtype, torch.float32)
    weights = kernel_logits.to(accumulate).softmax(-1).split(1, -1)
    padded = F.pad(value.to(accumulate), (0, 0, 0, 0, kernel_size // 2, kernel_size // 2))
    # Ends are counted from the right, so that a traced program needs no arithmetic on its length.
    terms = (weight * padded[:, k : k + 1 - kernel_size or None] for k, weight in enumerate(weights))
    return reduce(add, terms).to(value.dtype)
