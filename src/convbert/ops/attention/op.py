"""Softmax attention on a rectangle or bounded by cu_seqlens: compiled for fp32 on a CPU, else PyTorch's own kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convbert.ops import compiled
from convbert.ops.attention.packed import packed_attention
from convbert.ops.attention.rectangle import additive_mask, rectangle
from convbert.ops.compiled.attention import attention as compiled_attention


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    max_length: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(query key^T / sqrt(D)) value, per head and per sequence.

    Args:
        query, key, value: (B, T, H, D), or (N, H, D) with `cu_seqlens`.
        mask: (B, T) bool, True where there is a token; rectangles only. A row without any token attends uniformly.
        cu_seqlens: (B + 1,) int32, first entry 0, last entry N.
        max_length: tokens in the longest of these sequences, or more; None has a GPU count them and wait.
        dropout: probability of dropping an attention weight.

    Returns:
        Same shape as `query`.

    Raises:
        ValueError: the operands differ in shape.
    """
    if not query.shape == key.shape == value.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        raise ValueError(f"query, key and value must have one shape, got {shapes}")
    if mask is None and query.numel() > 0 and 0 <= dropout < 1 and _is_compiled(query, key, value):
        return compiled_attention(query, key, value, cu_seqlens, dropout)
    if cu_seqlens is not None:
        return packed_attention(query, key, value, cu_seqlens, max_length, dropout)
    bias = None if mask is None else additive_mask(mask, query.dtype)
    return rectangle(query, key, value, bias, dropout)


def _is_compiled(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return compiled.takes(query, key, value) and not torch.is_autocast_enabled("cpu")


def attention_with_weights(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """As `attention` on a rectangle, in plain steps, and the weights (B, H, T, T) after dropout."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        # Filled, not added: in fp16 the sum of two low numbers is not finite, and a row of such sums is NaN.
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ value).transpose(1, 2), weights
