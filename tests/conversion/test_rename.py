"""The name table: both ways, against transformers' ConvBERT, and against values inside the original."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file

from convbert.conversion.rename import from_tensorflow, parts_in, rules, to_tensorflow
from convbert.conversion.settings import config_from_tensorflow
from convbert.conversion.tensorflow import read_checkpoint
from convbert.util.errors import InputError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
PARTS = ("discriminator", "generator")
each_encoder = pytest.mark.parametrize(("folder", "part"), list(product(("set_a", "set_b", "set_d"), PARTS)))


@pytest.fixture(scope="module")
def tensors():
    """One checkpoint, grouped feed-forward layers, as TensorFlow wrote it."""
    return read_checkpoint(GOLDEN / "set_b" / "model.ckpt-6")


@pytest.mark.parametrize("part", PARTS)
def test_there_and_back_is_identical(tensors, part):
    back = to_tensorflow(from_tensorflow(tensors, part), part)
    assert len(back) > 50
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name], name)


@pytest.mark.parametrize("part", PARTS)
def test_the_stored_safetensors_are_the_converted_checkpoint(tensors, part):
    stored = load_file(GOLDEN / "set_b" / part / "model.safetensors")
    converted = from_tensorflow(tensors, part)
    assert stored.keys() == converted.keys()
    assert all(torch.equal(stored[name], converted[name]) for name in stored)


@each_encoder
def test_back_and_there_is_identical(folder, part):
    state = load_file(GOLDEN / folder / part / "model.safetensors")
    again = from_tensorflow(to_tensorflow(state, part), part)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_both_parts_together_use_every_tensor_of_the_checkpoint(tensors):
    used = [set(to_tensorflow(from_tensorflow(tensors, part), part)) for part in PARTS]
    assert set.union(*used) == tensors.keys() - {"global_step"}
    shared = set.intersection(*used)
    assert {name.rsplit("/", 1)[0] for name in shared} == {
        "electra/embeddings",
        "electra/embeddings/LayerNorm",
    }


def test_optimiser_slots_and_other_heads_are_left_aside(tensors):
    expected = from_tensorflow(tensors, "discriminator")
    extra = {
        "electra/encoder/layer_0/output/LayerNorm/gamma/adam_m": np.ones(96, np.float32),
        "task_specific/classify/bias": np.ones(2, np.float32),
    }
    assert from_tensorflow(tensors | extra, "discriminator").keys() == expected.keys()


def test_an_encoder_without_its_head_is_enough(tensors):
    bare = {name: tensor for name, tensor in tensors.items() if "_predictions" not in name}
    state = from_tensorflow(bare, "generator")
    assert all(name.startswith("convbert.") for name in state)
    assert to_tensorflow(state, "generator").keys() <= bare.keys()


def test_a_generator_with_tables_of_its_own(tensors):
    own = {
        name.replace("electra/", "generator/"): x + 1
        for name, x in tensors.items()
        if "electra/embeddings" in name
    }
    state = from_tensorflow(tensors | own, "generator")
    np.testing.assert_array_equal(
        state["convbert.embeddings.word_embeddings.weight"], own["generator/embeddings/word_embeddings"]
    )
    back = to_tensorflow(state, "generator", own_tables=True)
    assert own.keys() <= back.keys()
    assert not any(name.startswith("electra/") for name in back)
    with pytest.raises(InputError, match="generator/embeddings/position_embeddings"):
        from_tensorflow(tensors | {name: x for name, x in own.items() if "position" not in name}, "generator")


def test_a_masked_language_model_of_one_encoder(tensors):
    """The original without `electra_objective`: the encoder is called electra, and has the generator's head."""
    hidden = tensors["electra/encoder/layer_0/output/LayerNorm/beta"].size
    head = {"generator_predictions/dense/kernel": np.zeros((hidden, 32), np.float32)}
    known = {
        name: x for name, x in tensors.items() if name.startswith(("electra/", "generator_predictions/"))
    }
    assert parts_in(known) == {"model": "masked_lm"}
    assert parts_in(known | {"discriminator_predictions/dense/bias": 0}) == {
        "model": "discriminator",
        "generator": "masked_lm",
    }
    assert parts_in(tensors) == {"model": "discriminator", "generator": "generator"}
    state = from_tensorflow(known | head, "masked_lm")
    assert to_tensorflow(state, "masked_lm").keys() == known.keys()


