"""A checkpoint that lacks a file, or has a torn one, is named and not used; the run goes on from the one before."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from convbert.training.checkpoints import checkpoints_in, load_weights, usable_checkpoint
from convbert.util.errors import DataWarning, InputError
from fuzzing import damaged_bytes, damaged_json, outcome
from training_runs import build, log_of, weights_of

FILES = ("optimizer.pt", "scheduler.pt", "trainer_state.json", "progress.json", "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run; its checkpoints are of the steps 22 and 24."""
    folder = tmp_path_factory.mktemp("whole")
    build(folder)[0].train()
    return folder


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "an object of another kind": lambda path: path.write_bytes(b"[]"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "a pickle of torch": lambda path: torch.save({"state": Bomb()}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_the_checkpoint_before_is_used(run, name, damage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    DAMAGE[damage](run / "checkpoint-24" / name)
    assert usable_checkpoint(run, said.append) == run / "checkpoint-22"
    (line,) = said
    assert f"checkpoint-24/{name}" in line
    shutil.rmtree(run / "checkpoint-22")
    with pytest.raises(InputError, match=f"checkpoint-24/{name}.*no other checkpoint"):
        usable_checkpoint(run, said.append)
    assert not (tmp_path / "unpickled").exists()


def test_the_run_comes_to_the_same_end(whole, run):
    """And the damaged checkpoint is neither counted nor lost."""
    (run / "checkpoint-24/optimizer.pt").unlink()
    trainer, _ = build(run)
    trainer.train(resume_from_checkpoint=usable_checkpoint(run, lambda message: None))
    assert log_of(run) == log_of(whole)
    ours, theirs = weights_of(run), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert list(checkpoints_in(run)) == [22, 24]
    assert (run / "unused-checkpoint-24").is_dir()


def test_the_files_of_a_checkpoint_follow_the_umask(whole):
    modes = {oct(path.stat().st_mode) for path in (whole / "checkpoint-24").iterdir()}
    assert len(modes) == 1


def test_without_checkpoints_a_run_begins(tmp_path):
    assert usable_checkpoint(tmp_path, lambda message: None) is None


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "model.safetensors"])
def test_what_belongs_to_another_run_is_named(run, name, tmp_path):
    """Whole files, of another model or optimizer."""
    path = run / "checkpoint-24" / name
    if name.endswith(".pt"):
        torch.save({"state": {}, "param_groups": []} if name == "optimizer.pt" else {"a": "b"}, path)
    else:
        from safetensors.torch import save_file

        save_file({"other": torch.zeros(1)}, path)
    trainer, _ = build(run, steps=26)
    if name == "scheduler.pt":
        torch.save({"lr_lambdas": 1}, path)
    with pytest.raises(InputError, match="checkpoint-24"):
        trainer.train(resume_from_checkpoint=run / "checkpoint-24")


def test_the_best_checkpoint_is_found_where_the_run_lies_now(tmp_path):
    """Or its loss is said; the last weights never take its place in silence."""
    best = {"best_metric": "heldout_size", "save_every": 5, "evaluate_every": 5, "greater_is_better": True}
    build(tmp_path / "here", steps=15, **best)[0].train()
    step = json.loads((tmp_path / "here/checkpoint-15/trainer_state.json").read_text())["best_global_step"]
    (tmp_path / "here").rename(tmp_path / "there")
    trainer, _ = build(tmp_path / "there", steps=15, **best)
    trainer.train(resume_from_checkpoint=tmp_path / "there/checkpoint-15")
    wanted, _ = build(tmp_path / "wanted", steps=15)
    load_weights(wanted.model, tmp_path / f"there/checkpoint-{step}")
    torch.testing.assert_close(trainer.model.table.weight, wanted.model.table.weight, rtol=0, atol=0)
    state = tmp_path / "there/checkpoint-15/trainer_state.json"
    state.write_text(state.read_text().replace(f'"best_global_step": {step}', '"best_global_step": 3'))
    again, _ = build(tmp_path / "there", steps=15, **best)
    with pytest.warns(DataWarning, match="checkpoint-3: the best checkpoint so far is gone"):
        again.train(resume_from_checkpoint=tmp_path / "there/checkpoint-15")


def test_no_damage_ends_in_anything_but_a_sentence(run):
    """A hundred files damaged at random."""
    shutil.rmtree(run / "checkpoint-22")
    folder = run / "checkpoint-24"
    for name in FILES:
        raw = (folder / name).read_bytes()
        for seed in range(20):
            if name.endswith(".json"):
                (folder / name).write_text(json.dumps(damaged_json(json.loads(raw), seed)))
            else:
                (folder / name).write_bytes(damaged_bytes(raw, seed))
            found = outcome(lambda: usable_checkpoint(run, lambda message: None))
            assert found in ("answered", "refused"), (name, seed, found)
        (folder / name).write_bytes(raw)


def test_a_run_of_skipped_steps_alone_fails(tmp_path):
    trainer, _ = build(tmp_path, poisoned=tuple(range(1, 5)), steps=4, max_skipped_steps=20)
    with pytest.raises(InputError, match="any of the 4 steps"):
        trainer.train()
