"""Our models with the original's weights compute what the original computed.

`tests/data/golden/README.md` says what is stored. Where the original reads padding, ours must be asked to.
"""

import json

import pytest
import torch

from convbert.conversion.rename import from_tensorflow
from convbert.conversion.settings import config_from_tensorflow
from convbert.conversion.tensorflow import read_checkpoint
from golden import CLASSES, GOLDEN, WIDE_TOLERANCE, assert_near, encoder_inputs, load, stored

each_set = pytest.mark.parametrize("folder", ["set_a", "set_b", "set_d"])
each_pretraining_set = pytest.mark.parametrize("folder", ["set_a", "set_b"])
each_part = pytest.mark.parametrize("part", ["discriminator", "generator"])
each_attention = pytest.mark.parametrize("attention", ["sdpa", "eager"])


def alone(inputs, row):
    """One row without its padding."""
    length = int(inputs["attention_mask"][row].sum())
    return {name: tensor[row : row + 1, :length] for name, tensor in inputs.items()}


@each_set
@each_part
def test_every_weight_is_in_the_file_and_none_is_left_over(folder, part):
    _, report = CLASSES[part].from_pretrained(GOLDEN / folder / part, output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@each_attention
@each_set
@each_part
def test_padded_batch_where_the_convolution_reads_padding(folder, part, attention):
    golden = stored(folder, "encoder.npz")
    encoder = load(folder, part, conv_reads_padding=True, attn_implementation=attention).convbert
    with torch.no_grad():
        states = encoder(**encoder_inputs(golden), output_hidden_states=True).hidden_states
    prefix = "generator_" if part == "generator" else ""
    assert_near(states[0], golden[f"{prefix}embedding_output"])
    assert_near(torch.stack(states[1:]), golden[f"{prefix}all_encoder_layers"])


@each_attention
@each_set
def test_padded_batch_where_it_does_not(folder, attention):
    golden = stored(folder, "encoder.npz")
    encoder = load(folder, "discriminator", attn_implementation=attention).convbert
    with torch.no_grad():
        states = encoder(**encoder_inputs(golden), output_hidden_states=True).hidden_states
    for row, expected in rows_alone(golden):
        assert_near(torch.stack(states[1:])[:, row, : expected.shape[1]], expected)


@each_attention
@each_set
def test_each_row_alone(folder, attention):
    golden = stored(folder, "encoder.npz")
    encoder = load(folder, "discriminator", attn_implementation=attention).convbert
    for row, expected in rows_alone(golden):
        with torch.no_grad():
            output = encoder(**alone(encoder_inputs(golden), row), output_hidden_states=True)
        assert_near(torch.stack(output.hidden_states[1:])[:, 0], expected)


def rows_alone(golden):
    """Number and all layers (L, length, C) of every row; the first two have no padding."""
    for row in range(6):
        if row < 2:
            yield row, golden["all_encoder_layers"][:, row]
        else:
            yield row, golden[f"alone_row{row}_all_encoder_layers"]


@each_set
def test_attention_maps(folder):
    golden = stored(folder, "encoder.npz")
    encoder = load(folder, "discriminator", conv_reads_padding=True).convbert
    with torch.no_grad():
        maps = encoder(**encoder_inputs(golden), output_attentions=True).attentions
    assert_near(torch.stack(maps), golden["attn_maps"])


def test_inside_of_layer_0():
    golden = stored("set_a", "encoder.npz")
    encoder = load("set_a", "discriminator", conv_reads_padding=True).convbert
    attention = encoder.encoder.layer[0].attention
    seen = {}

    def keep(name):
        return lambda module, inputs, output: seen.update({name: output, f"input of {name}": inputs[0]})

    encoder.embeddings.register_forward_hook(keep("embeddings"))
    attention.output.register_forward_hook(keep("output"))
    for name in ("query", "key", "value", "key_conv_attn_layer", "conv_out_layer"):
        getattr(attention.self, name).register_forward_hook(keep(name))
    with torch.no_grad():
        kernels = encoder(**encoder_inputs(golden), output_conv_kernels=True).conv_kernels

    assert_near(seen["embeddings"], golden["embedding_layernorm_output"])
    assert_near(seen["query"], golden["layer0/query"])
    assert_near(seen["key"], golden["layer0/key"])
    assert_near(seen["value"], golden["layer0/value"])
    assert_near(seen["key_conv_attn_layer"], golden["layer0/conv_attn_key"])
    assert_near(seen["conv_out_layer"], golden["layer0/conv_attn_point"])
    assert_near(kernels[0], golden["layer0/conv_kernel_softmax"])
    assert_near(seen["input of output"], golden["layer0/context_concat"])
    assert_near(seen["output"], golden["layer0/attention_output"])


def pretraining_inputs(golden, part):
    ids = "fake_input_ids" if part == "discriminator" else "masked_input_ids"
    return encoder_inputs(golden | {"input_ids": golden[ids]})


def at_masked_positions(logits, golden):
    """(B, T, V) to (B, slots, V)."""
    positions = golden["masked_lm_positions"].long()
    return logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[-1]))


@pytest.mark.parametrize("conv_reads_padding", [True, False])
@each_pretraining_set
def test_pretraining_logits(folder, conv_reads_padding):
    golden = stored(folder, "pretraining.npz")
    prefix = "" if conv_reads_padding else "alone_"
    logits = {}
    for part in CLASSES:
        model = load(folder, part, conv_reads_padding=conv_reads_padding)
        with torch.no_grad():
            logits[part] = model(**pretraining_inputs(golden, part)).logits
    real = golden["input_mask"].bool()
    vocabulary_logits = at_masked_positions(logits["generator"], golden)
    assert_near(vocabulary_logits, golden[f"{prefix}mlm_logits"], WIDE_TOLERANCE)
    assert_near(logits["discriminator"][real], golden[f"{prefix}disc_logits"][real])


@each_pretraining_set
def test_discriminator_loss_is_the_originals(folder):
    golden = stored(folder, "pretraining.npz")
    model = load(folder, "discriminator", conv_reads_padding=True)
    output = model(**pretraining_inputs(golden, "discriminator"), labels=golden["is_fake"])
    assert_near(output.loss.detach(), golden["disc_loss"])


@each_part
def test_straight_from_the_tensorflow_files(part):
    """The whole way at once: their files, our model, their output."""
    settings = json.loads((GOLDEN / "set_b" / "original_config.json").read_text())
    config = config_from_tensorflow(settings, part)
    config.conv_reads_padding = True
    model = CLASSES[part](config).eval()
    state = from_tensorflow(read_checkpoint(GOLDEN / "set_b" / "model.ckpt-6"), part)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"generator_lm_head.weight"}  # tied to the word embedding
    assert not unexpected
    golden = stored("set_b", "encoder.npz")
    with torch.no_grad():
        states = model.convbert(**encoder_inputs(golden)).last_hidden_state
    prefix = "generator_" if part == "generator" else ""
    assert_near(states, golden[f"{prefix}all_encoder_layers"][-1])
