"""Replaced token detection: was this token there, or did a generator put it there? (the discriminator)"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.utils import can_return_tuple

from convbert.configuration import ConvBertConfig
from convbert.layers import GlorotLinear
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel
from convbert.model.heads.output import ConvBertHeadOutput, head_output
from convbert.ops._torch_internals import is_traced
from convbert.util.errors import InputError


class DiscriminatorPredictions(nn.Module):
    """One logit per token, under the names of transformers' ELECTRA."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dense_prediction = GlorotLinear(config.hidden_size, 1)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, C) to (B, T)."""
        return self.dense_prediction(self.activation(self.dense(states))).squeeze(-1)


class ConvBertForPreTraining(ConvBertPreTrainedModel):
    """The discriminator of replaced token detection."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__(config)
        self.convbert = ConvBertModel(config)
        self.discriminator_predictions = DiscriminatorPredictions(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> ConvBertHeadOutput:
        """Judge every token.

        Args:
            labels: (B, T), 1 where the token was replaced, 0 where it was not, -100 where nobody knows. The loss is
                the mean over the real tokens.
            kwargs: see `ConvBertModel.forward`, as for the other arguments.

        Returns:
            logits (B, T), positive where the token looks replaced.
        """
        encoded = self.convbert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        logits = self.discriminator_predictions(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            labels, counted = _judgements(labels, logits)
            if attention_mask is not None:
                counted = counted & attention_mask.bool()
            # Picking the counted ones out would have a GPU waited for.
            each = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
            loss = torch.where(counted, each, 0).sum() / counted.sum()
        return head_output(encoded, loss, logits)


def _judgements(labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of any type as fp32, and where they count, both (B, T).

    Raises:
        InputError: another shape than the logits have, or (on a CPU, where looking costs nothing) another value.
    """
    if labels.shape != logits.shape:
        raise InputError(f"labels must be {tuple(logits.shape)}, got {tuple(labels.shape)}")
    labels = labels.float()
    counted = labels != -100
    if labels.device.type == "cpu" and not is_traced():
        wrong = labels[counted & ~((labels >= 0) & (labels <= 1))]
        if len(wrong):
            raise InputError(f"labels holds {wrong[0].item():g}; replaced is 1, not replaced 0, unknown -100")
    return labels, counted
