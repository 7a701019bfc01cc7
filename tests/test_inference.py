"""Packed weights give the same answers, and only they."""

import copy
import pickle

import pytest
import torch

from convbert import (
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertForSequenceClassification,
    ConvBertModel,
    InputError,
)
from convbert.inference import pack_weights
from convbert.layers import Linear, PackedLinear
from helpers import assert_close


def build(cls=ConvBertModel, **changes):
    sizes = {
        "vocab_size": 300,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "pad_token_id": 0,
    }
    return cls(ConvBertConfig(**{**sizes, **changes})).eval()


def padded_batch():
    ids = torch.randint(5, 300, (3, 20))
    mask = torch.arange(20) < torch.tensor([[20], [7], [1]])
    return {"input_ids": ids, "attention_mask": mask.long()}


@pytest.mark.parametrize("groups", [1, 2])
@torch.inference_mode()
def test_packed_weights_give_the_same_states(groups):
    model, batch = build(num_groups=groups), padded_batch()
    expected = model(**batch).last_hidden_state
    packed = pack_weights(copy.deepcopy(model))
    assert any(isinstance(module, PackedLinear) for module in packed.modules())
    assert packed.encoder.layer[0].attention.self.joined is not None
    assert_close(packed(**batch).last_hidden_state, expected, torch.float32)


@torch.inference_mode()
def test_a_copy_of_packed_weights_gives_the_same_states():
    packed, batch = pack_weights(build()), padded_batch()
    copied = copy.deepcopy(packed)
    assert torch.equal(copied(**batch).last_hidden_state, packed(**batch).last_hidden_state)
    bias = copied.encoder.layer[0].attention.output.dense.bias
    bias += 1
    assert not torch.equal(copied(**batch).last_hidden_state, packed(**batch).last_hidden_state)


def test_packed_weights_are_not_trained():
    packed = pack_weights(build())
    with pytest.raises(InputError, match="packed weights cannot be trained: load it with from_pretrained"):
        packed.train()
    assert not any(module.training for module in packed.modules())
    assert packed.eval() is packed


def test_packed_weights_are_not_pickled():
    with pytest.raises(InputError, match="cannot be pickled: send its folder"):
        pickle.dumps(pack_weights(build()))


def test_packed_weights_keep_their_precision():
    model = pack_weights(build())
    with pytest.raises(InputError, match="keep their precision: load the model anew"):
        model.to(torch.bfloat16)
    assert pack_weights(build()).float().dtype == torch.float32


@torch.inference_mode()
def test_listened_and_replaced_layers_stay():
    model = build()
    heard = []
    layer = model.encoder.layer[0].attention.output.dense
    layer.register_forward_hook(lambda *_: heard.append(1))
    pack_weights(model)
    assert type(model.encoder.layer[0].attention.output.dense) is Linear
    model(**padded_batch())
    assert heard


class TestPositionsToKeep:
    """The last layer runs where it is read, and gives what the whole layer gives there."""

    @pytest.mark.parametrize("changes", [{}, {"conv_reads_padding": True}], ids=["", "leaks"])
    @pytest.mark.parametrize("with_mask", [False, True])
    def test_equals_the_whole(self, changes, with_mask):
        model, batch = build(**changes), padded_batch()
        if not with_mask:
            del batch["attention_mask"]
        keep = torch.rand(3, 20) < 0.4  # padding among them, which reads zero
        some = model(**batch, positions_to_keep=keep).last_hidden_state
        assert_close(some, model(**batch).last_hidden_state[keep], torch.float32)

    def test_equals_the_whole_with_holes_and_with_attention_maps(self):
        model, batch = build(), padded_batch()
        batch["attention_mask"][0, 5] = 0
        keep = torch.rand(3, 20) < 0.4
        for asked in ({}, {"output_attentions": True}, {"output_hidden_states": True}):
            some = model(**batch, **asked, positions_to_keep=keep).last_hidden_state
            assert_close(some, model(**batch).last_hidden_state[keep], torch.float32)

    @pytest.mark.parametrize("with_mask", [False, True])
    def test_numbers_in_any_order(self, with_mask):
        model, batch = build(), padded_batch()
        if not with_mask:
            del batch["attention_mask"]
        numbers = torch.tensor([59, 3, 20, 26, 27, 3])
        whole = model(**batch).last_hidden_state.flatten(0, 1)
        some = model(**batch, positions_to_keep=numbers).last_hidden_state
        assert_close(some, whole[numbers], torch.float32)

    def test_a_mask_of_another_shape_is_refused(self):
        with pytest.raises(InputError, match=r"positions to keep must be \(3, 20\), got \(2, 30\)"):
            build()(**padded_batch(), positions_to_keep=torch.ones(2, 30))

    @pytest.mark.parametrize("cls", [ConvBertForMaskedLM, ConvBertForSequenceClassification])
    def test_a_batch_of_padding(self, cls):
        batch = padded_batch()
        batch["attention_mask"][:] = 0
        keep = {"logits_to_keep": torch.arange(7)} if cls is ConvBertForMaskedLM else {}
        logits = build(cls)(**batch, **keep).logits
        assert torch.isfinite(logits).all()
        logits.sum().backward()

    def test_gradients_equal_those_of_the_whole(self):
        model, batch = (
            build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train(),
            padded_batch(),
        )
        keep = torch.rand(3, 20) < 0.3
        model(**batch, positions_to_keep=keep).last_hidden_state.square().sum().backward()
        some = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        model.zero_grad()
        model(**batch).last_hidden_state[keep].square().sum().backward()
        for name, parameter in model.named_parameters():
            assert_close(some[name], parameter.grad, torch.float32, name)

    def test_none_kept(self):
        states = build()(**padded_batch(), positions_to_keep=torch.zeros(3, 20, dtype=torch.bool))
        assert states.last_hidden_state.shape == (0, 256)

    @torch.inference_mode()
    def test_heads_run_the_last_layer_where_they_read(self):
        seen = []
        for cls, extra in (
            (ConvBertForMaskedLM, {"logits_to_keep": torch.arange(60).view(3, 20) % 7 == 0}),
            (ConvBertForSequenceClassification, {}),
        ):
            model = build(cls)
            last = model.convbert.encoder.layer[-1].output
            last.register_forward_hook(lambda module, args, out: seen.append(out.shape[:-1].numel()))
            model(input_ids=torch.randint(5, 300, (3, 20)), **extra)
        assert seen == [9, 3]