@pytest.mark.parametrize(
    ("part", "grouped", "projected", "head"),
    list(product(PARTS, (False, True), (False, True), (False, True))),
)
def test_no_name_occurs_twice(part, grouped, projected, head):
    table = rules(part, 3, grouped, projected, head)
    assert len({rule.original for rule in table}) == len({rule.ours for rule in table}) == len(table)


def twin(folder, part):
    """transformers' own model with the converted weights."""
    kind = transformers.ConvBertModel if part == "discriminator" else transformers.ConvBertForMaskedLM
    config = transformers.ConvBertConfig.from_pretrained(GOLDEN / folder / part)
    return kind(config).eval(), load_file(GOLDEN / folder / part / "model.safetensors")


@each_encoder
def test_transformers_knows_every_name_and_shape(folder, part):
    model, state = twin(folder, part)
    encoder = getattr(model, "convbert", model)
    ours = {name.removeprefix("convbert."): tensor.shape for name, tensor in state.items()}
    theirs = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    assert {name: ours.get(name) for name in theirs} == theirs
    if part == "generator":
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert (missing, unexpected) == (["generator_lm_head.weight"], [])


@each_encoder
def test_transformers_computes_what_the_original_computes(folder, part):
    model, state = twin(folder, part)
    encoder = getattr(model, "convbert", model)
    encoder.load_state_dict(
        {name.removeprefix("convbert."): x for name, x in state.items() if name.startswith("convbert.")}
    )
    golden = np.load(GOLDEN / folder / "encoder.npz")
    ids, mask, segments = (
        torch.tensor(golden[name]).long() for name in ("input_ids", "input_mask", "segment_ids")
    )
    with torch.no_grad():
        output = encoder(ids, mask, segments, output_hidden_states=True)
    key = "all_encoder_layers" if part == "discriminator" else "generator_all_encoder_layers"
    for layer, expected in zip(output.hidden_states[1:], torch.tensor(golden[key]), strict=True):
        torch.testing.assert_close(layer, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("ours", "original"),
    [
        ("query", "query"),
        ("key", "key"),  # whose bias no output can show: softmax cancels it
        ("value", "value"),
        ("conv_out_layer", "conv_attn_point"),
    ],
)
def test_projections_inside_layer_0(ours, original):
    state = load_file(GOLDEN / "set_a" / "discriminator" / "model.safetensors")
    golden = np.load(GOLDEN / "set_a" / "encoder.npz")
    name = f"convbert.encoder.layer.0.attention.self.{ours}"
    projected = F.linear(
        torch.tensor(golden["embedding_output"]), state[f"{name}.weight"], state[f"{name}.bias"]
    )
    torch.testing.assert_close(projected, torch.tensor(golden[f"layer0/{original}"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", PARTS)
def test_configuration(part):
    settings = json.loads((GOLDEN / "set_b" / "original_config.json").read_text())
    config = config_from_tensorflow(settings, part)
    assert config.hidden_size == (96 if part == "discriminator" else 48)
    assert config.num_attention_heads == (4 if part == "discriminator" else 2)
    assert isinstance(config.num_attention_heads, int)
    assert (config.embedding_size, config.num_groups, config.max_position_embeddings) == (32, 2, 512)
    assert (config.layer_norm_eps, config.pad_token_id, config.vocab_size) == (1e-12, 0, 200)
    assert "attention_head_size" not in config.to_dict()


@pytest.mark.parametrize(
    ("heads", "ratio", "kept", "width"),
    [
        (1, 2, 1, 96),  # the generator of the original's default "small" model
        (4, 1, 4, 24),
        (8, 4, 2, 12),
        (1.5, 2, 1, 64),
        (2, 8, 1, 48),  # here the derived width is the original's
    ],
)
def test_head_width_is_the_originals(heads, ratio, kept, width):
    settings = json.loads((GOLDEN / "set_b" / "original_config.json").read_text())
    settings["bert_config"] |= {"num_attention_heads": heads, "head_ratio": ratio}
    config = config_from_tensorflow(settings, "discriminator")
    assert (config.num_kept_heads, config.head_size) == (kept, width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings.pop("bert_config"), "must hold 'bert_config'"),
        (lambda settings: settings["bert_config"].pop("hidden_size"), r"bert_config: hidden_size"),
        (
            lambda settings: settings["pretraining_config"].pop("embedding_size"),
            r"pretraining_config: embedding_size",
        ),
        (lambda settings: settings["bert_config"].update(conv_type="lconv"), "conv_type: .*'lconv'"),
        (
            lambda settings: settings["bert_config"].update(num_attention_heads=5),
            r"hidden_size \(96\) .* num_attention_heads \(5\)",
        ),
        (lambda settings: settings["bert_config"].update(num_attention_heads=0), "num_attention_heads"),
        (
            lambda settings: settings["bert_config"].update(num_attention_heads=float("nan")),
            "num_attention_heads",
        ),
        (lambda settings: settings["bert_config"].update(head_ratio="2"), "head_ratio"),
        (lambda settings: settings["bert_config"].update(hidden_size=2**63), "hidden_size"),
        (lambda settings: settings["bert_config"].update(linear_groups=True), "linear_groups"),
        (lambda settings: settings.update(bert_config=[1]), "must hold 'bert_config'"),
    ],
)
def test_a_bad_configuration_is_refused(change, message):
    settings = json.loads((GOLDEN / "set_b" / "original_config.json").read_text())
    change(settings)
    with pytest.raises(InputError, match=message):
        config_from_tensorflow(settings, "discriminator")


def test_a_checkpoint_without_the_part_is_refused(tensors):
    discriminator = {
        name: x for name, x in tensors.items() if name.startswith(("electra/", "discriminator_"))
    }
    finetuned = {name: x for name, x in discriminator.items() if not name.startswith("discriminator_")}
    slots = {
        f"{name}/adam_m": np.zeros_like(x) for name, x in tensors.items() if name.startswith("generator/")
    }
    heads = {name: x for name, x in tensors.items() if name.startswith("generator_predictions/")}
    for others in (
        discriminator,
        {**finetuned, "task_specific/classify/bias": np.ones(2, np.float32)},
        discriminator | slots,
        discriminator | heads,
        {"global_step": np.array(1)},
    ):
        with pytest.raises(InputError, match="generator"):
            from_tensorflow(others, "generator")
    generator = {
        name: x for name, x in tensors.items() if name.startswith(("generator", "electra/embeddings/"))
    }
    with pytest.raises(InputError, match="discriminator"):
        from_tensorflow(generator, "discriminator")
    assert from_tensorflow(generator, "generator").keys() == from_tensorflow(tensors, "generator").keys()
    assert all(name.startswith("convbert.") for name in from_tensorflow(finetuned, "discriminator"))


def test_missing_and_unknown_tensors_are_named(tensors):
    missing = "electra/encoder/layer_1/attention/self/key/bias"
    with pytest.raises(InputError, match=f"discriminator lacks tensor '{missing}'"):
        from_tensorflow({k: v for k, v in tensors.items() if k != missing}, "discriminator")
    unknown = "generator/encoder/layer_1/adapter/kernel"
    with pytest.raises(InputError, match=f"generator has an unknown tensor '{unknown}'"):
        from_tensorflow(tensors | {unknown: tensors["electra/embeddings/word_embeddings"]}, "generator")
    with pytest.raises(InputError, match="generator has a layer 99999"):
        from_tensorflow(tensors | {"generator/encoder/layer_99999/x": np.zeros(1)}, "generator")
    with pytest.raises(InputError, match=r"depthwise_kernel.*shape"):
        from_tensorflow(
            tensors
            | {"generator/encoder/layer_0/attention/self/conv_attn_key/depthwise_kernel": np.zeros(3)},
            "generator",
        )
    state = from_tensorflow(tensors, "discriminator")
    with pytest.raises(InputError, match=r"has an unknown tensor 'classifier\.weight'"):
        to_tensorflow(state | {"classifier.weight": torch.zeros(2)}, "discriminator")
