"""The sentence encoder that comes with the package: small, documented, and of use."""

from pathlib import Path

import numpy as np
import pytest

import convbert
from convbert.files import embedded
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.tasks import find_task

STSB = Path(__file__).parents[3] / "shared/data/tasks/stsb/dev.csv"


@pytest.fixture(scope="module")
def similar():
    return convbert.pipeline("sentence-similarity")


def test_fits_the_package():
    sizes = {
        name: sum(path.stat().st_size for path in embedded.folder(name).rglob("*") if path.is_file())
        for name in embedded.NAMES
    }
    assert sizes["embedded-sentences"] <= 16e6
    assert sum(sizes.values()) <= 30e6


def test_card_is_filled_in():
    card = (embedded.folder("embedded-sentences") / "README.md").read_text(encoding="utf-8")
    assert "{" not in card.split("```json")[0]
    for word in ("STS-B dev", "recall@10", "texts/s", "convbert distill", "licences", "Limits", "minutes"):
        assert word in card


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("A man is playing a guitar.", "Somebody makes music.", "The stock market fell."),
        ("How do plants feed?", "Plants turn light into sugar.", "Paris is the capital of France."),
        ("What are the symptoms of flu?", "Influenza causes fever and a cough.", "Influence can be bought."),
    ],
)
def test_near_and_far(similar, text, near, far):
    close, distant = similar(text, [near, far])
    assert close > distant + 0.05


@pytest.mark.skipif(not STSB.exists(), reason="STS-B does not lie beside the checkout")
def test_as_good_as_its_card_says(similar):
    adapter = adapter_of(find_task("stsb"))
    examples = adapter.read(STSB)
    left, right = (
        similar.vectors([example.inputs[role] for example in examples]).numpy()
        for role in ("text", "text_pair")
    )
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), 1, atol=1e-5)
    answers = [{"answer": float(cosine)} for cosine in (left * right).sum(1)]
    assert adapter.score(examples, answers)["spearman"] > 0.84
