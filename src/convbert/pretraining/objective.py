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

from convbert.configuration import ConvBertConfig
from convbert.heads.masked_lm import ConvBertForMaskedLM
from convbert.pretraining.masking import IGNORED
from convbert.pretraining.recipes import PretrainingPlan


class MaskedLanguageModel(nn.Module):
    """Predict the masked tokens: mean cross-entropy over the labelled positions of the batch."""

    def __init__(self, model: ConvBertForMaskedLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss and figures of one batch, each input (B, T); see `MaskingCollator`.

        Figures: `masked_loss` in nats and `masked_accuracy`, over labelled positions.
        """
        predicted = labels != IGNORED
        targets = labels[predicted]
        logits = self.model(input_ids, attention_mask=attention_mask, logits_to_keep=predicted).logits
        losses = F.cross_entropy(logits.float(), targets, reduction="sum")
        count = torch.tensor(len(targets), device=losses.device)
        correct = (logits.detach().argmax(-1) == targets).sum()
        return {
            "loss": losses / count.clamp(min=1),
            "masked_loss": torch.stack((losses.detach(), count.to(losses.dtype))),
            "masked_accuracy": torch.stack((correct, count)).to(losses.dtype),
        }

    def save_models(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a folder that `ConvBertForMaskedLM.from_pretrained` loads."""
        self.model.save_pretrained(folder)


def build_objective(plan: PretrainingPlan, config: ConvBertConfig) -> MaskedLanguageModel:
    """The plan's objective around a new model of configuration `config`."""
    return MaskedLanguageModel(ConvBertForMaskedLM(config))
