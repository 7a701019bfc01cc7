"""The engine of `training`, with a task's loss and a task's score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from time import monotonic
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState

from convbert.finetuning.data import MAX_TOKENS, Feature, Split
from convbert.inference.engine import plan_batches
from convbert.training.callbacks import TrainingBudget
from convbert.training.trainer import ObjectiveTrainer

SCORE = "eval_score"
"""The metric that chooses the best checkpoint; transformers wants the prefix."""


class TaskObjective(nn.Module):
    """The model's own loss, weighed so that every example counts the same.

    Args:
        batch_size: examples in a batch, on average: the loss of a batch of n counts n / `batch_size` times, as batches
            of short texts have more of them. None where the loss is a mean over tokens.
    """

    def __init__(self, model: nn.Module, batch_size: float | None) -> None:
        super().__init__()
        self.model = model
        self.batch_size = batch_size

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Loss of a batch, and the metric `train_loss`, its mean."""
        loss = self.model(**batch).loss
        count = torch.tensor(float(len(batch["input_ids"])), device=loss.device)
        weight = 1.0 if self.batch_size is None else count / self.batch_size
        return {"loss": loss * weight, "train_loss": torch.stack((loss.detach() * count, count))}


class FinetuningTrainer(ObjectiveTrainer):
    """Scores `splits` by the task's metrics; the first metric of the first chooses the best checkpoint.

    Args:
        labelled: the features of a split as for training, with targets.
    """

    def __init__(
        self,
        objective: TaskObjective,
        args: Any,
        *,
        splits: list[Split],
        labelled: Callable[[Split], list[Feature]],
        **kwargs: Any,
    ) -> None:
        # The Trainer wants to see data where it is to evaluate.
        super().__init__(objective, args, eval_dataset=cast("Dataset", splits[0].features), **kwargs)
        self.splits, self.labelled = splits, cache(lambda number: labelled(splits[number]))

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "dev"):
        """Scores named `<split>_<metric>`, losses, and `SCORE`; in a distributed run by every process, of all of the
        eval data.
        """
        started = monotonic()
        metrics: dict[str, float] = {}
        for number, split in enumerate(self.splits):
            with self.accelerator.autocast():
                predictions = split.predict(self.model.model)
            metrics |= {f"{split.name}_{name}": value for name, value in split.score(predictions).items()}
            loss = self._loss_of(number)
            metrics |= {} if loss is None else {f"{split.name}_loss": loss}
        self.throughput.pause(monotonic() - started)
        self.log(dict(metrics))
        metrics[SCORE] = next(iter(metrics.values()))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _loss_of(self, number: int) -> float | None:
        """The model's own loss; None where no example can be trained on."""
        features, model = self.labelled(number), self.model.model
        losses, counts = [], []
        model.eval()
        for chosen in plan_batches([feature.length for feature in features], MAX_TOKENS):
            batch = self.data_collator([features[each] for each in chosen])
            batch = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            with self.accelerator.autocast():
                losses.append(float(model(**batch).loss))
            per_example = self.splits[number].adapter.loss_counts_examples
            counts.append(len(chosen) if per_example else int((batch["labels"] >= 0).sum()))
        model.train()
        return float(np.average(losses, weights=counts)) if sum(counts) else None

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
    """Scores the last model, too, where the steps are no multiple of the interval."""

    def __init__(self, budget: TrainingBudget) -> None:
        self.budget = budget

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.budget.fraction_done(state.global_step) >= 1.0:
            control.should_evaluate = True
