"""Masked language modelling; the same class is the generator of replaced token detection."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import can_return_tuple

from convbert.configuration import ConvBertConfig
from convbert.model.batch import position_numbers
from convbert.model.convbert import ConvBertModel, ConvBertPreTrainedModel
from convbert.model.heads.output import ConvBertHeadOutput, class_numbers, head_output
from convbert.ops import gelu
from convbert.util.errors import InputError


class GeneratorPredictions(nn.Module):
    """From model width back to embedding width. Its activation is GELU whatever the config says, as published."""

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """(..., C) to (..., E)."""
        return self.LayerNorm(gelu(self.dense(states)))


class ConvBertForMaskedLM(ConvBertPreTrainedModel):
    """Vocabulary logits at masked positions."""

    _tied_weights_keys = {"generator_lm_head.weight": "convbert.embeddings.word_embeddings.weight"}  # noqa: RUF012 (transformers')

    def __init__(self, config: ConvBertConfig) -> None:
        super().__init__(config)
        self.convbert = ConvBertModel(config)
        self.generator_predictions = GeneratorPredictions(config)
        self.generator_lm_head: nn.Module = nn.Linear(config.embedding_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.generator_lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.generator_lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: Tensor | None = None,
        **kwargs: Any,
    ) -> ConvBertHeadOutput:
        """Predict tokens.

        The vocabulary is by far the widest layer, so it is computed only where it is asked for.

        Args:
            labels: (B, T), the token that stood there; -100 where there is nothing to predict.
            logits_to_keep: (B, T) bool, or (n,) numbers of positions counted row by row: compute the n logits there
                only, in the same order. By default all of them; in training mode with labels, those at labelled
                positions. How many these are is data, for which a GPU is waited once; not so where numbers are given.
            kwargs: see `ConvBertModel.forward`, as for the other arguments.

        Returns:
            logits (B, T, V), or (n, V) where only n positions were asked for.
        """
        words = input_ids if input_ids is not None else inputs_embeds
        if labels is not None and words is not None and labels.shape != words.shape[:2]:
            raise InputError(f"labels must be {tuple(words.shape[:2])}, got {tuple(labels.shape)}")
        if logits_to_keep is None and labels is not None and self.training:
            logits_to_keep = labels != -100
        if logits_to_keep is not None and words is not None:
            logits_to_keep = position_numbers(logits_to_keep, tuple(words.shape[:2]))
        encoded = self.convbert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            positions_to_keep=logits_to_keep,
            return_dict=True,
            **kwargs,
        )
        logits = self.generator_lm_head(self.generator_predictions(encoded.last_hidden_state))
        loss = None
        if labels is not None:
            labels = labels.flatten() if logits_to_keep is None else labels.flatten()[logits_to_keep]
            flat = logits.flatten(0, -2).float()
            loss = F.cross_entropy(flat, class_numbers(labels, len(flat), flat.shape[1]))
        return head_output(encoded, loss, logits)
