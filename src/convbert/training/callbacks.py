"""What watches a run: the training budget that ends it, signals that stop it, its log file and its progress line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from convbert.util.errors import InputError
from convbert.util.schema import to_json
from convbert.util.signals import handling


class TrainingBudget(TrainerCallback, ExportableState):
    """How far a run has come, by steps or by minutes of training; survives a restart through the checkpoint.

    Args:
        max_steps, max_minutes: the run ends after so many optimizer steps, or after so much time, evaluations and
            checkpoints included; exactly one of the two is given.
    """

    def __init__(self, max_steps: int | None = None, max_minutes: float | None = None) -> None:
        if (max_steps is None) == (max_minutes is None) or not (max_steps or max_minutes or 0) > 0:
            told = f"got max_steps={max_steps} and max_minutes={max_minutes}"
            raise InputError(f"give either max_steps or max_minutes, above 0: {told}")
        self.max_steps, self.max_minutes = max_steps, max_minutes
        self.seconds_before = 0.0
        self.started: float | None = None

    @property
    def seconds(self) -> float:
        """Time spent training, over all restarts."""
        running = 0.0 if self.started is None else monotonic() - self.started
        return self.seconds_before + running

    def fraction_done(self, step: int) -> float:
        """Share of the run that lies behind after `step` optimizer steps, in [0, 1]."""
        if self.max_minutes is not None:
            return min(1.0, self.seconds / (60 * self.max_minutes))
        assert self.max_steps is not None
        return min(1.0, step / self.max_steps)

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Expected time to the end, at the given speed."""
        if self.max_minutes is not None:
            return max(0.0, 60 * self.max_minutes - self.seconds)
        assert self.max_steps is not None
        return (self.max_steps - step) * seconds_per_step

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"seconds_before": self.seconds}}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds_before, self.started = self.seconds, None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.fraction_done(state.global_step) >= 1.0:
            control.should_save = control.should_training_stop = True


class StopOnSignal(TrainerCallback):
    """Turns the first SIGTERM or Ctrl-C into a checkpoint and a clean end after the current step.

    Use as a context manager around training. In a distributed run all processes end after the same step, whichever of
    them got the signal. A second signal acts as it would without this; but launchers repeat signals, and kill what does
    not end, so with several processes it is ignored.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals inside the block; see `handling`."""
        with handling((signal.SIGTERM, signal.SIGINT), self._handle) as self._restore:
            yield

    def _handle(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            self._restore()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if args.world_size > 1:
            number = torch.tensor(self.received or 0, device=args.device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
            self.received = signal.Signals(int(number)) if number else None
        if self.received is not None:
            control.should_save = control.should_training_stop = True


class HistoryFile(TrainerCallback):
    """Appends every log entry to a JSONL file; after a resume the file holds no step twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            self.path.write_text(
                "".join(to_json(entry) + "\n" for entry in state.log_history), encoding="utf-8"
            )

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as history:
                history.write(to_json(state.log_history[-1]) + "\n")


class ProgressLine(TrainerCallback):
    """One line per log entry on stderr."""

    def __init__(self, budget: TrainingBudget) -> None:
        self.budget = budget

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        told = ("learning_rate", "heldout_", "dev_")
        if state.is_world_process_zero and logs and any(name.startswith(told) for name in logs):
            print(progress_text(state.global_step, self.budget, logs), file=sys.stderr, flush=True)


_SHORT = {
    "masked_accuracy": "masked acc",
    "replaced_accuracy": "replaced acc",
    "replaced_auc": "auc",
    "replaced_recall": "recall",
}
_NOT_SHOWN = {
    *("epoch", "grad_norm", "seconds_per_step", "minutes", "input_wait", "skipped_steps"),
    *("masked_loss", "sampled_accuracy", "replaced_loss", "replaced_precision"),
    *("heldout_sampled_accuracy", "heldout_replaced_precision"),
}
"""The line has room for what a reader asks most."""


def progress_text(step: int, budget: TrainingBudget, logs: dict[str, float]) -> str:
    """A log entry for a reader, in one line."""
    of = "" if budget.max_steps is None else f"/{budget.max_steps}"
    parts = [f"step {step}{of}", f"{budget.fraction_done(step):6.1%}"]
    for name, value in logs.items():
        if name == "loss" and "train_loss" in logs:
            continue  # the same loss, as the optimizer sees it: weighed by the size of the batch
        if name == "skipped_steps" and value:
            parts.append(f"{value} steps skipped")
        elif name == "tokens_per_second":
            parts.append(f"{value:,.0f} tokens/s")
        elif name == "mfu":
            parts.append(f"MFU {value:.1%}")
        elif name == "minutes_left":
            parts.append(f"{duration(60 * value)} left")
        elif name == "learning_rate":
            parts.append(f"lr {value:.2e}")
        elif name not in _NOT_SHOWN:
            own = name.removeprefix("heldout_")
            parts.append(f"{name.removesuffix(own)}{_SHORT.get(own, own)} {value:.4g}".replace("_", " "))
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
