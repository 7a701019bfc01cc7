"""The contract with transformers' Trainer: each private method that is overridden is called in a run, and what it
guards holds without it."""

import inspect
import json

import pytest
import torch

from convbert.training._trainer_internals import TrainerInternals
from convbert.training.checkpoints import last_checkpoint
from training_runs import build, log_of, weights_of

OVERRIDES = sorted(
    name
    for name, value in vars(TrainerInternals).items()
    if inspect.isfunction(value) and name.startswith("_") and not name.startswith("__")
)
BEST = {"best_metric": "heldout_size", "steps": 10, "save_every": 5}


@pytest.fixture
def count_calls(monkeypatch):
    """Names of the overrides that a run calls."""
    called = set()
    for name in OVERRIDES:
        original = vars(TrainerInternals)[name]

        def counting(self, *args, original=original, name=name, **kwargs):
            called.add(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(TrainerInternals, name, counting)
    return called


def test_every_override_is_called(count_calls, tmp_path):
    build(tmp_path, **BEST)[0].train()
    missing = set(OVERRIDES) - count_calls
    assert not missing, (
        f"this transformers no longer calls {sorted(missing)}: see training/_trainer_internals.py"
    )


@pytest.fixture
def without(monkeypatch):
    """A Trainer that calls a method by another name than the one that is overridden."""
    return lambda name: monkeypatch.delattr(TrainerInternals, name)


def test_the_guard_against_steps_that_are_not_finite_holds_without_the_override(without, tmp_path):
    run = {"steps": 4, "poisoned": (3,), "log_every": 2}
    build(tmp_path / "with", **run)[0].train()
    without("_clip_grad_norm")
    build(tmp_path / "without", **run)[0].train()
    assert log_of(tmp_path / "without") == log_of(tmp_path / "with")
    assert [entry["skipped_steps"] for entry in log_of(tmp_path / "with") if "loss" in entry] == [0, 0, 1]
    for name, weight in weights_of(tmp_path / "with").items():
        assert torch.equal(weights_of(tmp_path / "without")[name], weight)


def test_exact_resume_holds_without_the_override(without, tmp_path):
    build(tmp_path / "with", steps=4)[0].train()
    without("_save_checkpoint")
    build(tmp_path / "without", steps=4)[0].train()
    resumed, _ = build(tmp_path / "without", steps=4)
    resumed.train(resume_from_checkpoint=tmp_path / "without/checkpoint-2")
    assert log_of(tmp_path / "without") == log_of(tmp_path / "with")
    for name, weight in weights_of(tmp_path / "with").items():
        assert torch.equal(weights_of(tmp_path / "without")[name], weight)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_a_step_that_is_left_out_leaves_no_trace_in_the_optimizer(bias_correction, tmp_path):
    """The device itself leaves it out, as the optimizers are fused; its count of steps is that of the steps taken."""
    trainer, _ = build(tmp_path, steps=4, poisoned=(2, 3), save_every=4, bias_correction=bias_correction)
    trainer.train()
    state = torch.load(last_checkpoint(tmp_path) / "optimizer.pt", weights_only=True)
    assert {int(entry["step"]) for entry in state["state"].values()} == {2}
    assert {group.get("steps", 2) for group in state["param_groups"]} == {2}
    assert json.loads((tmp_path / "checkpoint-4/progress.json").read_text())[0]["skipped_steps"] == 2
