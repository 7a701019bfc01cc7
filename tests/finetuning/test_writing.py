"""The card of a model, without a run."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import TASKS
from convbert.finetuning.writing import model_card

METRICS = {
    "model": "embedded",
    "files": {
        "train": "glue/MNLI/train.tsv",
        "dev_matched": "glue/dev_matched.tsv",
        "dev_mismatched": "glue/dev_mismatched.tsv",
    },
    "examples": {"train": 392_702, "dev_matched": 9815, "dev_mismatched": 9832},
    "metric": "accuracy",
    "scores": {"dev_matched": {"accuracy": 0.5}, "dev_mismatched": {"accuracy": 0.25}},
    "baseline": None,
    "spread": {"lowest": 0.4, "highest": 0.6},
    "best_seed": 2,
    "collapsed_seeds": [1],
    "seeds": {0: {}, 1: {}, 2: {}},
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "python": "3.11.7",
    "date": "2026-11-25",
}


@pytest.mark.parametrize(
    ("model", "named", "on_the_hub"),
    [
        ("embedded", "the embedded English model", False),
        ("YituTech/conv-bert-base", "`YituTech/conv-bert-base`", True),
        (__file__, "`test_writing.py`", False),
    ],
)
def test_a_card_says_what_the_model_was_made_from(model, named, on_the_hub):
    card = model_card(adapter_of(TASKS["mnli"]), FinetuningPlan(), {**METRICS, "model": model})
    assert f"from {named}, 2026-11-25, with torch 2.13.0, transformers 5.23.0, Python 3.11.7." in card
    assert ("\nbase_model: YituTech/conv-bert-base\n" in card) == on_the_hub
    assert "| train | `train.tsv` | 392,702 |" in card
    assert "| dev_mismatched | `dev_mismatched.tsv` | 9,832 |" in card
    assert "accuracy from 0.4000 to 0.6000; these weights are of seed 2. Seeds that collapsed: 1." in card


def test_the_head_of_a_card_has_what_the_hub_shows():
    card = ModelCard(
        model_card(adapter_of(TASKS["mnli"]), FinetuningPlan(), {**METRICS, "model": "embedded"})
    )
    assert (card.data.license, card.data.language) == (
        "cc-by-sa-4.0",
        "en",
    )  # of the model it was trained from
    assert card.data.datasets == ["nyu-mll/glue"]
    shown = {
        (x.dataset_type, x.dataset_config, x.dataset_split, x.metric_type): x for x in card.data.eval_results
    }
    assert shown["nyu-mll/glue", "mnli", "dev_mismatched", "accuracy"].metric_value == 0.25
    assert len(shown) == 2
    assert "convbert.register_auto_classes()" in card.text
    own = ModelCard(
        model_card(adapter_of(TASKS["text-classification"]), FinetuningPlan(), {**METRICS, "model": __file__})
    )
    assert own.data.datasets is None
    assert own.data.license is None
