"""A tiny model, files of rows, and `convbert predict --embeddings` over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tiny
from convbert.cli import main


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("bulk") / "model")


def read(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.ParquetFile(path).read().to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


Embed = Callable[..., tuple[list[dict], int, str]]


@pytest.fixture
def embed(model, capsys) -> Embed:
    """Answers, exit code and what was said."""

    def run(source: Any, output: Path, *words: object) -> tuple[list[dict], int, str]:
        given = [
            "--embeddings",
            "mean",
            "--model",
            model,
            "--device",
            "cpu",
            "--input",
            source,
            "--output",
            output,
        ]
        capsys.readouterr()
        code = main([str(word) for word in ("predict", *given, *words)])
        return read(output) if output.exists() else [], code, capsys.readouterr().err

    return run
