"""Every script still finds what it imports and answers `--help`; those that nothing else tests do their work once."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

import tiny
from convbert import ConvBertForMaskedLM, ConvBertTokenizerFast

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def load(monkeypatch):
    """A script by name, as a module."""

    def find(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(SCRIPTS))  # where Python looks first for a script's neighbours
        spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return find


@pytest.mark.parametrize("name", sorted(file.stem for file in SCRIPTS.glob("*.py")))
def test_every_script_answers_help(name, load):
    module = load(name)
    if name == "comparison_page":  # is a part of comparison.py
        return
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(module.main)
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "--help" in shown.output


def test_the_comparison_says_how_many_contenders_it_has(load):
    module = load("comparison")
    assert len(module.CONTENDERS) == 4
    assert "Four contenders" in module.__doc__
    assert all(f"`{name}`" in module.__doc__ for name in module.CONTENDERS)


@pytest.mark.parametrize("form", ["arrays, read", "arrays, memory map", "Arrow (datasets)"])
def test_forms_of_a_corpus_are_measured(form, load, monkeypatch):
    module = load("corpus")
    monkeypatch.setattr(module, "PER_SHARD", 256)
    figures = module.measure(form, 2, 256)
    assert figures["MB"] > 2 * 256 * 128 * 2 / 1e6
    assert figures["items/s"] > 0


def test_an_embedded_model_is_a_half_precision_file_of_a_float32_model(load, tmp_path, monkeypatch):
    """What reads the folder as its config says trains in float32."""
    module = load("embed_model")
    monkeypatch.setattr(module, "TARGET", tmp_path / "english")
    run = tmp_path / "run"
    model = ConvBertForMaskedLM(tiny.config())
    model.save_pretrained(run / "model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]
    ConvBertTokenizerFast(vocab={word: row for row, word in enumerate(words)}).save_pretrained(run / "model")
    (run / "model/loss.png").write_bytes(b"picture")
    (run / "metrics.json").write_text(json.dumps({"tokens_seen": 10, "heldout_masked_accuracy": 0.5}))
    (run / "plan.json").write_text(json.dumps({"name": "embedded"}))
    module.main(run)
    config = json.loads((tmp_path / "english/config.json").read_text())
    assert config["dtype"] == "float32"
    stored = load_file(tmp_path / "english/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = ConvBertForMaskedLM.from_pretrained(tmp_path / "english", dtype="auto")
    assert loaded.dtype == torch.float32
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.half().float()), name
