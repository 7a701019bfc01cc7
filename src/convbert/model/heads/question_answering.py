"""Where in a text the answer starts and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from convbert.configuration import ConvBertConfig
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel
from convbert.model.heads.output import refuse_packed
from convbert.util.errors import InputError


@dataclass
class ConvBertQuestionAnsweringOutput(ModelOutput):
    """`loss`; `start_logits` and `end_logits` (B, T), lowest where there is no token; the rest as the encoder's."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    conv_kernels: tuple[Tensor, ...] | None = None


class ConvBertForQuestionAnswering(ConvBertPreTrainedModel):
    """Extractive question answering: two logits per token."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__(config)
        if config.num_labels != 2:
            raise InputError(
                f"question answering needs num_labels=2 (start and end), got {config.num_labels}"
            )
        self.convbert = ConvBertModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> ConvBertQuestionAnsweringOutput:
        """Score each token as start and as end.

        Args:
            start_positions, end_positions: (B,) index of the first and the last token of the answer; an index beyond
                the text does not count.
            kwargs: see `ConvBertModel.forward`, as for the other arguments.
        """
        if start_positions is not None:  # logits are per token, the loss is per text
            words = input_ids if input_ids is not None else inputs_embeds
            refuse_packed(words, attention_mask, position_ids, kwargs)
        encoded = self.convbert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        logits = self.qa_outputs(encoded.last_hidden_state)
        if attention_mask is not None and not self.config.conv_reads_padding:
            # Otherwise the loss, a softmax over positions, would depend on how much padding there is.
            lowest = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~attention_mask.bool()[..., None], lowest)
        start_logits, end_logits = logits.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (_edge_loss(start_logits, start_positions) + _edge_loss(end_logits, end_positions)) / 2
        return ConvBertQuestionAnsweringOutput(
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            conv_kernels=encoded.conv_kernels,
        )


def _edge_loss(logits: Tensor, positions: Tensor) -> Tensor:
    beyond = logits.shape[1]
    if positions.is_floating_point() or positions.dtype == torch.bool or positions.numel() != len(logits):
        raise InputError(
            f"start_positions and end_positions must be ({len(logits)},) whole numbers, "
            f"got {tuple(positions.shape)} of {positions.dtype}"
        )
    return F.cross_entropy(logits, positions.view(-1).long().clamp(0, beyond), ignore_index=beyond)
