"""What a head gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from convbert.model import ConvBertModelOutput


@dataclass
class ConvBertHeadOutput(ModelOutput):
    """`loss` (with labels), the head's `logits`, and what was asked of the encoder, see `ConvBertModelOutput`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    conv_kernels: tuple[Tensor, ...] | None = None


def head_output(encoded: ConvBertModelOutput, loss: Tensor | None, logits: Tensor) -> ConvBertHeadOutput:
    """Loss and logits beside what the encoder recorded."""
    return ConvBertHeadOutput(loss, logits, encoded.hidden_states, encoded.attentions, encoded.conv_kernels)
