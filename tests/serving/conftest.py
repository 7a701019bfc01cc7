"""Tiny models of every head, and a server that has them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import convbert
import tiny
from convbert.serving.worker import Models

TAGS = ("O", "B-X", "I-X")
HEADS = {
    "words": (convbert.ConvBertForMaskedLM, {}),
    "reviews": (convbert.ConvBertForSequenceClassification, {"num_labels": 3}),
    "ranks": (convbert.ConvBertForSequenceClassification, {"num_labels": 1}),
    "names": (convbert.ConvBertForTokenClassification, {"id2label": dict(enumerate(TAGS))}),
    "questions": (convbert.ConvBertForQuestionAnswering, {}),
    "choices": (convbert.ConvBertForMultipleChoice, {}),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Name to folder of a tiny random model, one of each head."""
    root = tmp_path_factory.mktemp("served")
    for name, (made, settings) in HEADS.items():
        tiny.write_model(root / name)  # the tokenizer
        torch.manual_seed(1)
        made(tiny.config(initializer_range=0.3, **settings)).save_pretrained(root / name)
    return {name: root / name for name in HEADS}


@pytest.fixture(scope="session")
def models(folders) -> Models:
    return Models(tuple((name, str(folder)) for name, folder in folders.items()), "fp32", max_tokens=64)


@pytest.fixture(scope="session")
def server(models) -> Iterator[Any]:
    from servers import Batcher, in_thread, serving

    with serving(Batcher(models, make_pool=in_thread)) as running:
        yield running
