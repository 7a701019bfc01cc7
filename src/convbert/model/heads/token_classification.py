"""A label for every token."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import can_return_tuple

from convbert.configuration import ConvBertConfig
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel, head_dropout
from convbert.model.heads.output import ConvBertHeadOutput, class_numbers, head_output


class ConvBertForTokenClassification(ConvBertPreTrainedModel):
    """Tagging: dropout and one linear layer on every token."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.convbert = ConvBertModel(config)
        self.dropout = nn.Dropout(head_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
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
        """Tag each token.

        Args:
            labels: (B, T) class numbers, -100 where a token does not count.
            kwargs: see `ConvBertModel.forward`, as for the other arguments.

        Returns:
            logits (B, T, num_labels).
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
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None
        if labels is not None:
            flat = logits.view(-1, self.num_labels)
            loss = F.cross_entropy(flat, class_numbers(labels, len(flat), self.num_labels))
        return head_output(encoded, loss, logits)
