"""A label, several labels or a number for a whole text."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.utils import can_return_tuple

from convbert.configuration import ConvBertConfig
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel, head_dropout
from convbert.model.heads.output import ConvBertHeadOutput, class_numbers, head_output, refuse_packed
from convbert.ops._torch_internals import is_traced
from convbert.util.errors import InputError


class ClassificationHead(nn.Module):
    """Two layers on the first token."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(head_dropout(config))
        self.activation = ACT2FN[config.hidden_act]
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, first: Tensor) -> Tensor:
        """(B, C), the states of the first tokens, to (B, num_labels)."""
        return self.out_proj(self.dropout(self.activation(self.dense(self.dropout(first)))))


def first_positions(words: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) where the rows of `words` (B, T) or (B, T, E) begin, counted row by row.

    Raises:
        InputError: by the mask (B, T), a text begins with padding (seen on a CPU alone: a GPU would be waited for).
    """
    if mask is not None and mask.numel() and mask.device.type == "cpu" and not is_traced():
        pads_left = mask.any(-1) & ~mask[..., 0].bool()
        if bool(pads_left.any()):
            raise InputError("[CLS] is read at the first place, where there is padding: pad on the right")
    return torch.arange(words.shape[0], device=words.device) * words.shape[1]


class ConvBertForSequenceClassification(ConvBertPreTrainedModel):
    """Classification (one label or several) and regression, by `config.problem_type`."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.convbert = ConvBertModel(config)
        self.classifier = ClassificationHead(config)
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
        """Score each text.

        Args:
            labels: (B,) class numbers; (B,) or (B, num_labels) floats for regression; (B, num_labels) of 0 and 1 for
                several labels. Without `config.problem_type`, the shape of the labels decides.
            kwargs: see `ConvBertModel.forward`, as for the other arguments.

        Returns:
            logits (B, num_labels).
        """
        words = input_ids if input_ids is not None else inputs_embeds
        refuse_packed(words, attention_mask, position_ids, kwargs)
        encoded = self.convbert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            positions_to_keep=None if words is None else first_positions(words, attention_mask),
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(encoded.last_hidden_state)
        return head_output(encoded, None if labels is None else self._loss(logits, labels), logits)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        problem = self.config.problem_type or self._guess_problem(labels)
        if problem == "single_label_classification":
            if self.num_labels < 2:
                raise InputError("single_label_classification needs num_labels of at least 2, got 1")
            return F.cross_entropy(logits, class_numbers(labels, len(logits), self.num_labels))
        if labels.shape != logits.shape and (self.num_labels > 1 or labels.numel() != len(logits)):
            raise InputError(f"labels of {problem} must be {tuple(logits.shape)}, got {tuple(labels.shape)}")
        labels = labels.view(logits.shape).to(logits.dtype)
        if problem == "regression":
            return F.mse_loss(logits, labels)
        return F.binary_cross_entropy_with_logits(logits, labels)

    def _guess_problem(self, labels: Tensor) -> str:
        if self.num_labels == 1:
            return "regression"
        if labels.dim() == 2 and labels.shape[1] == self.num_labels:
            return "multi_label_classification"
        return "single_label_classification"
