"""The engine of `training`, with a task's loss and a task's score."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from convbert.finetuning.data import Feature
from convbert.finetuning.inference import Split
from convbert.training.callbacks import TrainingBudget
from convbert.training.trainer import ObjectiveTrainer

SCORE = "eval_score"
"""The figure that chooses the best checkpoint; transformers wants the prefix."""


class TaskObjective(nn.Module):
    """The model's own loss, weighed so that every example counts the same.

    Args:
        model: a ConvBERT with a head, or the same with adapters.
        batch_size: examples in a batch, on average: the loss of a batch of n counts n / `batch_size` times, as batches
            of short texts have more of them. None where the loss is a mean over tokens.
    """

    def __init__(self, model: nn.Module, batch_size: float | None) -> None:
        super().__init__()
        self.model = model
        self.batch_size = batch_size

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Loss of a batch, and the figure `train_loss`, its mean."""
        loss = self.model(**batch).loss
        count = torch.tensor(float(len(batch["input_ids"])), device=loss.device)
        weight = 1.0 if self.batch_size is None else count / self.batch_size
        return {"loss": loss * weight, "train_loss": torch.stack((loss.detach() * count, count))}


class Features(Dataset[Feature]):
    """A list of features, as the Trainer wants it."""

    def __init__(self, features: list[Feature]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        return self.features[index]


class FinetuningTrainer(ObjectiveTrainer):
    """Scores dev data by the task's metrics.

    Args:
        dev: what is scored, one or several; the first metric of the first chooses the best checkpoint.
        kwargs: see `ObjectiveTrainer`.
    """

    def __init__(
        self, objective: TaskObjective, args: TrainingArguments, *, dev: list[Split], **kwargs: Any
    ) -> None:
        super().__init__(objective, args, eval_dataset=Features(dev[0].features), **kwargs)
        self.dev = dev

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "dev"):
        """Scores named `dev_<metric>`, and `SCORE`.

        (In a distributed run every process scores all of the dev data: it is small beside what it is trained on.)
        """
        started = monotonic()
        metrics: dict[str, float] = {}
        for split in self.dev:
            predictions = split.predict(self.model.model, self.accelerator.autocast())
            scores = split.score(predictions)
            metrics |= {f"{split.name}_{name}": value for name, value in scores.items()}
            if (loss := split.loss(predictions)) is not None:
                metrics[f"{split.name}_loss"] = loss
        self.throughput.pause(monotonic() - started)
        self.log(dict(metrics))
        metrics[SCORE] = next(iter(metrics.values()))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> Any:
        """None in a run that early stopping had ended before it was interrupted."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and (
                callback.early_stopping_patience_counter >= callback.early_stopping_patience
            ):
                self.control.should_training_stop = True
                return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)


class EvaluateAtTheEnd(TrainerCallback):
    """The last model is scored, too, where the steps are no multiple of the interval."""

    def __init__(self, budget: TrainingBudget) -> None:
        self.budget = budget

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.budget.fraction_done(state.global_step) >= 1.0:
            control.should_evaluate = True


def early_stopping(patience: int | None) -> list[TrainerCallback]:
    """transformers' callback, where it was asked for."""
    return [] if patience is None else [EarlyStoppingCallback(early_stopping_patience=patience)]
