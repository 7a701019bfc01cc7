"""The closed form against PyTorch's counter of operations, at work on transformers' ConvBERT: there both convolutions
are products that it sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.convbert import modeling_convbert as theirs
from transformers.models.convbert.configuration_convbert import ConvBertConfig as TheirConfig

import tiny
from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertForPreTraining
from convbert.pretraining.cost import (
    TRAINING,
    discriminator_flops,
    encoder_flops,
    masked_lm_flops,
    training_flops,
)

BATCH, LENGTH = 2, 12
CONFIGS = {
    "projected": tiny.config(),
    "not projected": tiny.config(embedding_size=32),
    "grouped": tiny.config(num_groups=2),
    "one kept head, more taps": tiny.config(num_attention_heads=2, conv_kernel_size=7, num_hidden_layers=3),
}


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def their_model(kind, config):
    """In plain steps, all of which the counter sees."""
    fields = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    return kind(TheirConfig(**fields, attn_implementation="eager"))


def ids(config: ConvBertConfig) -> torch.Tensor:
    return torch.randint(5, config.vocab_size, (BATCH, LENGTH))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_encoder_as_counted(config):
    model = their_model(theirs.ConvBertModel, config)
    assert BATCH * sum(encoder_flops(config, LENGTH).values()) == counted(lambda: model(ids(config)))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_training_step_is_three_forward_passes(config):
    model = their_model(theirs.ConvBertModel, config)

    with FlopCounterMode(display=False) as counter:
        model(ids(config)).last_hidden_state.sum().backward()
    found = counter.get_flop_counts()["Global"]
    # The counter takes the gradient of a depthwise filter for that of a dense one, C times too much.
    found[torch.ops.aten.convolution_backward] = 2 * found[torch.ops.aten.convolution]
    assert BATCH * TRAINING * sum(encoder_flops(config, LENGTH).values()) == sum(found.values())


def test_masked_lm_head_as_counted():
    config = CONFIGS["projected"]
    model = their_model(theirs.ConvBertForMaskedLM, config)
    assert BATCH * sum(masked_lm_flops(config, LENGTH, LENGTH).values()) == counted(
        lambda: model(ids(config))
    )


def test_what_is_not_asked_for_is_not_computed():
    """Our own model at 3 masked positions and at all: the convolutions, unseen by the counter, fall out of the
    difference."""
    config = CONFIGS["grouped"]
    model = ConvBertForMaskedLM(config)
    model.convbert.conv_backend = "reference"
    words, few = ids(config), torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    few[:, [1, 4, 5]] = True
    saved = counted(lambda: model(words, logits_to_keep=few | True)) - counted(
        lambda: model(words, logits_to_keep=few)
    )
    ours = sum(masked_lm_flops(config, LENGTH, LENGTH).values()) - sum(
        masked_lm_flops(config, LENGTH, 3).values()
    )
    assert saved == BATCH * ours
    assert saved > 0


def test_discriminator_head_as_counted():
    config = CONFIGS["projected"]
    head = ConvBertForPreTraining(config).discriminator_predictions
    found = counted(lambda: head(torch.zeros(BATCH, LENGTH, config.hidden_size)))
    assert found == BATCH * discriminator_flops(config, LENGTH)["judgement"]


def test_an_objective_counts_each_of_its_models():
    objective = nn.Module()
    objective.generator = ConvBertForMaskedLM(tiny.config(hidden_size=16, intermediate_size=16))
    objective.discriminator = ConvBertForPreTraining(tiny.config())
    parts = training_flops(objective, LENGTH, 3)
    generator = {n: v for n, v in parts.items() if n.startswith("generator: ")}
    assert sum(generator.values()) == 3 * sum(masked_lm_flops(objective.generator.config, LENGTH, 3).values())
    assert sum(parts.values()) - sum(generator.values()) == 3 * sum(
        discriminator_flops(tiny.config(), LENGTH).values()
    )
