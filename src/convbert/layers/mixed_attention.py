"""Attention heads and span-convolution heads side by side, sharing the query (paper, section 3.3, figure 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from convbert.layers.layout import Layout
from convbert.layers.linear import Linear
from convbert.ops import attention, depthwise_conv, linear, span_dynamic_conv
from convbert.ops.attention import attention_with_weights


class MixedOutput(NamedTuple):
    """`context` (..., 2 H D); the attention weights (B, H, T, T) where the layout is eager; the kernel logits
    (..., H, K)."""

    context: Tensor
    attention_weights: Tensor | None
    kernel_logits: Tensor


class SeparableConv(nn.Module):
    """Depthwise, then pointwise convolution: the key that covers a span. `nn.Conv1d`s hold the published names."""

    def __init__(self, in_channels: int, out_channels: int, taps: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(in_channels, in_channels, taps, groups=in_channels, bias=False)
        self.pointwise = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels, 1))

    def forward(self, states: Tensor, layout: Layout) -> Tensor:
        """(..., C) to (..., A)."""
        weight = self.depthwise.weight
        spans = depthwise_conv(states, weight, layout.cu_seqlens, backend=layout.conv_backend)
        return linear(spans, self.pointwise.weight.squeeze(-1), self.bias.squeeze(-1))


class MixedAttention(nn.Module):
    """H attention heads and H span-convolution heads, each of width D.

    Args:
        width: model width C.
        num_heads: H, heads of one branch.
        head_size: D.
        taps: K, taps of the dynamic kernel and of the depthwise filter.
        dropout: of the attention weights; the dynamic kernel has none, as in the original.
    """

    def __init__(self, *, width: int, num_heads: int, head_size: int, taps: int, dropout: float) -> None:
        super().__init__()
        inner = num_heads * head_size
        self.num_heads, self.head_size, self.dropout = num_heads, head_size, dropout
        self.query = Linear(width, inner)
        self.key = Linear(width, inner)
        self.value = Linear(width, inner)
        self.key_conv_attn_layer = SeparableConv(width, inner, taps)
        self.conv_kernel_layer = Linear(inner, num_heads * taps)
        self.conv_out_layer = Linear(width, inner)

    def forward(self, states: Tensor, layout: Layout) -> MixedOutput:
        """Mix tokens.

        Args:
            states: (B, T, C), zero where the convolution may not read; or (N, C) where the layout has bounds.
        """
        query = self.query(states)
        attended, weights = self._attend(query, states, layout)
        convolved, kernel_logits = self._convolve(query, states, layout)
        context = torch.cat([attended.flatten(-2), convolved.flatten(-2)], dim=-1)
        return MixedOutput(context, weights, kernel_logits)

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1))

    def _attend(self, query: Tensor, states: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        heads = self._heads(query), self._heads(self.key(states)), self._heads(self.value(states))
        dropout = self.dropout if self.training else 0.0
        if layout.eager:
            return attention_with_weights(*heads, mask=layout.attention_mask, dropout=dropout)
        mixed = attention(
            *heads,
            mask=layout.attention_mask,
            cu_seqlens=layout.cu_seqlens,
            max_length=layout.max_length,
            dropout=dropout,
        )
        return mixed, None

    def _convolve(self, query: Tensor, states: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        span_key = self.key_conv_attn_layer(states, layout)
        kernel_logits = self._heads(self.conv_kernel_layer(span_key * query))
        # The zero beyond a sequence stands for the projected state, bias included.
        value = self._heads(layout.readable(self.conv_out_layer(states)))
        mixed = span_dynamic_conv(value, kernel_logits, layout.cu_seqlens, backend=layout.conv_backend)
        return mixed, kernel_logits
