"""The plan of a run: whose recipe a model gets."""

import pytest

from convbert import ConvBertConfig, InputError, embedded
from convbert.finetuning.recipes import recipe
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
