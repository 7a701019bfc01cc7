"""The engine: transformers' Trainer around an objective, with exact figures and a clock.

An objective is a module whose forward takes a batch and returns `{"loss": scalar, figure: ..., ...}`, each figure
being a sum and a count, or a pair of histograms; see `FigureMeter`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
)

from convbert.errors import InputError
from convbert.training.batching import BalancedBatches
from convbert.training.callbacks import STATE_FILE, Clock

_WEIGHTS_FILE = "model.safetensors"
_NEVER = 10**8
"""A number of steps that no run reaches, for runs that end by the clock."""


class ObjectiveTrainer(Trainer):
    """transformers' Trainer for an objective.

    With gradient accumulation the loss is the mean of the micro-batches' means.

    Args:
        objective: the module to train.
        args: see `training_arguments`.
        clock: when the run ends.
        sampler: order of the training data; its `set_epoch` is called. One that gives whole batches
            (`BalancedBatches`) decides their sizes, too, and takes its own share in a distributed run.
        heldout_collator: as `data_collator`, for `eval_dataset`.
        optimizer, scheduler: as Trainer's `optimizers`.
        more_figures: given a training entry of the log, figures to add to it.
    """

    control: TrainerControl
    heldout_collator: Callable

    def __init__(
        self,
        objective: nn.Module,
        args: TrainingArguments,
        *,
        clock: Clock,
        train_dataset: Dataset,
        sampler: Sampler,
        data_collator: Callable,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LambdaLR,
        eval_dataset: Dataset | None = None,
        heldout_collator: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        more_figures: Callable[[dict[str, float]], dict[str, float]] | None = None,
    ) -> None:
        super().__init__(
            objective,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            optimizers=(optimizer, scheduler),
            callbacks=[clock, *(callbacks or [])],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.clock = clock
        self.more_figures = more_figures or (lambda logs: {})
        self._sampler = sampler
        self.heldout_collator = heldout_collator or data_collator
        self._figures = FigureMeter()
        self._pace = _Pace()

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self._pace.begin(self.state.global_step)
        return super().training_step(*args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        outputs = dict(model(**inputs))
        loss = outputs.pop("loss")
        self._figures.add(outputs)
        self._pace.add(inputs["attention_mask"].sum())
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "heldout"):
        """Means of the objective's figures over all held-out data, named `heldout_<figure>`.

        Only sums are kept, no logits. (In a distributed run the last batch may count a few sequences twice.)
        """
        started = monotonic()
        meter = FigureMeter()
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for batch in self.get_eval_dataloader(eval_dataset):
                outputs = dict(self.model(**self._prepare_inputs(batch)))
                outputs.pop("loss")
                meter.add(outputs)
        means = meter.means(lambda pair: self.accelerator.reduce(pair, "sum"))
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in means.items()}
        self._pace.pause(monotonic() - started)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the objective's figures, the speed and the time left on training entries."""
        if "loss" in logs:
            logs |= self._figures.means(lambda pair: self.accelerator.reduce(pair, "sum"))
            logs |= self._pace.read(self.state.global_step, lambda n: self.accelerator.reduce(n, "sum"))
            logs["minutes"] = self.clock.seconds / 60
            logs["minutes_left"] = (
                self.clock.seconds_left(self.state.global_step, logs["seconds_per_step"]) / 60
            )
            logs |= self.more_figures(logs)
            self._figures = FigureMeter()
        started = monotonic()
        super().log(logs)
        self._pace.pause(monotonic() - started)  # of those who look at the run

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        loader = DataLoader(dataset, self.args.eval_batch_size, collate_fn=self.heldout_collator)
        return self.accelerator.prepare(loader)

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self._sampler, BalancedBatches):
            return super().get_train_dataloader()
        # Not prepared by accelerate, which would shard batches once more.
        return _EpochLoader(self.train_dataset, batch_sampler=self._sampler, collate_fn=self.data_collator)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        return self._sampler

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk comes as any of the three
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(f"{folder}: the checkpoint cannot be written: {error}") from error

    # Checkpoints hold the whole objective; safetensors keeps tied tables once and restores the tie.
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.model, str(folder / _WEIGHTS_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.model if model is None else model
        safetensors.torch.load_model(target, str(Path(resume_from_checkpoint, _WEIGHTS_FILE)))


class _EpochLoader(DataLoader):
    """Passes on what the Trainer says at the start of an epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def training_arguments(
    output_dir: str | Path,
    clock: Clock,
    *,
    batch_size: int,
    gradient_accumulation_steps: int = 1,
    max_grad_norm: float = 1.0,
    bf16: bool = False,
    log_every: int = 50,
    evaluate_every: int | None = None,
    save_every: int = 500,
    keep_checkpoints: int = 2,
    seed: int = 0,
    device: str | None = None,
    best_metric: str | None = None,
) -> TrainingArguments:
    """Arguments for `ObjectiveTrainer`; intervals count optimizer steps, `batch_size` is per process.

    Args:
        evaluate_every: None turns evaluation during training off.
        best_metric: name of a figure of `evaluate`, as "eval_score": the checkpoint with the highest is kept, and
            loaded at the end. `save_every` must be a multiple of `evaluate_every`.
        device: "cpu" keeps a GPU unused; None takes what is there.
    """
    return TrainingArguments(
        output_dir=str(output_dir),
        max_steps=_NEVER if clock.max_steps is None else clock.max_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_grad_norm=max_grad_norm,
        bf16=bf16,
        logging_strategy="steps",
        logging_steps=log_every,
        logging_first_step=True,
        eval_strategy="no" if evaluate_every is None else "steps",
        eval_steps=evaluate_every,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=keep_checkpoints,
        seed=seed,
        use_cpu=device == "cpu" or not torch.accelerator.is_available(),
        load_best_model_at_end=best_metric is not None,
        metric_for_best_model=best_metric,
        greater_is_better=None if best_metric is None else True,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None.

    The Trainer writes its state last, so a checkpoint whose state can be read is complete.
    """
    numbered = sorted(
        (int(number), folder)
        for folder in Path(output_dir).glob("checkpoint-*")
        if (number := folder.name.rpartition("-")[2]).isdigit()
    )
    for _, folder in reversed(numbered):
        try:
            json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return folder
    return None


class FigureMeter:
    """Named figures over many batches, exact whatever their sizes (in float64, on the device).

    A figure is a tensor that adds up. One of (2,) is a sum and a count, and becomes a mean. One of (2, bins) holds the
    histograms of a score over negatives and over positives, and becomes the area under the ROC curve, which no mean
    over batches would give.
    """

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}

    def add(self, figures: dict[str, Tensor]) -> None:
        """Add one batch: name to (2,) or (2, bins)."""
        for name, figure in figures.items():
            figure = figure.detach().double()
            self._totals[name] = self._totals[name] + figure if name in self._totals else figure

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda figure: figure) -> dict[str, float]:
        """Mean or area by name, not a number where nothing was counted; `reduce` adds up the processes of a
        distributed run."""
        return {name: _mean_or_area(reduce(figure)) for name, figure in self._totals.items()}


