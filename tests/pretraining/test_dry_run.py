from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pytest

from convbert.cli import main
from convbert.pretraining import dry_run as module
from convbert.pretraining.corpus.sources import find_sources
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.dry_run import dry_run, write_sample
from convbert.pretraining.recipes import smoke
from convbert.util.errors import InputError


@pytest.fixture(autouse=True)
def brief(monkeypatch, tmp_path):
    """Timing of a moment, and a place of its own for temporary files."""
    monkeypatch.setattr(module, "SECONDS", 0.3)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_what_can_be_counted_is_right(corpus, tokenizer, tmp_path, brief):
    plan = smoke(max_steps=500)
    estimate = dry_run(plan, corpus, tokenizer=tokenizer, device="cpu", report=lambda message: None)
    train = prepare_sequences(corpus, tokenizer, tmp_path, plan.packing)
    assert estimate.sampled == 1
    assert estimate.tokens_per_epoch == train.count_tokens()
    assert estimate.tokens_per_step == round(plan.batch_size * train.count_tokens() / len(train))
    assert estimate.memory["optimizer"] == 8 * estimate.parameters["together"]
    assert estimate.hours == pytest.approx(500 * estimate.seconds_per_step / 3600)
    assert estimate.epochs == pytest.approx(500 * plan.batch_size / len(train), rel=0.01)
    assert 0 < estimate.mfu < 1
    assert list(brief.iterdir()) == []


def test_what_a_reader_should_know_of_the_corpus_is_said(corpus, tokenizer, tmp_path):
    text = tmp_path / "strange.txt"
    text.write_text(corpus.read_text().replace("the ", "猫 "))
    told: list[str] = []
    dry_run(smoke(), text, tokenizer=tokenizer, device="cpu", report=told.append)
    assert any("[UNK]" in line for line in told)


def test_a_part_of_a_large_corpus_stands_for_all_of_it(tmp_path):
    """Packed and plain files of the same lines."""
    line = "the cat sat on the mat and the dog ran to the house .\n"
    (tmp_path / "a.txt").write_text(f"{line}\n" * 20_000)
    with gzip.open(tmp_path / "b.txt.gz", "wt") as packed:
        packed.writelines(f"{number} {line}\n" for number in range(200_000))
    share = write_sample(find_sources(tmp_path / "a.txt"), tmp_path / "sample", 110_000)
    assert 0.1 <= share < 0.13  # it ends with a whole piece
    assert (tmp_path / "sample").stat().st_size / (tmp_path / "a.txt").stat().st_size == pytest.approx(
        share, rel=0.01
    )
    share = write_sample(find_sources(tmp_path / "b.txt.gz"), tmp_path / "sample", 6_000_000)
    written = (tmp_path / "sample").stat().st_size
    whole = len(gzip.decompress((tmp_path / "b.txt.gz").read_bytes()))
    assert share == pytest.approx(written / whole, rel=0.2)


def test_a_corpus_of_less_than_a_batch_is_refused(tmp_path, brief):
    (tmp_path / "few.txt").write_text("the cat sat on the mat .\n" * 3)
    with pytest.raises(InputError, match="less than one batch"):
        dry_run(smoke(min_frequency=1), tmp_path / "few.txt", device="cpu", report=lambda message: None)
    assert list(brief.iterdir()) == []


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_it_and_leaves_nothing(as_json, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(Path(tmp_path).rglob("*"))
    words = ["pretrain", "--recipe", "smoke", "--corpus", str(corpus), "--device", "cpu", "--dry-run"]
    assert main([*words, *(["--json"] if as_json else [])]) == 0
    shown = capsys.readouterr().out
    if as_json:
        assert json.loads(shown)["plan"]["name"] == "smoke"
    else:
        assert "hours" in shown
        assert "utilisation" in shown
    assert set(Path(tmp_path).rglob("*")) == before


def test_output_is_still_needed_for_a_run(corpus, capsys):
    assert main(["pretrain", "--recipe", "smoke", "--corpus", str(corpus)]) == 2
    assert "--output" in capsys.readouterr().err
