"""Attention on (B, T): its definition in plain steps, and PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_with_weights(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """softmax(query key^T / sqrt(D)) value of (B, T, H, D), and the weights (B, H, T, T) after dropout.

    Args:
        mask: (B, T) bool, True where there is a token. A row without any token attends uniformly.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        # Filled, not added: in fp16 the sum of two low numbers is not finite, and a row of such sums is NaN.
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ value).transpose(1, 2), weights


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
