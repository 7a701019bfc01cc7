"""Runs that are killed, stopped, out of disk or out of numbers: what is left goes on to the very same end."""

import json
import math
import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from convbert.training.checkpoints import checkpoints_in, last_checkpoint
from convbert.util.errors import InputError
from training_runs import (
    REFUSED,
    STOPPED,
    Texts,
    build,
    finish,
    log_of,
    start,
    weights_of,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(folder) == [0]
    return folder


def assert_same_run(folder, whole):
    assert log_of(folder) == log_of(whole)
    ours, theirs = weights_of(folder), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_killed_at_any_moment_is_the_unbroken_run(whole, tmp_path):
    """At random moments of its way, and while it writes checkpoints, which takes most of its time."""
    source, half_written, folder = random.Random(0), 0, tmp_path / "run"

    def entries():
        log = folder / "log.jsonl"
        return log.read_text().count("\n") if log.exists() else 0

    def is_writing():
        return (folder / ".writing-checkpoint").exists()

    ways = [lambda wanted=wanted: entries() >= wanted for wanted in sorted(source.sample(range(1, 8), 3))]
    for has_come in (ways[0], is_writing, is_writing, ways[1], is_writing, is_writing, ways[2], is_writing):
        (process,) = start(folder, slow_disk=0.02)
        while not has_come():
            assert process.is_alive()
        time.sleep(source.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        half_written += is_writing()
    assert half_written >= 1
    assert finish(folder) == [0]
    assert_same_run(folder, whole)
    assert not list(folder.glob(".*"))
    assert len(checkpoints_in(folder)) == 2


def test_a_run_stopped_by_a_signal_is_the_unbroken_run(whole, tmp_path):
    """Saved at a step that is neither one of logging nor of evaluation: what was counted so far is kept."""
    (process,) = start(tmp_path / "run", pause_at=3)
    while last_checkpoint(tmp_path / "run") is None:  # of step 2
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    (tmp_path / "run/go").touch()
    process.join()
    assert process.exitcode == STOPPED
    assert finish(tmp_path / "run") == [0]
    assert_same_run(tmp_path / "run", whole)


def test_going_on_reads_nothing_twice(tmp_path):
    trainer, _ = build(tmp_path, dataset=Texts(37))
    trainer.train()
    resumed, _ = build(tmp_path, dataset=Texts(37), keep_checkpoints=20)
    resumed.train(resume_from_checkpoint=tmp_path / "checkpoint-22")
    assert resumed.train_dataset.read == trainer.train_dataset.read[22 * 4 :]
    # Every text once an epoch, although 37 is no multiple of 4.
    assert sorted(trainer.train_dataset.read[:37]) == list(range(37))
    assert sorted(trainer.train_dataset.read[37:74]) == list(range(37))


def test_a_run_that_was_killed_after_its_last_step_trains_no_further(whole, tmp_path):
    trainer, _ = build(tmp_path)
    trainer.train()
    again, _ = build(tmp_path, dataset=Texts(37))
    again.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert again.state.global_step == 24
    assert again.train_dataset.read == []
    assert torch.equal(again.model.table.weight, trainer.model.table.weight)


def test_intervals_may_change_between_restarts(tmp_path):
    build(tmp_path, steps=4)[0].train()
    resumed, _ = build(tmp_path, steps=6, log_every=1)
    resumed.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert [entry["step"] for entry in log_of(tmp_path) if "loss" in entry] == [1, 3, 5, 6]


def test_a_full_disk_keeps_the_checkpoint_before(whole, tmp_path):
    assert finish(tmp_path / "run", full_disk_after=3, log_every=100, evaluate_every=100) == [REFUSED]
    message = (tmp_path / "run/error.txt").read_text()
    assert "checkpoint-4: the checkpoint cannot be written" in message
    assert list(checkpoints_in(tmp_path / "run")) == [2]
    assert not list((tmp_path / "run").glob(".*"))
    assert finish(tmp_path / "run") == [0]
    ours, theirs = weights_of(tmp_path / "run"), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path):
    trainer, _ = build(tmp_path, keep_checkpoints=1, best_metric="heldout_size", load_best_at_end=False)
    trainer.train()
    scores = {e["step"]: e["heldout_size"] for e in log_of(tmp_path) if "heldout_size" in e}
    best = max(scores, key=scores.__getitem__)
    assert list(checkpoints_in(tmp_path)) == sorted({best, 24})
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")


def test_an_evaluation_without_the_figure_or_with_nan_is_never_the_best(tmp_path, monkeypatch):
    """As where a discriminator suspects no token, and its precision is of nothing."""
    values = iter([None, math.nan, 0.2, 0.1])
    trainer, _ = build(
        tmp_path, best_metric="heldout_auc", load_best_at_end=False, steps=8, evaluate_every=2, save_every=2
    )
    evaluate = trainer.evaluate

    def with_figure(*args, **kwargs):
        metrics, value = evaluate(*args, **kwargs), next(values)
        return metrics if value is None else metrics | {"heldout_auc": value}

    monkeypatch.setattr(trainer, "evaluate", with_figure)
    trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.2, 6)


def test_a_step_without_numbers_changes_nothing_and_is_counted(tmp_path):
    """The same run with a loop that leaves the step out by hand."""
    poisoned, _ = build(tmp_path, poisoned=(3,), steps=4, dropout=0.0, log_every=2)
    poisoned.train()
    other, _ = build(tmp_path / "other", steps=4, dropout=0.0)
    batches = list(iter(other.get_train_dataloader()))
    rates = [0.05 * min(1, (step + 1) / 3) * (1 - step / 4) for step in range(4)]
    for step in (0, 1, 3):
        other.optimizer.param_groups[0]["lr"] = other.optimizer.param_groups[1]["lr"] = rates[step]
        other.optimizer.zero_grad()
        other.model(**batches[step])["loss"].backward()
        torch.nn.utils.clip_grad_norm_(other.model.parameters(), 1.0)
        other.optimizer.step()
    torch.testing.assert_close(poisoned.model.table.weight, other.model.table.weight)
    entries = {entry["step"]: entry for entry in log_of(tmp_path) if "skipped_steps" in entry}
    assert [entries[step]["skipped_steps"] for step in (1, 2, 4)] == [0, 0, 1]
    assert np.isfinite(entries[4]["loss"])


def test_steps_without_numbers_end_the_run_when_they_go_on(tmp_path):
    trainer, _ = build(tmp_path, poisoned=tuple(range(5, 20)), max_skipped_steps=3)
    with pytest.raises(InputError, match=r"step 7: .* not been finite for 3 steps in a row"):
        trainer.train()
    assert all(torch.isfinite(weight).all() for weight in weights_of(tmp_path).values())
    skipped = json.loads((last_checkpoint(tmp_path) / "progress.json").read_text())[0]["skipped_steps"]
    assert (last_checkpoint(tmp_path).name, skipped) == ("checkpoint-6", 2)


class Deadly(Texts):
    """Ends the process that reads its tenth row."""

    def __getitem__(self, index):
        if len(self.read) == 10:
            os._exit(1)
        return super().__getitem__(index)


def test_a_dead_worker_is_named(tmp_path):
    trainer, _ = build(tmp_path, dataset=Deadly(37), dataloader_workers=1)
    with pytest.raises(InputError, match="a process that prepares batches has died"):
        trainer.train()


def test_workers_change_nothing(whole, tmp_path):
    trainer, _ = build(tmp_path, dataloader_workers=2)
    trainer.train()
    assert_same_run(tmp_path, whole)
