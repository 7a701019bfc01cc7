"""A layer as one call of the compiled kernels: the same as its steps, and only where it is."""

import copy

import pytest
import torch
import torch.nn.functional as F

from convbert import InputError
from convbert.inference import pack_weights
from convbert.layers import Block, Layout
from convbert.layers.fused_block import CompiledBlock
from convbert.ops.compiled import product
from helpers import FORMS, assert_close, bounds

LENGTHS = [[5], [1], [31, 0, 40, 2], [130]]


def build_block(**changes):
    sizes = {"width": 24, "num_heads": 2, "head_size": 6, "taps": 5, "inner_width": 50, "groups": 1}
    rates = {"norm_eps": 1e-6, "dropout": 0.1, "attention_dropout": 0.1}
    block = Block(**{**sizes, **rates, "activation": F.gelu, **changes}).eval().requires_grad_(False)
    for parameter in block.parameters():
        parameter.normal_(std=0.3 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5)
    return block


@pytest.fixture
def calls(monkeypatch):
    """Counts how often a layer ran as one call."""
    made = []
    run = CompiledBlock.__call__
    monkeypatch.setattr(CompiledBlock, "__call__", lambda *args: made.append(1) or run(*args))
    return made


needs_kernels = pytest.mark.skipif(not FORMS[:-1], reason="no compiled kernels here")
every_build = pytest.mark.parametrize("form", FORMS[:-1], indirect=True)


@pytest.fixture
def packs(form, monkeypatch):
    """Has this build pack weights, also where something else is faster."""
    monkeypatch.setattr(product, "BUILDS", {form})


@pytest.mark.usefixtures("poisoned_memory", "packs")
@every_build
@pytest.mark.parametrize(
    "changes",
    [{}, {"groups": 2}, {"taps": 9, "head_size": 16}, {"width": 256, "inner_width": 1100}],
    ids=str,
)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_equals_its_steps(lengths, changes, calls):
    block, tokens = build_block(**changes), sum(lengths)
    states, layout = torch.randn(tokens, block.output.LayerNorm.weight.shape[0]), Layout(bounds(lengths))
    rows = torch.randint(tokens, (2 * tokens // 3 + 1,))
    expected, some = block(states, layout), block(states, layout, rows)
    pack_weights(block)
    actual = block(states, layout)
    assert_close(actual.states, expected.states, torch.float32)
    assert_close(actual.kernel_logits, expected.kernel_logits, torch.float32)
    assert_close(block(states, layout, rows).states, some.states, torch.float32)
    assert len(calls) == 2


@pytest.mark.usefixtures("packs")
@every_build
def test_a_rectangle_and_a_text_alone_are_the_same_to_the_last_bit(calls):
    block, states = pack_weights(build_block()), torch.randn(3, 50, 24)
    together = block(states, Layout()).states
    for text, expected in zip(states, together, strict=True):
        assert torch.equal(block(text, Layout(bounds([50]))).states, expected)
    assert len(calls) == 4


@needs_kernels
class TestRunsInSteps:
    """Where one call would be something else, or would not be heard."""

    @pytest.fixture(autouse=True)
    def _packs(self, monkeypatch):
        monkeypatch.setattr(product, "BUILDS", {FORMS[0]})

    @pytest.mark.parametrize(
        "layout",
        [
            Layout(eager=True),
            Layout(conv_mask=torch.ones(2, 7, dtype=torch.bool)),
            Layout(attention_mask=torch.ones(2, 7, dtype=torch.bool)),
            Layout(conv_backend="reference"),
        ],
        ids=["eager", "conv_mask", "attention_mask", "reference"],
    )
    def test_layouts(self, layout, calls):
        block, states = build_block(), torch.randn(2, 7, 24)
        expected = block(states, layout).states
        assert_close(pack_weights(block)(states, layout).states, expected, torch.float32)
        assert not calls

    @pytest.mark.parametrize(
        "changes", [{"activation": F.relu}, {"feed_forward_chunk": 3}], ids=["relu", "chunked"]
    )
    def test_other_layers(self, changes, calls):
        block, states = build_block(**changes), torch.randn(2, 7, 24)
        expected = block(states, Layout()).states
        assert_close(pack_weights(block)(states, Layout()).states, expected, torch.float32)
        assert not calls

    @pytest.mark.parametrize(
        "place", ["attention.self", "attention.output.dense", "attention.output.LayerNorm", "output"]
    )
    def test_whoever_listens_hears(self, place, calls):
        block, states, heard = pack_weights(build_block()), torch.randn(2, 7, 24), []
        expected = block(states, Layout()).states
        listening = block.get_submodule(place).register_forward_hook(lambda *_: heard.append(1))
        assert_close(block(states, Layout()).states, expected, torch.float32)
        assert (len(heard), len(calls)) == (1, 1)
        listening.remove()
        block(states, Layout())
        assert len(calls) == 2

    def test_a_replaced_part_is_taken(self, calls):
        block, states = pack_weights(build_block()), torch.randn(2, 7, 24)
        before = block(states, Layout()).states
        block.output.dense = torch.nn.Linear(50, 24)
        assert not torch.allclose(block(states, Layout()).states, before)
        assert len(calls) == 1

    def test_a_replaced_half_is_taken(self, calls):
        block, states = pack_weights(build_block()), torch.randn(2, 7, 24)
        block(states, Layout())
        block.intermediate = torch.nn.Linear(24, 50).requires_grad_(False)
        block(states, Layout())
        assert len(calls) == 1

    def test_a_part_in_training_drops(self, calls):
        block, states = pack_weights(build_block(dropout=0.9)), torch.randn(2, 7, 24)
        before = block(states, Layout()).states
        block.output.dropout.train()
        assert not torch.allclose(block(states, Layout()).states, before)
        assert len(calls) == 1

    def test_a_changed_weight_is_taken(self, calls):
        block, states = pack_weights(build_block()), torch.randn(2, 7, 24)
        block(states, Layout())
        norm = block.output.LayerNorm
        norm.weight = torch.nn.Parameter(torch.zeros(24), requires_grad=False)
        assert torch.equal(block(states, Layout()).states, norm.bias.expand(2, 7, 24))
        norm.bias.data = torch.ones(24)
        assert torch.equal(block(states, Layout()).states, torch.ones(2, 7, 24))
        norm.bias.zero_()
        assert not block(states, Layout()).states.any()
        assert len(calls) == 4

    def test_a_copy_has_weights_of_its_own(self, calls):
        block, states = pack_weights(build_block()), torch.randn(2, 7, 24)
        expected = block(states, Layout()).states
        copied = copy.deepcopy(block)
        assert torch.equal(copied(states, Layout()).states, expected)
        copied.output.LayerNorm.bias += 1
        assert not torch.equal(copied(states, Layout()).states, expected)
        assert torch.equal(block(states, Layout()).states, expected)
        assert len(calls) == 4

    def test_gradients_are_refused_as_by_its_parts(self):
        block, states = pack_weights(build_block()), torch.randn(2, 7, 24)
        with pytest.raises(InputError, match="has no gradients: load it with from_pretrained"):
            block(states.requires_grad_(), Layout())

    def test_rows_that_are_none_are_refused(self):
        block = pack_weights(build_block())
        for rows in ([14], [-1]):
            with pytest.raises(IndexError, match="between 0 and 13"):
                block(torch.randn(2, 7, 24), Layout(), torch.tensor(rows))
