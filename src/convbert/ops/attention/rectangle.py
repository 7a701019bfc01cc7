"""Attention on a rectangle, with or without padding: PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rectangle(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """(B, T, H, D); `bias` (B, 1, 1, T) is added to the scores."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    return mixed.transpose(1, 2)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T) bool to (B, 1, 1, T): 0 at tokens, the lowest finite number elsewhere (so that no row becomes NaN)."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]
