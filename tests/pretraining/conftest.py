"""A small corpus of made-up sentences, a vocabulary learned from it, and its sequences."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.vocabulary import train_wordpiece

SUBJECTS = ["the cat", "the dog", "a small bird", "the old farmer", "my neighbour", "a young girl"]
VERBS = ["watches", "follows", "remembers", "likes", "paints", "forgets"]
OBJECTS = ["the river", "a red house", "the long road", "an apple tree", "the green hills", "a letter"]
PLACES = ["in the morning", "near the town", "behind the wall", "every summer", "without a word"]


def make_text(documents: int, seed: int) -> str:
    """Documents of three paragraphs, an empty line after each."""
    source = random.Random(seed)

    def sentence() -> str:
        return " ".join(source.choice(words) for words in (SUBJECTS, VERBS, OBJECTS, PLACES)) + "."

    def document() -> str:
        return "\n".join(" ".join(sentence() for _ in range(3)) for _ in range(3)) + "\n"

    return "\n".join(document() for _ in range(documents))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "train.txt"
    path.write_text(make_text(60, seed=0), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def heldout_text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("heldout") / "heldout.txt"
    path.write_text(make_text(7, seed=1), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(corpus, tmp_path_factory):
    return train_wordpiece(corpus, 200, tmp_path_factory.mktemp("tokenizer"), limit_alphabet=60)


@pytest.fixture(scope="session")
def sequences(corpus, tokenizer, tmp_path_factory):
    return prepare_sequences(corpus, tokenizer, tmp_path_factory.mktemp("data"), Packing(32, 4))


@pytest.fixture(scope="session")
def heldout(heldout_text, tokenizer, tmp_path_factory):
    return prepare_sequences(heldout_text, tokenizer, tmp_path_factory.mktemp("data"), Packing(32, 4))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch, request):
    """Drawing takes most of the time of a run this small. Fixtures' runs, test_run.py and test_report.py draw."""
    if request.path.name not in ("test_run.py", "test_report.py"):
        monkeypatch.setattr("convbert.report.page.figure_svg", lambda figure: "<svg></svg>")
