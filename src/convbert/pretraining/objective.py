"""What pre-training minimises. An objective is a module around the models it trains.

Its forward takes a batch and returns `{"loss": scalar, figure: (2,), ...}`: every figure is a sum and the
number of things summed over, so that its mean over many batches is exact. `save_models` writes ordinary model
folders.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convbert.heads.masked_lm import ConvBertForMaskedLM
from convbert.pretraining.masking import IGNORED


class MaskedLanguageModel(nn.Module):
    """Predict the masked tokens: mean cross-entropy over the labelled positions of the batch."""

    def __init__(self, model: ConvBertForMaskedLM) -> None:
        super().__init__()
        self.model = model

    def loss_counts(self, labels: Tensor, **_: Tensor) -> Tensor:
        """(1,): the labelled positions of a batch."""
        return (labels != IGNORED).sum()[None]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, loss_counts: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss and figures of one batch, each input (B, T); see `MaskingCollator`.

        Figures: `masked_loss` in nats and `masked_accuracy`, over labelled positions.

        Args:
            loss_counts: what the sum of the losses is divided by, if not by those of this batch.
        """
        predicted = labels != IGNORED
        targets = labels[predicted]
        logits = self.model(input_ids, attention_mask=attention_mask, logits_to_keep=predicted).logits
        losses = F.cross_entropy(logits.float(), targets, reduction="sum")
        count = torch.tensor(len(targets), device=losses.device)
        correct = (logits.detach().argmax(-1) == targets).sum()
        return {
            "loss": losses / (count.clamp(min=1) if loss_counts is None else loss_counts[0]),
            "masked_loss": torch.stack((losses.detach(), count.to(losses.dtype))),
            "masked_accuracy": torch.stack((correct, count)).to(losses.dtype),
        }

    def save_models(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a folder that `ConvBertForMaskedLM.from_pretrained` loads."""
        self.model.save_pretrained(folder)
