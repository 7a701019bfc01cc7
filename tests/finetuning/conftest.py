"""A model to start from, and a folder of labelled data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tiny
from labelled import write_sentences


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model gains nothing from a second thread, and on a busy machine every operation waits for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Path:
    """A pre-trained model with dropout, as most are."""
    return tiny.write_model(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture
def sst2(tmp_path) -> Path:
    """A folder in the format of SST-2."""
    folder = tmp_path / "sst2"
    folder.mkdir()
    write_sentences(folder / "train.tsv", 256)
    write_sentences(folder / "dev.tsv", 16)
    return folder
