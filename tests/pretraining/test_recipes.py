import json

import pytest

from convbert.configuration import ConvBertConfig
from convbert.errors import InputError
from convbert.pretraining.recipes import RECIPES, base, embedded, medium_small, recipe, small, smoke


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_finished_plan(name):
    plan = recipe(name)
    assert plan.name == name
    config = plan.model_config(plan.vocab_size)
    assert config.pad_token_id == 0
    assert config.vocab_size == plan.vocab_size
    assert json.loads(json.dumps(plan.to_dict()))["model"] == plan.model


def test_published_sizes_and_numbers():
    """Table 7 of the paper's appendix and `configure_pretraining.py` of the original code."""
    rows = [
        (small(), ConvBertConfig.small(), 3e-4, 128),
        (medium_small(), ConvBertConfig.medium_small(), 5e-4, 128),
        (base(), ConvBertConfig.base(), 2e-4, 256),
    ]
    for plan, config, learning_rate, batch_size in rows:
        assert plan.model_config(30522).to_dict() == config.to_dict()
        assert (plan.learning_rate, plan.batch_size) == (learning_rate, batch_size)
        assert (plan.max_steps, plan.warmup_steps, plan.sequence_length) == (1_000_000, 10_000, 128)
        assert (plan.weight_decay, plan.adam_epsilon, plan.max_grad_norm) == (0.01, 1e-6, 1.0)


def test_embedded_fits_its_budget():
    plan = embedded()
    assert 8192 <= plan.vocab_size <= 16384
    assert plan.model_config(plan.vocab_size).hidden_size == 256


def test_overrides_reach_plan_and_model():
    plan = smoke(learning_rate=0.5, hidden_size=64, model={"num_hidden_layers": 3})
    assert plan.learning_rate == 0.5
    config = plan.model_config(100)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (64, 3, 100)
    assert config.intermediate_size == smoke().model_config(100).intermediate_size


def test_steps_and_minutes_take_each_others_place():
    assert (smoke(max_minutes=3.0).max_steps, smoke(max_minutes=3.0).max_minutes) == (None, 3.0)
    assert (embedded(max_steps=9).max_steps, embedded(max_steps=9).max_minutes) == (9, None)
    assert smoke(max_steps=None) == smoke()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1.0}, "learning_rat"),
        ({"max_steps": 5, "max_minutes": 5.0}, "max_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"adam_beta2": 1.0}, "adam_beta2"),
        ({"mask_prob": 0.0}, "mask_prob"),
        ({"sequence_length": 1000}, "max_position_embeddings"),
        ({"min_sequence_length": 33}, "min_sequence_length"),
        ({"conv_kernel_size": 4}, "conv_kernel_size"),
        ({"bf16": "sometimes"}, "bf16"),
        ({"objective": "clm"}, "objective"),
        ({"size": "huge"}, "size"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        smoke(**changes)


def test_unknown_recipe_lists_the_known():
    with pytest.raises(InputError, match="embedded"):
        recipe("large")
