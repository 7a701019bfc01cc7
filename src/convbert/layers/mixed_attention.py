"""Attention heads and span-convolution heads side by side, sharing the query (paper, section 3.3, figure 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convbert.layers.layout import Layout
from convbert.layers.linear import Linear, is_plain
from convbert.ops import attention, depthwise_conv, linear, span_dynamic_conv
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
    """A linear layer, through `ops.linear`."""

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        """(..., C) and (A, 1) to (..., A)."""
        return linear(states, self.weight.squeeze(-1), bias.squeeze(-1))


class SeparableConv(nn.Module):
    """Depthwise, then pointwise convolution: the key that covers a span. The names are the published ones."""

    def __init__(self, in_channels: int, out_channels: int, taps: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(in_channels, in_channels, taps, groups=in_channels, bias=False)
        self.pointwise = PointwiseConv(in_channels, out_channels, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels, 1))
        # For inference alone: the pointwise convolution and the bias, see `convbert.inference`.
        self.packed: nn.Module | None = None

    def forward(self, states: Tensor, layout: Layout) -> Tensor:
        """(..., C) to (..., A)."""
        convolved = self.depthwise(states, layout)
        return self.pointwise(convolved, self.bias) if self.packed is None else self.packed(convolved)


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
        # For inference alone: the four layers that read the states as one product, see `convbert.inference`.
        self.joined: nn.Module | None = None

    def forward(self, states: Tensor, layout: Layout) -> MixedOutput:
        """Mix tokens.

        Args:
            states: (B, T, C), zero where the convolution may not read; or (N, C) where the layout has bounds.
        """
        if self.joined is not None:
            return self._mix_joined(self.joined, states, layout)
        query, key, value, conv_value = (
            layer(states) for layer in (self.query, self.key, self.value, self.conv_out_layer)
        )
        attended, weights = self._attend(query, key, value, layout)
        kernel_logits = self._heads(self.conv_kernel_layer(self.key_conv_attn_layer(states, layout) * query))
        convolved = self._convolve(conv_value, kernel_logits, layout)
        context = torch.stack((attended, convolved), dim=-3)
        return MixedOutput(context.flatten(-3), weights, kernel_logits)

    def join(self, build: Callable[[Tensor, Tensor], nn.Module | None]) -> bool:
        """Replace the four layers that read the states by one, for inference alone; say whether it was done.

        Args:
            build: from weight (4 H D, C) and bias (4 H D,) the layer, or None to leave everything as it is.
        """
        names = ("query", "key", "value", "conv_out_layer")
        layers = [getattr(self, name) for name in names]
        if self.joined is not None or not all(is_plain(layer, Linear) for layer in layers):
            return False
        weight, bias = (torch.cat([getattr(layer, x) for layer in layers]) for x in ("weight", "bias"))
        joined = build(weight, bias.detach())
        if joined is None:
            return False
        self.joined = joined
        for name in names:
            setattr(self, name, None)
        return True

    def _mix_joined(self, joined: nn.Module, states: Tensor, layout: Layout) -> MixedOutput:
        """As `forward`, without gradients: four products as one, and both branches written side by side."""
        query, key, value, conv_value = joined(states).split(self.num_heads * self.head_size, dim=-1)
        context = query.new_empty(*states.shape[:-1], 2, self.num_heads, self.head_size)
        rooms = context.unbind(-3)
        attended, weights = self._attend(query, key, value, layout, rooms[0])
        spans = self.key_conv_attn_layer(states, layout).mul_(query)
        kernel_logits = self._heads(self.conv_kernel_layer(spans))
        convolved = self._convolve(conv_value, kernel_logits, layout, rooms[1])
        for room, result in zip(rooms, (attended, convolved), strict=True):
            if result is not room:
                room.copy_(result)
        return MixedOutput(context.flatten(-3), weights, kernel_logits)

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1))

    def _convolve(
        self, value: Tensor, kernel_logits: Tensor, layout: Layout, out: Tensor | None = None
    ) -> Tensor:
        # The zero beyond a sequence stands for the projected state, bias included.
        value = self._heads(layout.readable(value))
        bounds, backend = layout.cu_seqlens, layout.conv_backend
        return span_dynamic_conv(value, kernel_logits, bounds, backend=backend, out=out)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, out: Tensor | None = None
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
            out=out,
        )
        return mixed, None
