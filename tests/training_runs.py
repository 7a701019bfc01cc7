"""Whole runs of the engine with a tiny objective, in processes that a test may stop, kill or run side by side."""

from __future__ import annotations

import json
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import TrainerCallback

import processes
from convbert.training import checkpoints
from convbert.training.arguments import training_arguments
from convbert.training.callbacks import HistoryFile, StopOnSignal, TrainingBudget
from convbert.training.checkpoints import last_checkpoint, usable_checkpoint
from convbert.training.optimizer import build_optimizer, warmup_then_decay
from convbert.training.trainer import ObjectiveTrainer
from convbert.util.errors import InputError

TIMINGS = {"tokens_per_second", "seconds_per_step", "input_wait", "minutes", "minutes_left"}
STOPPED, REFUSED = 3, 4


class TwoTerms(nn.Module):
    """A loss of two means over different numbers of things, with dropout between."""

    def __init__(self, dropout: float, poisoned: tuple[int, ...]) -> None:
        super().__init__()
        self.table, self.dropout, self.head = nn.Embedding(50, 8), nn.Dropout(dropout), nn.Linear(8, 50)
        self.poisoned, self.calls = poisoned, 0

    def loss_counts(self, input_ids, attention_mask):
        return torch.stack(((input_ids % 3 == 1).sum(), attention_mask.sum()))

    def forward(self, input_ids, attention_mask, loss_counts=None):
        own = self.loss_counts(input_ids, attention_mask)
        counts = own if loss_counts is None else loss_counts
        states = self.dropout(self.table(input_ids))
        losses = F.cross_entropy(self.head(states).transpose(1, 2), input_ids, reduction="none")
        some = losses[input_ids % 3 == 1].sum()
        size = (states.square().mean(-1) * attention_mask).sum()
        loss = some / counts[0] + 5 * size / counts[1]
        self.calls += self.training
        if self.training and self.calls in self.poisoned:
            loss = loss * float("nan")
        return {
            "loss": loss,
            "some_loss": torch.stack((some.detach(), own[0].float())),
            "size": torch.stack((size.detach(), own[1].float())),
        }


class Texts(torch.utils.data.Dataset):
    """Rows of 1 to 9 numbers; notes which were read."""

    def __init__(self, count: int) -> None:
        source = np.random.default_rng(0)
        self.rows = [source.integers(1, 50, source.integers(1, 10)) for _ in range(count)]
        self.read: list[int] = []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.read.append(index)
        return self.rows[index]


class Shuffled(torch.utils.data.Sampler):
    """Another order in every epoch."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(np.random.default_rng(self.epoch).permutation(self.count).tolist())


def pad(rows):
    """Rows to a batch; 0 is padding, and no text."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = torch.from_numpy(row)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


class Hook(TrainerCallback):
    """Calls something at the end of every step."""

    def __init__(self, action):
        self.action = action

    def on_step_end(self, args, state, control, **_):
        self.action(state.global_step)


def build(
    folder: Path,
    *,
    dropout: float = 0.2,
    poisoned: tuple[int, ...] = (),
    steps: int = 24,
    max_skipped_steps: int = 3,
    bias_correction: bool = True,
    dataset: torch.utils.data.Dataset | None = None,
    on_step=lambda step: None,
    **options: Any,
) -> tuple[ObjectiveTrainer, StopOnSignal]:
    """A trainer, ready to go on with whatever lies in `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    budget, objective, stop = TrainingBudget(max_steps=steps), TwoTerms(dropout, poisoned), StopOnSignal()
    optimizer = build_optimizer(objective, learning_rate=0.05, bias_correction=bias_correction)
    settings = {"batch_size": 4, "log_every": 3, "save_every": 2, "evaluate_every": 5, "device": "cpu"}
    trainer = ObjectiveTrainer(
        objective,
        training_arguments(folder, budget, **settings | options),
        budget=budget,
        train_dataset=dataset or Texts(37),
        eval_dataset=Texts(11),
        sampler=Shuffled(37),
        data_collator=pad,
        optimizer=optimizer,
        scheduler=warmup_then_decay(optimizer, 3, budget.fraction_done),
        callbacks=[stop, HistoryFile(folder / "log.jsonl"), Hook(on_step)],
        max_skipped_steps=max_skipped_steps,
    )
    return trainer, stop


def run(
    folder: Path, *, slow_disk: float = 0.0, pause_at: int = 0, full_disk_after: int = 0, **options: Any
) -> int:
    """Train to the end, or from where an earlier call was stopped; the exit code of a process of its own.

    Args:
        slow_disk: seconds that every file of a checkpoint takes to reach the disk.
        pause_at: the step after which the run waits for the file `go`.
        full_disk_after: the step from which on files cannot grow.
    """
    if slow_disk:
        checkpoints._to_disk = lambda path: time.sleep(slow_disk)

    def on_step(step: int) -> None:
        while step == pause_at and not (folder / "go").exists():
            time.sleep(0.01)
        if step == full_disk_after:
            allow_no_growth()

    folder.mkdir(exist_ok=True)
    trainer, stop = build(folder, on_step=on_step, **options)
    try:
        with stop.listening():
            trainer.train(resume_from_checkpoint=usable_checkpoint(folder, print))
    except InputError as error:
        (folder / "error.txt").write_text(str(error))
        return REFUSED
    return 0 if stop.received is None else STOPPED


def allow_no_growth() -> None:
    """What the system does to writes from here on is what it does on a full disk, with another reason."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def start(folder: Path, count: int = 1, **options: Any) -> list[multiprocessing.process.BaseProcess]:
    """Processes that share a run."""
    return [
        processes.start(partial(run, folder, **options), environment=place)
        for place in processes.places(count)
    ]


def finish(folder: Path, count: int = 1, **options: Any) -> list[int | None]:
    """Run to the end of all processes; their exit codes."""
    return processes.finish(start(folder, count, **options))


def log_of(folder: Path) -> list[dict[str, Any]]:
    """All log entries, without what a budget measured."""
    entries = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in entry.items() if name not in TIMINGS} for entry in entries]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Those of the last checkpoint."""
    from safetensors.torch import load_file

    return load_file(last_checkpoint(folder) / "model.safetensors")
