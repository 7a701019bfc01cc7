"""One encoder layer: mixed attention and feed-forward, each with residual and norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convbert.layers.feed_forward import Intermediate, ResidualOutput, feed_forward
from convbert.layers.layout import Layout
from convbert.layers.linear import build_linear
from convbert.layers.mixed_attention import MixedAttention


class LayerOutput(NamedTuple):
    """States of the same shape as the input's; what `MixedOutput` says of the other two."""

    states: Tensor
    attention_weights: Tensor | None
    kernel_logits: Tensor


class Attention(nn.Module):
    """The first half of a layer. `self` and `output` are the published names."""

    def __init__(self, mixed: MixedAttention, output: ResidualOutput) -> None:
        super().__init__()
        self.self = mixed
        self.output = output


class EncoderLayer(nn.Module):
    """One encoder layer.

    Args:
        width, num_heads, head_size, taps: see `MixedAttention`.
        inner_width: width I of the feed-forward layer.
        groups: of the feed-forward layer.
        activation: between its two halves.
        feed_forward_chunk: tokens the feed-forward layer takes at a time, to save memory; 0 takes all.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        head_size: int,
        taps: int,
        inner_width: int,
        groups: int,
        activation: Callable[[Tensor], Tensor],
        norm_eps: float,
        dropout: float,
        attention_dropout: float,
        feed_forward_chunk: int = 0,
    ) -> None:
        super().__init__()
        mixed = MixedAttention(
            width=width, num_heads=num_heads, head_size=head_size, taps=taps, dropout=attention_dropout
        )
        projection = nn.Linear(2 * num_heads * head_size, width)
        self.attention = Attention(
            mixed, ResidualOutput(projection, width, norm_eps=norm_eps, dropout=dropout)
        )
        self.intermediate = Intermediate(width, inner_width, groups, activation)
        self.output = ResidualOutput(
            build_linear(inner_width, width, groups), width, norm_eps=norm_eps, dropout=dropout
        )
        self.feed_forward_chunk = feed_forward_chunk

    def forward(self, states: Tensor, layout: Layout, rows: Tensor | None = None) -> LayerOutput:
        """Run the layer.

        Args:
            states: (B, T, C), or (N, C) where the layout has bounds.
            rows: (n,) numbers of the tokens, counted over all sequences, whose states are wanted; the others are mixed
                and go no further. None: all.

        Returns:
            states of the shape given, or (n, C).
        """
        mixed = self.attention.self(states, layout)
        context = mixed.context
        if rows is not None:
            context, states = (x.flatten(0, -2).index_select(0, rows) for x in (context, states))
        states = self.attention.output(context, states)
        if self.feed_forward_chunk:
            chunks = states.split(self.feed_forward_chunk, dim=-2)
            mapped = [feed_forward(self.intermediate, self.output, chunk) for chunk in chunks]
            states = torch.cat(mapped, dim=-2)
        else:
            states = feed_forward(self.intermediate, self.output, states)
        return LayerOutput(states, mixed.attention_weights, mixed.kernel_logits)
