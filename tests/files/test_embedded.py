"""The model that comes with the package: small, sound, documented, and better than counting."""

import runpy
from pathlib import Path

import pytest
import torch

import convbert
from convbert.files import embedded
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.masking import IGNORED, Masking, MaskingCollator

HELDOUT = Path(__file__).parents[1] / "data/heldout.txt"
DEMO = Path(__file__).parents[2] / "examples/demo.py"


@pytest.fixture(scope="module")
def fill():
    return convbert.pipeline("fill-mask", precision="fp32", top_k=5)


def test_the_demo_prints_a_table(capsys):
    runpy.run_path(str(DEMO), run_name="__main__")
    printed = capsys.readouterr().out
    assert "photosynthesis" in printed.replace("\n", " ")
    assert "%" in printed


def test_fits_the_package():
    files = {file.name: file.stat().st_size for file in embedded.folder().iterdir()}
    assert sum(files.values()) <= 20e6
    assert {"model.safetensors", "config.json", "tokenizer.json", "vocab.txt", "README.md"} <= set(files)


def test_card_is_filled_in():
    card = (embedded.folder() / "README.md").read_text(encoding="utf-8")
    assert "{" not in card.split("```json")[0]
    for word in ("licences", "convbert pretrain", "bigram", "Limits", "minutes"):
        assert word in card


def test_weights_are_plain_half_precision(fill):
    stored = convbert.ConvBertForMaskedLM.from_pretrained(embedded.folder(), dtype="auto")
    assert stored.dtype == torch.float32  # the trap of half precision on a CPU stays out of the configuration
    assert fill.model.dtype == torch.float32
    assert all(torch.isfinite(x).all() for x in stored.state_dict().values())


@pytest.mark.parametrize(
    ("text", "sensible"),
    [
        ("She opened the [MASK] and went into the room.", {"door", "window", "house", "gate", "room"}),
        ("The results are shown in [MASK] 3.", {"figure", "table", "chapter", "section"}),
        ("He did [MASK] know what to say.", {"not", "n't"}),
        ("The United [MASK] is a country in North America.", {"states"}),
    ],
)
def test_sensible_words(fill, text, sensible):
    assert sensible & {word["token_str"] for word in fill(text)}


def test_beats_the_most_frequent_token_on_text_it_has_not_seen(fill, tmp_path):
    sequences = prepare_sequences(HELDOUT, fill.tokenizer, tmp_path, Packing(128, 16))
    batch = MaskingCollator(fill.tokenizer, Masking(0.15), seed=1)(
        [sequences[i] for i in range(len(sequences))]
    )
    labels = batch["labels"]
    asked = labels != IGNORED
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        guesses = fill.model(**inputs, logits_to_keep=asked).logits.argmax(-1)
    targets = labels[asked]
    accuracy = (guesses == targets).float().mean()
    most_frequent = targets.bincount().max() / len(targets)
    assert len(targets) > 500
    assert accuracy > 3 * most_frequent
