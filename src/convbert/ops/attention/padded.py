"""Attention on (B, T), with or without padding: PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend_padded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """As the public `attention`, on (B, T, H, D)."""
    bias = None
    if mask is not None:
        # The lowest finite number, so that a row without tokens is not NaN.
        bias = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device)
        bias = bias.masked_fill(~mask, torch.finfo(query.dtype).min)[:, None, None, :]
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    return mixed.transpose(1, 2)
