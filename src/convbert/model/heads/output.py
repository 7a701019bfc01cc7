"""What all heads share: what they give back, and what some refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from convbert.model.batch import packed_bounds
from convbert.model.convbert import ConvBertModelOutput
from convbert.ops._torch_internals import is_traced
from convbert.util.errors import InputError


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


def refuse_packed(
    words: Tensor | None, attention_mask: Tensor | None, position_ids: Tensor | None, kwargs: dict[str, Any]
) -> None:
    """For what is computed per text (a logit, a loss): a packed row would pass for a single text.

    Raises:
        InputError: the batch is packed.
    """
    if words is None:
        return
    given = (kwargs.get(name) for name in ("cu_seq_lens_q", "max_length_q", "seq_idx"))
    if packed_bounds(words, attention_mask, position_ids, *given) is not None:
        raise InputError("this is computed per text: give a padded batch, not a packed one")


def class_numbers(labels: Tensor, count: int, num_classes: int, name: str = "labels") -> Tensor:
    """Class numbers of any whole type and shape, as (count,) int64; -100 does not count.

    Raises:
        InputError: they are no whole numbers, not as many, or (on a CPU, where looking costs nothing) out of range.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"{name} must be class numbers, whole numbers, got {labels.dtype}")
    if labels.numel() != count:
        raise InputError(f"{name} must be {count} class numbers, got the shape {tuple(labels.shape)}")
    numbers = labels.reshape(-1).long()
    if numbers.device.type == "cpu" and not is_traced():
        wrong = numbers[(numbers != -100) & ((numbers < 0) | (numbers >= num_classes))]
        if len(wrong):
            raise InputError(f"{name} holds {int(wrong[0])}; classes run from 0 to {num_classes - 1}")
    return numbers
