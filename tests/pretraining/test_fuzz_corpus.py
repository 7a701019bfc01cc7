"""Damaged records of runs, and damaged corpora: an answer or one sentence, never anything else."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fuzzing import damaged_bytes, damaged_json, outcome

from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.prepare import Preparation
from convbert.pretraining.corpus.reading import CorpusReader, Reading
from convbert.pretraining.corpus.shards import Manifest
from convbert.pretraining.corpus.sources import find_sources
from convbert.pretraining.data import open_corpus, prepare_sequences
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.recipes import smoke
from convbert.training.checkpoints import usable_checkpoint
from training_runs import build

SEEDS = range(*map(int, os.environ.get("CONVBERT_FUZZ_SEEDS", "0:60").split(":")))
"""Of each kind of file."""
RECORD = {"train": "3 sequences", "heldout": None, "tokenizer": "1f", "sequences a step": 8}
FIGURES = {"steps": 20, "minutes": 0.5, "device": "cpu", "bf16": False, "heldout_masked_loss": 3.1}


def fuzz_json(path: Path, read: Callable[[], Any]) -> Counter[str]:
    """How often `read` answered and refused while `path` held a damaged version of its content."""
    whole = path.read_bytes()
    content = (
        [json.loads(line) for line in whole.splitlines()] if path.suffix == ".jsonl" else json.loads(whole)
    )
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        if seed % 3 == 0:
            path.write_bytes(damaged_bytes(whole, seed))
        elif path.suffix == ".jsonl":
            lines = damaged_json(content, seed)
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        else:
            path.write_text(json.dumps(damaged_json(content, seed)))
        try:
            seen[outcome(read)] += 1
        except BaseException:
            print(f"seed {seed}: {path.read_bytes()[:2000]!r}")
            raise
    path.write_bytes(whole)
    return seen


# ------------------------------------------------------------------------------------------ records of runs


def run_files(folder: Path) -> dict[str, Callable[[], Any]]:
    """A folder of a run, by the file that is damaged to what reads it."""
    plan, run = smoke(), RunFolder(folder)
    folder.mkdir()
    run.claim(plan)
    run.bind(RECORD)
    run.metrics.write_text(json.dumps(FIGURES))
    for name in ("model", "generator"):
        (folder / name).mkdir()
        for file in ("config.json", "model.safetensors"):
            (folder / name / file).touch()
    return {
        "plan.json": lambda: run.claim(plan),
        "run_data.json": lambda: run.bind(RECORD),
        "metrics.json": lambda: run.finished(plan, lambda message: None),
    }


@pytest.mark.parametrize("name", ["plan.json", "run_data.json", "metrics.json"])
def test_records_of_a_run(name, tmp_path):
    seen = fuzz_json(tmp_path / "run" / name, run_files(tmp_path / "run")[name])
    assert set(seen) == {"answered", "refused"} or (set(seen) == {"refused"} and name == "run_data.json")


@pytest.mark.parametrize("name", ["progress.json", "trainer_state.json"])
def test_records_of_a_checkpoint(name, trained, tmp_path):
    """Those that are used can be gone on from."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    trainer, _ = build(run, steps=4)
    model = {key: value.clone() for key, value in trainer.model.state_dict().items()}

    def read() -> None:
        found = usable_checkpoint(run, lambda message: None)
        trainer.resume_from(found)

    seen = fuzz_json(run / "checkpoint-4" / name, read)
    assert set(seen) == {"answered", "refused"}
    assert all(torch.equal(value, model[key]) for key, value in trainer.model.state_dict().items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with one checkpoint."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    folder.mkdir()
    trainer, _ = build(folder, steps=4, save_every=4)
    trainer.train()
    return folder


@pytest.mark.parametrize("kind", ["manifest", "manifest with its checksum", "journal"])
def test_records_of_a_corpus(kind, corpus, tokenizer, tmp_path):
    from convbert.pretraining.corpus import shards

    folder, packing = tmp_path / "train", Packing(32, 4)
    prepare_sequences(corpus, tokenizer, tmp_path, packing)
    whole = (folder / "manifest.json").read_bytes()
    if kind == "journal":
        lines = [json.dumps(shard) + "\n" for shard in json.loads(whole)["shards"]]
        (folder / "journal.jsonl").write_text("".join(lines * 2))
        preparation = Preparation(corpus, folder, packing)
        fuzz_json(folder / "journal.jsonl", preparation._kept_shards)
        return

    def read() -> None:
        path = folder / "manifest.json"
        if kind != "manifest":  # as somebody would write it who knows the format
            try:
                content = json.loads(path.read_text())
                content.pop("checksum", None)
                path.write_text(json.dumps(content | {"checksum": shards._checksum(content)}))
            except (ValueError, AttributeError, TypeError):
                pass
        dataset = open_corpus(folder, tokenizer, packing)
        dataset.__getitems__(list(range(3)))
        Manifest.read(folder).to_json()

    seen = fuzz_json(folder / "manifest.json", read)
    assert "refused" in seen


# ------------------------------------------------------------------------------------------------- corpora

TEXT = "The cat sat.\n\nA dog — ein Hund.\nIt ran.\n\n中文 text\n" * 4


def write_corpora(folder: Path) -> dict[str, Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": line, "id": number} for number, line in enumerate(TEXT.splitlines())]
    files = {name: folder / f"corpus.{name}" for name in ("txt", "jsonl", "parquet")}
    files["txt"].write_text(TEXT, encoding="utf-8")
    files["jsonl"].write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    for name, mark in (("csv", ","), ("tsv", "\t")):
        files[name] = folder / f"corpus.{name}"
        lines = (f'{number}{mark}"{row["text"]}"\n' for number, row in enumerate(rows))
        files[name].write_text(f"id{mark}text\n{''.join(lines)}", encoding="utf-8")
    pq.write_table(pa.table({"text": [row["text"] for row in rows]}), files["parquet"])
    for name in ("txt", "jsonl"):
        raw = files[name].read_bytes()
        files[f"{name}.gz"] = folder / f"corpus.{name}.gz"
        files[f"{name}.gz"].write_bytes(gzip.compress(raw, mtime=0))
        files[f"{name}.zst"] = folder / f"corpus.{name}.zst"
        with pa.output_stream(files[f"{name}.zst"], compression="zstd") as stream:
            stream.write(raw)
    return files


def read_corpus(path: Path, skip_bad: bool) -> None:
    for _ in CorpusReader(find_sources(path), Reading(skip_bad=skip_bad)).paragraphs():
        pass


@pytest.mark.parametrize(
    "name", ["txt", "jsonl", "parquet", "csv", "tsv", "txt.gz", "jsonl.gz", "txt.zst", "jsonl.zst"]
)
def test_files_of_a_corpus(name, tmp_path):
    path = write_corpora(tmp_path)[name]
    whole, seen = path.read_bytes(), Counter()
    assert outcome(lambda: read_corpus(path, False)) == "answered"
    for seed in SEEDS:
        path.write_bytes(damaged_bytes(whole, seed))
        try:
            seen[outcome(partial(read_corpus, path, seed % 2 == 0))] += 1
        except BaseException:
            print(f"seed {seed}: {path.read_bytes()[:2000]!r}")
            raise
    assert "answered" in seen
    assert seen["refused without a word"] == 0


@pytest.mark.parametrize("name", ["jsonl"])
def test_lines_of_json(name, tmp_path):
    path = write_corpora(tmp_path)[name]
    seen = fuzz_json(path, lambda: read_corpus(path, False))
    assert set(seen) == {"answered", "refused"}


def test_json_that_is_nested_too_deeply_is_refused_with_its_line(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_text('{"text": "a"}\n{"text": ' + "[" * 100_000 + "\n")
    assert outcome(lambda: read_corpus(path, False)) == "refused"
