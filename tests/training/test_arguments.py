"""What the engine tells transformers' Trainer, and what it refuses to."""

import pytest
import torch

from convbert.training import arguments
from convbert.training.arguments import training_arguments
from convbert.training.callbacks import TrainingBudget
from convbert.util.errors import InputError
from training_runs import build, log_of


def test_fsdp_is_refused_where_it_cannot_run(tmp_path):
    with pytest.raises(InputError, match="fsdp needs GPUs"):
        training_arguments(tmp_path, TrainingBudget(max_steps=1), batch_size=1, device="cpu", fsdp=True)


def test_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        training_arguments(
            tmp_path, TrainingBudget(max_steps=1), batch_size=1, device="cpu", report_to="tensorboard"
        )


def test_nothing_is_reported_unless_asked(tmp_path):
    assert (
        training_arguments(tmp_path, TrainingBudget(max_steps=1), batch_size=1, device="cpu").report_to == []
    )


def test_a_compiled_objective_gives_the_same_losses(tmp_path):
    """Without the code generator, which takes minutes: what is tested is the way to it."""
    for name, compile in (("plain", False), ("compiled", "eager")):
        torch._dynamo.reset()
        (tmp_path / name).mkdir()
        build(tmp_path / name, steps=4, dropout=0.0, compile=compile, log_every=1)[0].train()
    plain, compiled = (log_of(tmp_path / name) for name in ("plain", "compiled"))
    assert len(plain) == len(compiled) == 5
    for ours, theirs in zip(compiled, plain, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
