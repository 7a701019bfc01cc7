import json

import pytest

from convbert.configuration import ConvBertConfig
from convbert.model.heads.masked_lm import ConvBertForMaskedLM
from convbert.pretraining.masking import Masking
from convbert.pretraining.objectives import build_objective
from convbert.pretraining.recipes import RECIPES, base, embedded, medium_small, recipe, small, smoke
from convbert.util.errors import InputError


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_finished_plan(name):
    plan = recipe(name)
    assert plan.name == name
    config = plan.model_config(plan.vocab_size)
    assert config.pad_token_id == 0
    assert config.vocab_size == plan.vocab_size
    assert json.loads(json.dumps(plan.to_dict()))["model"] == plan.model


@pytest.mark.parametrize(
    ("plan", "config", "learning_rate", "batch_size", "generator_size"),
    [
        (small(), ConvBertConfig.small(), 3e-4, 128, 0.25),
        (medium_small(), ConvBertConfig.medium_small(), 5e-4, 128, 0.25),
        (base(), ConvBertConfig.base(), 2e-4, 256, 1 / 3),
    ],
    ids=["small", "medium_small", "base"],
)
def test_published_sizes_and_numbers(plan, config, learning_rate, batch_size, generator_size):
    """Table 7 of the paper's appendix and `configure_pretraining.py` of the original code."""
    assert plan.model_config(30522).to_dict() == config.to_dict()
    assert (plan.learning_rate, plan.batch_size) == (learning_rate, batch_size)
    assert plan.gradient_accumulation_steps == 1
    assert (plan.max_steps, plan.warmup_steps, plan.sequence_length) == (1_000_000, 10_000, 128)
    assert (plan.weight_decay, plan.adam_epsilon, plan.max_grad_norm) == (0.01, 1e-6, 1.0)
    assert (plan.adam_beta1, plan.adam_beta2, plan.bias_correction) == (0.9, 0.999, False)
    assert plan.objective == "rtd"
    assert (plan.generator_hidden_size, plan.generator_layers) == (generator_size, 1.0)
    assert (plan.generator_weight, plan.discriminator_weight) == (1.0, 50.0)
    assert plan.masking == Masking(0.15, 0.85, 0.0, whole_words=False)


def test_the_objective_decides_what_masked_positions_show_unless_the_caller_does():
    assert small(objective="mlm").masking == Masking(0.15, 0.8, 0.1)
    assert small(objective="mlm", mask_token_prob=0.5).masking == Masking(0.15, 0.5, 0.1)
    assert small(random_token_prob=0.1).masking == Masking(0.15, 0.85, 0.1)
    assert small().override(objective="mlm").masking == Masking(0.15, 0.8, 0.1)
    assert small(objective="mlm").to_dict()["random_token_prob"] == 0.1
    assert small(whole_words=True).masking.whole_words


def recomputes(model) -> bool:
    return all(layer.gradient_checkpointing for layer in model.convbert.encoder.layer)


@pytest.mark.parametrize(
    "changes",
    [
        *({"generator_hidden_size": 0.5}, {"generator_layers": 0.5}, {"generator_weight": 3.0}),
        *({"discriminator_weight": 9.0}, {"gradient_checkpointing": True}),
    ],
    ids=str,
)
def test_every_option_reaches_the_objective(changes):
    def described(plan):
        objective = build_objective(plan, plan.model_config(100))
        generator = objective.generator
        return (
            generator.config.to_dict(),
            recomputes(generator),
            *(objective.generator_weight, objective.discriminator_weight),
        )

    assert described(smoke(**changes)) != described(smoke())


def test_masked_language_modelling_trains_the_model_itself():
    plan = smoke(objective="mlm", gradient_checkpointing=True)
    (model,) = build_objective(plan, plan.model_config(100)).models().values()
    assert isinstance(model, ConvBertForMaskedLM)
    assert recomputes(model)
    assert model.config.hidden_size == 32


def test_embedded_fits_its_budget():
    plan = embedded()
    assert 8192 <= plan.vocab_size <= 16384
    assert plan.model_config(plan.vocab_size).hidden_size == 256
    assert (plan.objective, plan.bias_correction) == ("mlm", True)
    assert plan.masking == Masking(0.2, 0.8, 0.1)


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
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"dataloader_workers": "abc"}, "dataloader_workers"),
        ({"dataloader_workers": -1}, "dataloader_workers"),
        ({"generator_layers": 0.01}, "generator_layers=0.01 gives no generator"),
        ({"best_figure": "masked_los"}, "best_figure must be one of masked_loss, "),
        ({"best_figure": "replaced_auc", "objective": "mlm"}, "best_figure must be one of"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"adam_beta2": 1.0}, "adam_beta2"),
        ({"mask_prob": 0.0}, "mask_prob"),
        ({"sequence_length": 1000}, "max_position_embeddings"),
        ({"min_sequence_length": 33}, "min_sequence_length"),
        ({"conv_kernel_size": 4}, "conv_kernel_size"),
        ({"bf16": "sometimes"}, "bf16"),
        ({"objective": "clm"}, "objective"),
        ({"size": "huge"}, "size"),
        ({"generator_hidden_size": 0.0}, "generator_hidden_size"),
        ({"generator_hidden_size": 0.3}, "generator_hidden_size"),
        ({"discriminator_weight": -1.0}, "discriminator_weight"),
        ({"mask_token_prob": 0.95, "random_token_prob": 0.1}, "mask_token_prob"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        smoke(**changes)


def test_unknown_recipe_lists_the_known():
    with pytest.raises(InputError, match="embedded"):
        recipe("large")


@pytest.mark.parametrize("name", ["weight_decay", "mask_token_prob", "adam_epsilon", "learning_rate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(name, value):
    with pytest.raises(InputError, match=name):
        smoke(**{name: value})


@pytest.mark.parametrize("name", ["lowercase", "keep_accents"])
def test_case_and_accents_are_true_false_or_left_to_the_text(name):
    assert getattr(smoke(), name) is None
    with pytest.raises(InputError, match=name):
        smoke(**{name: "yes"})


def test_the_text_decides_how_many_characters_are_kept():
    limited = {name for name in RECIPES if recipe(name).limit_alphabet is not None}
    assert limited == {"smoke", "embedded"}  # 500 rows; as the embedded model was made
