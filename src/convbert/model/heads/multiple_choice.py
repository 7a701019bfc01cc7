"""Which of several continuations fits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.utils import can_return_tuple

from convbert.configuration import ConvBertConfig
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel
from convbert.model.heads.output import ConvBertHeadOutput, class_numbers, head_output
from convbert.util.errors import InputError


class SequenceSummary(nn.Module):
    """One vector for a text, by the `summary_*` keys of the config that transformers knows.

    `summary_type` is "last" (transformers' default; here the last *real* token), "first" or "mean" (of the real
    tokens); "cls_index" means "last", as there is no index in multiple choice.
    """

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__()
        self.kind = getattr(config, "summary_type", "last")
        if self.kind not in ("last", "first", "mean", "cls_index"):
            raise InputError(f"summary_type must be last, first, mean or cls_index, got {self.kind!r}")
        self.summary: nn.Module = nn.Identity()
        if getattr(config, "summary_use_proj", False):
            to_labels = getattr(config, "summary_proj_to_labels", False) and config.num_labels > 0
            self.summary = nn.Linear(
                config.hidden_size, config.num_labels if to_labels else config.hidden_size
            )
        activation = getattr(config, "summary_activation", None)
        if activation and activation not in ACT2FN:
            raise InputError(f"summary_activation: there is no {activation!r:.60}")
        self.activation = ACT2FN[activation] if activation else nn.Identity()
        self.first_dropout = nn.Dropout(getattr(config, "summary_first_dropout", 0.0))
        self.last_dropout = nn.Dropout(getattr(config, "summary_last_dropout", 0.0))

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, C) to (B, C); `mask` (B, T) is nonzero at real tokens, None means everywhere."""
        picked = self.first_dropout(self._pick(states, mask))
        return self.last_dropout(self.activation(self.summary(picked)))

    def _pick(self, states: Tensor, mask: Tensor | None) -> Tensor:
        if self.kind == "first":
            return states[:, 0]
        if mask is None:
            return states.mean(1) if self.kind == "mean" else states[:, -1]
        mask = mask.bool()
        if self.kind == "mean":
            return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (positions * mask).amax(1)
        return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


class ConvBertForMultipleChoice(ConvBertPreTrainedModel):
    """One logit per choice."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__(config)
        self.convbert = ConvBertModel(config)
        self.sequence_summary = SequenceSummary(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
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
        """Score each choice.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: (B, choices, T).
            inputs_embeds: (B, choices, T, E).
            labels: (B,) number of the right choice.
            kwargs: see `ConvBertModel.forward`.

        Returns:
            logits (B, choices); what the encoder recorded has B x choices in place of B.
        """
        words = input_ids if input_ids is not None else inputs_embeds
        if words is None or words.dim() < 3:
            raise InputError("multiple choice reads (batch, choices, length): one row per choice")
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds = (
            None if x is None else x.flatten(0, 1) for x in inputs
        )
        encoded = self.convbert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        # Who reproduces old numbers also wants the summary that reads padding.
        mask = None if self.config.conv_reads_padding else attention_mask
        summary = self.sequence_summary(encoded.last_hidden_state, mask)
        logits = self.classifier(summary).view(-1, words.shape[1])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits, class_numbers(labels, len(logits), logits.shape[1]))
        return head_output(encoded, loss, logits)
