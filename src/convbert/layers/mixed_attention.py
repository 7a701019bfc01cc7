"""Attention heads and span-convolution heads side by side, sharing the query (paper, section 3.3, figure 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.layers.context import ForwardContext
from convbert.ops import attention, attention_with_weights, depthwise_conv, span_dynamic_conv
from convbert.ops._torch_internals import is_listened_to


class MixedOutput(NamedTuple):
    """`context` (..., 2 H D); the attention weights (B, H, T, T) where the context is eager; the kernel logits
    (..., H, K)."""

    context: Tensor
    attention_weights: Tensor | None
    kernel_logits: Tensor


class DepthwiseConv(nn.Conv1d):
    """A filter per channel, through `ops.depthwise_conv`."""

    def forward(self, states: Tensor, context: ForwardContext) -> Tensor:  # type: ignore[override]
        """(..., C) to (..., C)."""
        return depthwise_conv(states, self.weight, context.bounds, backend=context.conv_backend)


class SeparableConv(nn.Module):
    """Depthwise, then pointwise convolution: the key that covers a span. The names are the published ones."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(in_channels, in_channels, kernel_size, groups=in_channels, bias=False)
        self.pointwise = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels, 1))

    def forward(self, states: Tensor, context: ForwardContext) -> Tensor:
        """(..., C) to (..., A)."""
        states, bias = self.depthwise(states, context), self.bias.squeeze(-1)
        if type(self.pointwise) is nn.Conv1d and not is_listened_to(self.pointwise):
            return F.linear(states, self.pointwise.weight.squeeze(-1), bias)
        return self.pointwise(states.transpose(-1, -2)).transpose(-1, -2) + bias  # (..., C, T), as it expects


class MixedAttention(nn.Module):
    """H attention heads and H span-convolution heads, each of width D.

    Args:
        width: model width C.
        num_heads: H, heads of one branch.
        head_size: D.
        kernel_size: K, of the dynamic kernel and of the depthwise filter.
        dropout: of the attention weights; the dynamic kernel has none, as in the original.
    """

    def __init__(
        self, *, width: int, num_heads: int, head_size: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        inner = num_heads * head_size
        self.num_heads, self.head_size, self.dropout = num_heads, head_size, dropout
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.key_conv_attn_layer = SeparableConv(width, inner, kernel_size)
        self.conv_kernel_layer = nn.Linear(inner, num_heads * kernel_size)
        self.conv_out_layer = nn.Linear(width, inner)

    def forward(self, states: Tensor, context: ForwardContext) -> MixedOutput:
        """Mix tokens.

        Args:
            states: (B, T, C), zero where the convolution may not read; or (N, C) where the context has bounds.
        """
        query, key, value = self.query(states), self.key(states), self.value(states)
        attended, weights = self._attend(query, key, value, context)
        kernel_logits = self._heads(self.conv_kernel_layer(self.key_conv_attn_layer(states, context) * query))
        # The zero beyond a sequence stands for the projected state, bias included.
        conv_value = self._heads(context.readable(self.conv_out_layer(states)))
        convolved = span_dynamic_conv(conv_value, kernel_logits, context.bounds, backend=context.conv_backend)
        mixed = torch.stack((attended, convolved), dim=-3)
        return MixedOutput(mixed.flatten(-3), weights, kernel_logits)

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1))

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, context: ForwardContext
    ) -> tuple[Tensor, Tensor | None]:
        heads = self._heads(query), self._heads(key), self._heads(value)
        dropout = self.dropout if self.training else 0.0
        if context.eager:
            return attention_with_weights(*heads, mask=context.attention_mask, dropout=dropout)
        return attention(
            *heads, mask=context.attention_mask, cu_seqlens=context.bounds, dropout=dropout
        ), None
