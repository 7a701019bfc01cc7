"""Masked language modelling as an objective; see `objective.py` for what an objective is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.heads.masked_lm import ConvBertForMaskedLM
from convbert.model import ConvBertPreTrainedModel
from convbert.pretraining.masking import IGNORED


class MaskedLanguageModel(nn.Module):
    """Predict the masked tokens: mean cross-entropy over the labelled positions of the batch."""

    def __init__(self, model: ConvBertForMaskedLM) -> None:
        super().__init__()
        self.model = model

    def models(self) -> dict[str, ConvBertPreTrainedModel]:
        """What a run leaves behind, by the name of its folder."""
        return {"model": self.model}

    def loss_counts(self, labels: Tensor, **_: Tensor) -> Tensor:
        """(1,): over how many positions of a batch the loss is a mean."""
        return (labels != IGNORED).sum()[None]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        loss_counts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and figures of one batch, each input (B, T); see `MaskingCollator`.

        Figures: `masked_loss` in nats and `masked_accuracy`, over labelled positions.

        Args:
            loss_counts: what the loss is divided by, where that is not this batch's own; see `ObjectiveTrainer`.
        """
        predicted = labels != IGNORED
        targets = labels[predicted]
        logits = self.model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            logits_to_keep=predicted,
        ).logits
        losses = F.cross_entropy(logits.float(), targets, reduction="sum")
        count = torch.tensor(len(targets), device=losses.device)
        correct = (logits.detach().argmax(-1) == targets).sum()
        of_step = count.clamp(min=1) if loss_counts is None else loss_counts[0].to(losses.dtype)
        return {
            "loss": losses / of_step,
            "masked_loss": torch.stack((losses.detach(), count.to(losses.dtype))),
            "masked_accuracy": torch.stack((correct, count)).to(losses.dtype),
        }
