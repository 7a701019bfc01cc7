"""Softmax attention on a rectangle or bounded by cu_seqlens: compiled for fp32 on a CPU, else PyTorch's own kernels."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.ops import compiled
from convbert.ops.compiled.attention import attention as compiled_attention


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(query key^T / sqrt(D)) value, per head and per sequence.

    Args:
        query, key, value: (B, T, H, D), or (N, H, D) with `cu_seqlens`.
        mask: (B, T) bool, True where there is a token; rectangles only. A row without any token attends uniformly.
        cu_seqlens: (B + 1,) int32, first entry 0, last entry N.
        dropout: probability of dropping an attention weight.

    Returns:
        Same shape as `query`.
    """
    if mask is None and query.numel() > 0 and compiled.takes(query, key, value):
        return compiled_attention(query, key, value, cu_seqlens, _longest(query, cu_seqlens), dropout)
    if cu_seqlens is not None:
        return _per_sequence(query, key, value, cu_seqlens, dropout)
    bias = None if mask is None else additive_mask(mask, query.dtype)
    return _rectangle(query, key, value, bias, dropout)


def attention_with_weights(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """As `attention` on a rectangle, in plain steps, and the weights (B, H, T, T) after dropout."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + additive_mask(mask, scores.dtype)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ value).transpose(1, 2), weights


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T) bool to (B, 1, 1, T): 0 at tokens, the lowest finite number elsewhere (so that no row becomes NaN)."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]


def _longest(query: Tensor, cu_seqlens: Tensor | None) -> int:
    return query.shape[1] if cu_seqlens is None else int(cu_seqlens.diff().max())


def _rectangle(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    return mixed.transpose(1, 2)


def _per_sequence(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, dropout: float) -> Tensor:
    bounds = cu_seqlens.tolist()
    if bounds[-1] == 0:
        return query * key * value  # no tokens, but still part of the graph
    mixed = [
        _rectangle(query[None, start:end], key[None, start:end], value[None, start:end], None, dropout)[0]
        for start, end in pairwise(bounds)
        if end > start
    ]
    return torch.cat(mixed)
