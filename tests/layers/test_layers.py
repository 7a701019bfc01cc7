"""Layers on their own: the grouped linear layer by its definition, chunking, the mask of a padded batch."""

import pytest
import torch

from convbert.layers import EncoderLayer, ForwardContext, GroupedLinear
from convbert.layers.linear import build_linear
from convbert.ops import VarlenBounds
from helpers import assert_close, bounds


@pytest.mark.parametrize("shape", [(3, 5, 12), (7, 12), (0, 12)], ids=str)
def test_grouped_linear_is_one_linear_per_group(shape):
    layer = GroupedLinear(12, 6, 3)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    states = torch.randn(shape)
    groups = [x @ layer.weight[i] for i, x in enumerate(states.split(4, dim=-1))]
    assert_close(layer(states), torch.cat(groups, -1) + layer.bias, torch.float32)


def test_one_group_is_an_ordinary_linear():
    assert isinstance(build_linear(4, 6, 1), torch.nn.Linear)


def build_layer(**extra):
    torch.manual_seed(3)
    sizes = {"width": 16, "num_heads": 2, "head_size": 4, "kernel_size": 3, "inner_width": 24, "groups": 1}
    return EncoderLayer(
        **sizes,
        activation=torch.nn.functional.gelu,
        norm_eps=1e-12,
        dropout=0.0,
        attention_dropout=0.0,
        **extra,
    )


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_feed_forward_in_chunks(chunk):
    states = torch.randn(2, 10, 16)
    whole = build_layer()(states, ForwardContext()).states
    assert_close(build_layer(feed_forward_chunk=chunk)(states, ForwardContext()).states, whole, torch.float32)


def whole_and_seen(listens_to):
    """A training step's states and gradients, and what a listener at that place was given."""
    layer, seen = build_layer(), []
    if listens_to:
        layer.get_submodule(listens_to).register_forward_hook(
            lambda _, inputs, out: seen.append((inputs[0], out))
        )
    states = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = layer(states, ForwardContext()).states
    gradients = torch.autograd.grad(out.square().sum(), [states, *layer.parameters()])
    return [out, *gradients], seen


@pytest.mark.parametrize("place", ["intermediate", "intermediate.dense", "output", "output.dense"])
def test_whoever_listens_in_training_hears_what_the_layer_says(place):
    """The two halves of the feed-forward layer are only joined where nobody listens between them."""
    expected, _ = whole_and_seen(None)
    actual, seen = whole_and_seen(place)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours.detach(), theirs.detach(), torch.float32)
    ((given, out),) = seen
    assert out.shape[-1] == (24 if "intermediate" in place else 16)
    if place in ("intermediate", "output", "output.dense"):
        activated = out if place == "intermediate" else given
        assert activated.min() > -0.2  # GELU's lowest value; before it, there are lower ones


@pytest.mark.parametrize("name", [name for name, _ in build_layer().named_modules() if name])
def test_every_module_calls_its_hooks(name):
    layer, calls = build_layer(), []
    layer.get_submodule(name).register_forward_hook(lambda *_: calls.append(name))
    layer(torch.randn(2, 5, 16), ForwardContext())
    assert calls == [name]


@torch.no_grad()
def test_weights_that_come_when_a_layer_is_called():
    """accelerate replaces `forward`; until then, the weights are on no device."""
    accelerate = pytest.importorskip("accelerate")
    layer, states = build_layer().eval(), torch.randn(2, 5, 16)
    expected = layer(states, ForwardContext()).states
    accelerate.cpu_offload(layer, "cpu")
    assert all(parameter.is_meta for parameter in layer.parameters())
    assert_close(layer(states, ForwardContext()).states, expected, torch.float32)


def test_readable_zeroes_what_the_convolution_may_not_read():
    states = torch.ones(1, 3, 2)
    context = ForwardContext(conv_mask=torch.tensor([[True, True, False]]))
    assert context.readable(states)[0].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert ForwardContext().readable(states) is states


def test_layer_packed_equals_each_alone():
    layer, states = build_layer(), torch.randn(9, 16)
    packed = layer(states, ForwardContext(VarlenBounds.of(bounds([4, 5]), 9))).states
    alone = [layer(part[None], ForwardContext()).states[0] for part in states.split([4, 5])]
    assert_close(packed, torch.cat(alone), torch.float32)


def test_a_replaced_dropout_is_called():
    layer, states = build_layer(), torch.randn(2, 10, 16)
    before = layer(states, ForwardContext()).states
    layer.output.LayerNorm.dropout = torch.nn.Threshold(0.0, 0.0)  # not a dropout at all
    assert not torch.allclose(layer(states, ForwardContext()).states, before)
