"""A frozen encoder gives the answers of its layers, and is never noticed."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from convbert import (
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertForSequenceClassification,
    ConvBertModel,
    InputError,
)
from convbert.layers import ForwardContext, MixedAttention
from convbert.model import frozen
from convbert.model.convbert import ConvBertLayer
from convbert.ops.compiled.encoder import CompiledEncoder
from helpers import FORMS, assert_close, bounds


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


def run(model, batch=None, **asked):
    with torch.no_grad():
        return model(**(batch or padded_batch()), **asked)


def layer_by_layer(model, batch, **asked):
    """What the same model says when it does not freeze."""
    model.encoder.freezer.enabled = False
    found = run(model, batch, **asked)
    model.encoder.freezer.enabled = True
    return found


def spread(model, std=0.05):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return model


needs_kernels = pytest.mark.skipif(not FORMS[:-1], reason="no compiled kernels here")


@pytest.fixture
def calls(monkeypatch):
    """Counts how often an encoder ran frozen."""
    made = []
    call = CompiledEncoder.__call__
    monkeypatch.setattr(CompiledEncoder, "__call__", lambda *a, **k: made.append(1) or call(*a, **k))
    return made


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("form", FORMS[:-1], indirect=True)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_groups": 2},
        {"hidden_size": 24, "intermediate_size": 50, "attention_head_size": 6, "conv_kernel_size": 5},
        {"hidden_size": 40, "num_attention_heads": 2, "intermediate_size": 1100, "num_hidden_layers": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [[1], [5], [31, 40, 2], [200, 3]], ids=str)
def test_equals_layer_by_layer(form, changes, lengths, calls):
    """States, the states between layers, kernels, and the last layer where it is read; padded and packed."""
    model = spread(build(**changes))
    longest = max(lengths)
    ids = torch.randint(5, 300, (len(lengths), longest))
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    wanted = {"output_hidden_states": True, "output_conv_kernels": True}
    keep = torch.randint(len(lengths) * longest, (7,))
    batches = [{"input_ids": ids, "attention_mask": mask}, {"input_ids": ids}]
    batches.append({"input_ids": ids[mask][None], "cu_seq_lens_q": bounds(lengths), "max_length_q": longest})
    for batch in batches:
        expected, found = layer_by_layer(model, batch, **wanted), run(model, batch, **wanted)
        assert_close(found.last_hidden_state, expected.last_hidden_state, torch.float32)
        for pair in zip(found.hidden_states, expected.hidden_states, strict=True):
            assert_close(*pair, torch.float32)
        for pair in zip(found.conv_kernels, expected.conv_kernels, strict=True):
            assert_close(*pair, torch.float32)
        positions = keep % found.last_hidden_state.shape[:2].numel()
        some = run(model, batch, positions_to_keep=positions).last_hidden_state
        assert torch.equal(some, found.last_hidden_state.flatten(0, 1)[positions])
    assert len(calls) == 6


@needs_kernels
def test_a_text_alone_is_the_same_to_the_last_bit():
    model, batch = (
        spread(build(embedding_size=256)),
        padded_batch(),
    )  # no product of PyTorch's before the layers
    together = run(model, batch).last_hidden_state
    for row, length in enumerate((20, 7, 1)):
        alone = run(model, {"input_ids": batch["input_ids"][row : row + 1, :length]}).last_hidden_state
        assert torch.equal(alone[0], together[row, :length])


@needs_kernels
def test_the_number_of_threads_changes_nothing():
    model, batch, before = spread(build()), padded_batch(), torch.get_num_threads()
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(run(model, batch).last_hidden_state)
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_kernels
def test_many_callers_at_once():
    model, batches = spread(build()), [padded_batch() for _ in range(8)]
    expected = [run(model, batch).last_hidden_state for batch in batches]
    copied = copy.deepcopy(model)  # not frozen yet: they race to freeze it
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: run(copied, batch).last_hidden_state, batches * 3))
    assert all(torch.equal(a, b) for a, b in zip(found, expected * 3, strict=True))


class _Doubling(nn.Linear):
    def forward(self, states):
        return 2 * super().forward(states)


CHANGES = {
    "in place": lambda layer: layer.intermediate.dense.weight.mul_(2),
    "behind autograd's back": lambda layer: layer.intermediate.dense.weight.data.mul_(2),
    "a row": lambda layer: layer.intermediate.dense.weight[7].mul_(9),
    "a head, behind autograd's back": lambda layer: layer.attention.self.value.weight.data[:64].mul_(9),
    "other memory": lambda layer: setattr(
        layer.attention.self.query.weight, "data", 2 * layer.attention.self.query.weight.data
    ),
    "a new parameter": lambda layer: setattr(
        layer.output.LayerNorm, "weight", nn.Parameter(torch.zeros(256))
    ),
    "a new module": lambda layer: setattr(layer.output, "dense", nn.Linear(512, 256)),
    "another half": lambda layer: setattr(layer, "intermediate", nn.Linear(256, 512)),
    "a loaded state": lambda layer: layer.load_state_dict(
        {name: 2 * value for name, value in layer.state_dict().items()}
    ),
    "a listener": lambda layer: layer.output.register_forward_hook(lambda *args: args[-1] * 2),
    "a dropout that drops": lambda layer: layer.output.LayerNorm.dropout.train(),
    "another class": lambda layer: setattr(layer.output.dense, "__class__", _Doubling),
    "another activation": lambda layer: setattr(layer.intermediate, "activation", torch.relu),
    "another epsilon": lambda layer: setattr(layer.output.LayerNorm, "eps", 5.0),
    "pieces of the feed-forward layer": lambda layer: (
        setattr(layer, "feed_forward_chunk", 3),
        layer.output.dense.weight.mul_(2),
    ),
}
"""Done to a layer, by what it is."""


@needs_kernels
class TestStandsForTheModel:
    """A frozen encoder is never noticed: whatever is done to the model is seen in the next answer."""

    @pytest.mark.parametrize("change", CHANGES)
    def test_changes_are_seen(self, change):
        model, batch = spread(build(hidden_dropout_prob=0.5)), padded_batch()
        before = run(model, batch).last_hidden_state
        with torch.no_grad():
            CHANGES[change](model.encoder.layer[1])
        torch.manual_seed(1)
        found = run(model, batch).last_hidden_state
        torch.manual_seed(1)
        expected = layer_by_layer(model, batch).last_hidden_state
        assert not torch.allclose(found, before)
        assert_close(found, expected, torch.float32)

    def test_weights_with_gaps_between_their_numbers(self):
        model, batch = spread(build()), padded_batch()
        weight = model.encoder.layer[0].output.dense.weight
        weight.data = weight.data.repeat_interleave(2, 1)[:, ::2]
        before = run(model, batch).last_hidden_state
        weight.data *= 1.5
        after = run(model, batch).last_hidden_state
        assert not torch.allclose(after, before)
        assert_close(after, layer_by_layer(model, batch).last_hidden_state, torch.float32)

    def test_a_listener_that_has_gone(self, calls):
        model, batch, heard = build(), padded_batch(), []
        run(model, batch)
        for path in ("attention.self", "attention.output.dense", "output.LayerNorm", ""):
            part = model.encoder.layer[0].get_submodule(path)
            listening = part.register_forward_hook(lambda *_: heard.append(1))
            run(model, batch)
            listening.remove()
        assert (len(heard), len(calls)) == (4, 1)
        run(model, batch)
        assert len(calls) == 2

    @pytest.mark.parametrize("kind", [nn.Linear, ConvBertLayer, MixedAttention])
    def test_a_class_that_somebody_listens_to(self, kind, monkeypatch, calls):
        model, heard, forward = build(), [], kind.forward
        run(model)
        monkeypatch.setattr(kind, "forward", lambda *args: heard.append(1) or forward(*args))
        run(model)
        assert len(heard) >= 2
        monkeypatch.undo()

    def test_pruned_for_good(self, calls):
        model, batch = build(), padded_batch()
        before = run(model, batch).last_hidden_state
        prune.l1_unstructured(model.encoder.layer[0].intermediate.dense, "weight", 0.5)
        pruned = run(model, batch).last_hidden_state
        assert not torch.allclose(pruned, before)
        prune.remove(model.encoder.layer[0].intermediate.dense, "weight")
        assert_close(run(model, batch).last_hidden_state, pruned, torch.float32)
        assert len(calls) == 2

    def test_training_goes_on(self):
        model, batch = build(), padded_batch()
        before = run(model, batch).last_hidden_state
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(**batch).last_hidden_state.square().sum().backward()
        optimizer.step()
        model.eval()
        after = run(model, batch).last_hidden_state
        assert not torch.allclose(after, before)
        assert_close(after, layer_by_layer(model, batch).last_hidden_state, torch.float32)

    def test_gradients_in_evaluation_mode(self, calls):
        model, batch = build(), padded_batch()
        run(model, batch)
        model(**batch).last_hidden_state.sum().backward()
        assert all(parameter.grad is not None for parameter in model.encoder.parameters())
        vectors = torch.randn(1, 5, 128, requires_grad=True)
        model.requires_grad_(False)(inputs_embeds=vectors).last_hidden_state.sum().backward()
        assert vectors.grad.abs().sum() > 0
        assert len(calls) == 1

    @pytest.mark.parametrize("asked", [{"output_attentions": True}], ids=str)
    def test_attention_maps_need_the_layers(self, asked, calls):
        assert run(build(), **asked).attentions[0].shape == (3, 2, 20, 20)
        assert not calls

    @pytest.mark.parametrize(
        "changes",
        [{"hidden_act": "relu"}, {"conv_reads_padding": True}, {"chunk_size_feed_forward": 3}],
        ids=str,
    )
    def test_other_encoders_run_layer_by_layer(self, changes, calls):
        run(build(**changes))
        assert not calls

    def test_the_switch(self, calls):
        model = build()
        model.encoder.freezer.enabled = False
        run(model)
        assert not calls
        assert not copy.deepcopy(model).encoder.freezer.enabled

    @torch.inference_mode()
    def test_weights_whose_changes_nobody_counts(self, calls):
        model = build()  # made in inference mode
        model(**padded_batch())
        assert not calls

    def test_copies_pickles_and_files(self, tmp_path):
        model, batch = spread(build()), padded_batch()
        expected = run(model, batch).last_hidden_state
        copied, sent = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        model.save_pretrained(tmp_path)
        for other in (copied, sent, ConvBertModel.from_pretrained(tmp_path).eval()):
            assert torch.equal(run(other, batch).last_hidden_state, expected)
        with torch.no_grad():
            copied.encoder.layer[0].output.LayerNorm.bias += 1
        assert not torch.equal(run(copied, batch).last_hidden_state, expected)
        assert torch.equal(run(model, batch).last_hidden_state, expected)
        assert run(model.to(torch.bfloat16), batch).last_hidden_state.dtype == torch.bfloat16
        assert set(model.state_dict()) == set(sent.state_dict())

    def test_int8_is_kept_by_copies(self, monkeypatch):
        monkeypatch.setattr(frozen, "SMALLEST_INT8_LAYER", 0)
        model, batch = spread(build()), padded_batch()
        exact = run(model, batch).last_hidden_state
        assert frozen.freeze(model.encoder, int8=True) == 12
        found = run(model, batch).last_hidden_state
        assert 0 < (found - exact).norm() < 0.05 * exact.norm()
        assert torch.equal(run(copy.deepcopy(model), batch).last_hidden_state, found)
        assert_close(layer_by_layer(model, batch).last_hidden_state, exact, torch.float32)

    def test_rows_that_are_none_are_refused(self):
        encoder, states = build().encoder, torch.randn(2, 7, 256)
        for rows in ([14], [-1]):
            with torch.no_grad(), pytest.raises(IndexError, match="13"):
                encoder.freezer.run(encoder.layer, states, ForwardContext(), torch.tensor(rows))


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
