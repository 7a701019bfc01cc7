"""Teachers: a random encoder of transformers, and fine-tuned folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

import tiny
from convbert import ConvBertTokenizerFast

WIDTH = 24
"""Of the sentence teacher: narrower than `tiny` students, which are 32 wide."""


@pytest.fixture(scope="session")
def sentence_teacher(tmp_path_factory) -> Path:
    """A BERT, whose tokens sentence-transformers averages."""
    folder = tmp_path_factory.mktemp("teacher") / "bert"
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tiny.WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=tiny.POSITIONS,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    words = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    words.model_max_length = tiny.POSITIONS
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentences(tmp_path_factory) -> Path:
    """Some hundreds of different texts of the tiny vocabulary."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    animals, verbs, places = ("cat", "dog", "cats"), ("sat", "ran"), ("mat", "house")
    lines = {
        f"the {one} {verb} on the {place} and a {two} {other} to the {end}"
        for one in animals
        for two in animals
        for verb in verbs
        for other in verbs
        for place in places
        for end in places
    }
    lines |= {line.split(" and ")[0] for line in lines} | {line.replace("the", "a") for line in lines}
    path.write_text("\n\n".join(sorted(lines)), encoding="utf-8")
    return path
