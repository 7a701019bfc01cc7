"""The plan of a run: whose recipe a model gets."""

import json

import pytest

from convbert import ConvBertConfig, InputError
from convbert.files import embedded
from convbert.finetuning.recipes import FinetuningPlan, recipe
from convbert.finetuning.tasks import TASKS


@pytest.mark.parametrize(
    ("config", "learning_rate", "layer_decay"),
    [
        (ConvBertConfig.small(), 3e-4, 0.8),
        (ConvBertConfig.medium_small(), 3e-4, 0.8),
        (ConvBertConfig.base(), 1e-4, 0.8),
        (ConvBertConfig.from_pretrained(embedded.folder()), 3e-4, 1.0),
    ],
    ids=["small", "medium-small", "base", "embedded"],
)
def test_the_papers_sizes_have_the_originals_rates(config, learning_rate, layer_decay):
    plan = recipe(TASKS["sst2"], config)
    assert (plan.learning_rate, plan.layer_decay) == (learning_rate, layer_decay)
    assert recipe(TASKS["sst2"], config, layer_decay=0.5).layer_decay == 0.5


def test_the_task_has_its_say():
    plan = recipe(TASKS["stsb"], ConvBertConfig.base())
    assert (plan.epochs, plan.both_orders, plan.max_length) == (10, True, 128)


def test_questions_are_as_long_as_the_model_allows_and_no_longer():
    config = ConvBertConfig.small(max_position_embeddings=256)
    assert recipe(TASKS["squad1"], config).max_length == 256
    with pytest.raises(InputError, match="max_position_embeddings"):
        recipe(TASKS["squad1"], config, max_length=300)


def test_none_is_a_value():
    """`--set dropout=null`: what the configuration says."""
    assert recipe(TASKS["sst2"], ConvBertConfig.small(), dropout=None).dropout is None
    with pytest.raises(InputError, match=r"epochs.*None"):
        recipe(TASKS["sst2"], ConvBertConfig.small(), epochs=None)


@pytest.mark.parametrize(
    ("task", "setting", "wanted"),
    [
        ("entities", {"head": "linear"}, "head=linear is for classification and regression"),
        ("entities", {"both_orders": True}, "both_orders is for pairs of texts"),
        ("sst2", {"both_orders": True}, "both_orders is for pairs of texts"),
    ],
)
def test_fields_that_mean_nothing_to_the_task_are_refused(task, setting, wanted):
    with pytest.raises(InputError, match=wanted):
        recipe(TASKS[task], ConvBertConfig.small(), **setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"both_orders": "False"},
        {"seed": 1.5},
        {"seed": True},
        {"seed": -1},
        {"lora_rank": 2.5},
        {"epochs": float("inf")},
        {"epochs": 0},
        {"weight_decay": float("inf")},
        {"layer_decay": 1.5},
        {"dropout": 1},
        {"no_answer_threshold": float("nan")},
        {"max_length": 3},
        {"max_length": 2**63},
        {"patience": 0},
        {"batching": "pairs"},
        {"batching": []},
        {"head": None},
        {"bf16": "yes"},
    ],
    ids=str,
)
def test_a_field_of_another_type_or_range_is_refused(setting):
    (name,) = setting
    with pytest.raises(InputError, match=name):
        recipe(TASKS["mrpc"], ConvBertConfig.small(), **setting)
    with pytest.raises(InputError, match=rf"here/finetuning\.json: {name}"):
        FinetuningPlan.from_dict({**FinetuningPlan().to_dict(), **setting}, "here/finetuning.json")


def test_a_plan_survives_json():
    plan = FinetuningPlan(epochs=2.5, patience=3, bf16=False)
    assert FinetuningPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    with pytest.raises(InputError, match="nonsense"):
        FinetuningPlan.from_dict({"nonsense": 1})
