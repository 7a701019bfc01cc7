"""The folder of a run: what happens when files in it are damaged or gone, and who may read them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convbert import ConvBertForMaskedLM
from convbert.files.atomic import folder_lock
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.prepare import Preparation
from convbert.pretraining.corpus.shards import Manifest
from convbert.pretraining.data import open_corpus
from convbert.pretraining.export import write_models
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.prepare import prepare
from convbert.pretraining.recipes import smoke
from convbert.pretraining.run import pretrain
from convbert.training.checkpoints import usable_checkpoint
from convbert.util.errors import InputError

PLAN = smoke(max_steps=4, save_every=2, log_every=2, vocab_size=200, limit_alphabet=60)


def run(corpus: Path, folder: Path, said: list[str] | None = None, **changes):
    report = (lambda message: None) if said is None else said.append
    return pretrain(PLAN.override(**changes), corpus, folder, device="cpu", report=report)


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory) -> Path:
    """A finished run, with the usual umask."""
    return run_with(0o022, corpus, tmp_path_factory.mktemp("made") / "run")


def run_with(umask: int, corpus: Path, folder: Path) -> Path:
    before = os.umask(umask)
    try:
        run(corpus, folder)
    finally:
        os.umask(before)
    return folder


@pytest.fixture
def finished(made, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_all_files_follow_the_umask(umask, made, corpus, tmp_path):
    folder = made if umask == 0o022 else run_with(umask, corpus, tmp_path / "run")
    seen = set()
    for path in (folder, *folder.rglob("*")):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert path.stat().st_mode & 0o777 == wanted, path
        seen.add(path.name)
    assert {"plan.json", "vocab.txt", "manifest.json", "000000.bin", "report.html", "optimizer.pt"} <= seen
    assert len(list(folder.rglob("model.safetensors"))) == 4  # two models, two checkpoints


DAMAGE = {
    "a list": "[]",
    "nothing": "",
    "half a file": '{"name": "smo',
    "null": "null",
    "text": '"text"',
    "no characters": "\ud800",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", ["plan.json", "run_data.json", "metrics.json", "data/train/manifest.json"])
def test_a_damaged_file_is_named_and_nothing_is_trained_over_it(name, damage, finished, corpus):
    if name in ("run_data.json", "data/train/manifest.json"):  # which a finished run does not look at
        (finished / "metrics.json").unlink()
    (finished / name).write_bytes(damage.encode(errors="surrogatepass"))
    before = content_of(finished)
    with pytest.raises(InputError, match=name):
        run(corpus, finished)
    assert content_of(finished) == before


FIELDS = [
    ("plan.json", "mask_prob", float("nan")),
    ("plan.json", "hidden", 2),
    ("plan.json", "seed", 2**63),
    ("plan.json", "model", []),
    ("plan.json", "batch_size", True),
    ("run_data.json", "train", 2**63),
    ("run_data.json", "tokenizer", None),
    ("metrics.json", "steps", -1),
    ("metrics.json", "minutes", float("nan")),
    ("metrics.json", "device", ["cpu"]),
]


@pytest.mark.parametrize(("name", "field", "value"), FIELDS)
def test_a_damaged_field_is_named(name, field, value, finished, corpus):
    if name == "run_data.json":
        (finished / "metrics.json").unlink()
    content = json.loads((finished / name).read_text())
    (finished / name).write_text(json.dumps(content | {field: value}))
    if field == "hidden":  # of another version, which nobody looks at
        assert run(corpus, finished).finished
        return
    with pytest.raises(InputError, match=field):
        run(corpus, finished)


def test_a_run_whose_record_of_its_data_is_gone_is_not_bound_to_other_data(finished, corpus):
    for name in ("metrics.json", "run_data.json"):
        (finished / name).unlink()
    with pytest.raises(InputError, match=r"run_data\.json"):
        run(corpus, finished)


@pytest.mark.parametrize("lost", ["model", "generator/model.safetensors"])
def test_a_model_that_is_gone_is_written_again(lost, finished, corpus):
    name = lost.partition("/")[0]
    weights = load_file(finished / name / "model.safetensors")
    figures = json.loads((finished / "metrics.json").read_text())
    path = finished / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    said: list[str] = []
    result = run(corpus, finished, said)
    assert result.finished
    assert any(f"{name} is gone" in line for line in said)
    assert not any("this run has finished" in line for line in said if "gone" not in line)
    again = load_file(finished / name / "model.safetensors")
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert result.metrics["steps"] == figures["steps"]


def test_a_model_that_nothing_can_write_again_is_said_to_be_gone(finished, corpus):
    shutil.rmtree(finished / "generator")
    with pytest.raises(InputError):  # nothing to train on, and what is there is kept
        run(finished / "moved.txt", finished)
    assert (finished / "metrics.json").exists()
    for folder in finished.glob("checkpoint-*"):
        shutil.rmtree(folder)
    before = content_of(finished)
    with pytest.raises(InputError, match="generator is gone"):
        run(corpus, finished)
    assert content_of(finished) == before


@pytest.mark.parametrize("step", [3, 2**63])
def test_a_checkpoint_of_another_step_than_its_folder_s_is_not_used(step, finished):
    """Else a damaged number would end a run that has not been trained."""
    file = finished / "checkpoint-4/trainer_state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"global_step": step}))
    said: list[str] = []
    assert usable_checkpoint(finished, said.append) == finished / "checkpoint-2"
    assert [line for line in said if "checkpoint-4/trainer_state.json" in line]


def test_figures_that_are_not_finite_are_no_model(finished, tmp_path, tokenizer):
    model = ConvBertForMaskedLM(PLAN.model_config(len(tokenizer)))
    folder = RunFolder(tmp_path / "new")
    with pytest.raises(InputError, match="heldout_masked_loss"):
        write_models(folder, {"model": model}, tokenizer, PLAN, {"heldout_masked_loss": float("nan")}, [])
    assert not folder.root.exists()


def test_a_preparation_that_is_going_on_is_not_said_to_have_been_interrupted(corpus, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    folder = tmp_path / "prepared"
    prepare(Preparation(corpus, folder, Packing(32, 4)), tmp_path / "tokenizer")
    manifest = folder / "manifest.json"
    read = Manifest.read(folder)
    read.complete = False
    manifest.write_text(read.to_json())
    with pytest.raises(InputError, match="interrupted"):
        open_corpus(folder)
    with folder_lock(folder, "preparing a corpus"), pytest.raises(InputError, match="another process"):
        open_corpus(folder)


@pytest.mark.parametrize(
    "setting", ["weight_decay", "adam_epsilon", "generator_weight", "discriminator_weight"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_numbers_that_are_none_are_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        smoke(**{setting: value})
