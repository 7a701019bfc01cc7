"""Attention heads and span-convolution heads side by side, sharing the query (paper, section 3.3, figure 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.layers.layout import Layout
from convbert.ops import attention, depthwise_conv, span_dynamic_conv
from convbert.ops.attention import attention_with_weights


class MixedOutput(NamedTuple):
    """`context` (..., 2 H D); the attention weights (B, H, T, T) where the layout is eager; the kernel logits
    (..., H, K)."""

    context: Tensor
    attention_weights: Tensor | None
    kernel_logits: Tensor


class DepthwiseConv(nn.Conv1d):
    """A filter per channel, through `ops.depthwise_conv`."""

    def forward(self, states: Tensor, layout: Layout) -> Tensor:  # type: ignore[override]
        """(..., C) to (..., C)."""
        return depthwise_conv(states, self.weight, layout.cu_seqlens, backend=layout.conv_backend)


class PointwiseConv(nn.Conv1d):
    """A linear layer in the shape of a convolution."""

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        """(..., C) and (A, 1) to (..., A)."""
        return F.linear(states, self.weight.squeeze(-1), bias.squeeze(-1))


class SeparableConv(nn.Module):
    """Depthwise, then pointwise convolution: the key that covers a span. The names are the published ones."""

    def __init__(self, in_channels: int, out_channels: int, taps: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(in_channels, in_channels, taps, groups=in_channels, bias=False)
        self.pointwise = PointwiseConv(in_channels, out_channels, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels, 1))

    def forward(self, states: Tensor, layout: Layout) -> Tensor:
        """(..., C) to (..., A)."""
        return self.pointwise(self.depthwise(states, layout), self.bias)


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
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.key_conv_attn_layer = SeparableConv(width, inner, taps)
        self.conv_kernel_layer = nn.Linear(inner, num_heads * taps)
        self.conv_out_layer = nn.Linear(width, inner)

    def forward(self, states: Tensor, layout: Layout) -> MixedOutput:
        """Mix tokens.

        Args:
            states: (B, T, C), zero where the convolution may not read; or (N, C) where the layout has bounds.
        """
        query, key, value, conv_value = (
            layer(states) for layer in (self.query, self.key, self.value, self.conv_out_layer)
        )
        attended, weights = self._attend(query, key, value, layout)
        kernel_logits = self._heads(self.conv_kernel_layer(self.key_conv_attn_layer(states, layout) * query))
        convolved = self._convolve(conv_value, kernel_logits, layout)
        context = torch.stack((attended, convolved), dim=-3)
        return MixedOutput(context.flatten(-3), weights, kernel_logits)

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1))

    def _convolve(self, value: Tensor, kernel_logits: Tensor, layout: Layout) -> Tensor:
        # The zero beyond a sequence stands for the projected state, bias included.
        value = self._heads(layout.readable(value))
        bounds, backend = layout.cu_seqlens, layout.conv_backend
        return span_dynamic_conv(value, kernel_logits, bounds, backend=backend)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor | None]:
        heads = self._heads(query), self._heads(key), self._heads(value)
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
