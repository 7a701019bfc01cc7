"""Masked language modelling as an objective; see `objective.py` for what an objective is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
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
        logits = self.model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            logits_to_keep=predicted,
        ).logits
        of_step = None if loss_counts is None else loss_counts[0]
        loss, figures = masked_lm_loss(logits, labels[predicted], None, of_step)
        return {"loss": loss, **figures}


def masked_lm_loss(
    logits: Tensor, targets: Tensor, weights: Tensor | None, of_step: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy over n masked positions, and the figures `masked_loss` and `masked_accuracy`.

    Args:
        logits: (n, V). targets: (n,).
        weights: (n,), how much each position counts; None for ones.
        of_step: see `mean_of_step`.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    weights = torch.ones_like(losses) if weights is None else weights.to(losses.dtype)
    total, count = (losses * weights).sum(), weights.sum()
    correct = ((logits.detach().argmax(-1) == targets) * weights).sum()
    figures = {
        "masked_loss": torch.stack((total.detach(), count)),
        "masked_accuracy": torch.stack((correct, count)),
    }
    return mean_of_step(total, count, of_step), figures


def mean_of_step(total: Tensor, count: Tensor, of_step: Tensor | None) -> Tensor:
    """The batch's own mean, 0 where it has nothing, or its part of a step's."""
    return total / (count.clamp(min=1) if of_step is None else of_step.to(total.dtype))
