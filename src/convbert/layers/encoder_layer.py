"""One encoder layer: mixed attention and feed-forward, each with residual and norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convbert.layers.context import ForwardContext
from convbert.layers.feed_forward import Intermediate, ResidualOutput, feed_forward
from convbert.layers.linear import build_linear
from convbert.layers.mixed_attention import MixedAttention


class LayerOutput(NamedTuple):
    """States of the input's shape, or (n, C); for the other two, see `MixedOutput`."""

    states: Tensor
    attention_weights: Tensor | None
    kernel_logits: Tensor


class Attention(nn.Module):
    """The first half of a layer. `self` and `output` are the published names."""

    def __init__(self, mixed: MixedAttention, output: ResidualOutput) -> None:
        super().__init__()
        self.self = mixed
        self.output = output

    def forward(self, states: Tensor, context: ForwardContext, rows: Tensor | None) -> LayerOutput:
        """(..., C) to (..., C), or to (n, C) where `rows` (n,) selects tokens."""
        mixed, weights, kernel_logits = self.self(states, context)
        if rows is not None:
            mixed, states = (x.flatten(0, -2).index_select(0, rows) for x in (mixed, states))
        return LayerOutput(self.output(mixed, states), weights, kernel_logits)


class EncoderLayer(nn.Module):
    """One encoder layer.

    Args:
        width, num_heads, head_size, kernel_size: see `MixedAttention`.
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
        kernel_size: int,
        inner_width: int,
        groups: int,
        activation: Callable[[Tensor], Tensor],
        norm_eps: float,
        dropout: float,
        attention_dropout: float,
        feed_forward_chunk: int = 0,
    ) -> None:
        super().__init__()
        self.attention = Attention(
            MixedAttention(
                width=width,
                num_heads=num_heads,
                head_size=head_size,
                kernel_size=kernel_size,
                dropout=attention_dropout,
            ),
            ResidualOutput(
                nn.Linear(2 * num_heads * head_size, width), width, norm_eps=norm_eps, dropout=dropout
            ),
        )
        self.intermediate = Intermediate(width, inner_width, groups, activation)
        self.output = ResidualOutput(
            build_linear(inner_width, width, groups), width, norm_eps=norm_eps, dropout=dropout
        )
        self.feed_forward_chunk = feed_forward_chunk

    def forward(self, states: Tensor, context: ForwardContext, rows: Tensor | None = None) -> LayerOutput:
        """Run the layer.

        Args:
            states: (B, T, C), or (N, C) where the context has bounds.
            rows: (n,) numbers of the tokens, counted over all sequences, whose states are wanted: only these pass
                through the feed-forward layer. None: all.

        Returns:
            states of the shape given, or (n, C).
        """
        attended = self.attention(states, context, rows)
        states = attended.states
        if self.feed_forward_chunk:
            chunks = states.split(self.feed_forward_chunk, dim=-2)
            states = torch.cat(
                [feed_forward(self.intermediate, self.output, chunk) for chunk in chunks], dim=-2
            )
        else:
            states = feed_forward(self.intermediate, self.output, states)
        return attended._replace(states=states)