def _mean_or_area(figure: Tensor) -> float:
    if figure.dim() == 2:
        return area_under_curve(figure)
    total, count = figure.tolist()
    return total / count if count else math.nan


def area_under_curve(histograms: Tensor) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, a shared bin counting half.

    Args:
        histograms: (2, bins), negatives and positives by rising score.
    """
    negatives, positives = histograms.double()
    below = negatives.cumsum(0) - negatives / 2
    pairs = negatives.sum() * positives.sum()
    return ((positives * below).sum() / pairs).item() if pairs else math.nan


class _Pace:
    """Tokens and steps per second since the last reading, pauses for evaluation left out."""

    def __init__(self) -> None:
        self._tokens: Tensor | None = None
        self._since: float | None = None
        self._step = 0

    def begin(self, step: int) -> None:
        """Start counting at `step`; does nothing when it has started."""
        if self._since is None:
            self._since, self._step = monotonic(), step

    def add(self, tokens: Tensor) -> None:
        self._tokens = tokens if self._tokens is None else self._tokens + tokens

    def pause(self, seconds: float) -> None:
        if self._since is not None:
            self._since += seconds

    def read(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        assert self._since is not None
        assert self._tokens is not None
        seconds = monotonic() - self._since
        speed = {
            "tokens_per_second": float(reduce(self._tokens)) / seconds,
            "seconds_per_step": seconds / max(1, step - self._step),
        }
        self._tokens, self._since, self._step = None, monotonic(), step
        return speed
