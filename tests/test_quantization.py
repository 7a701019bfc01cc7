"""8-bit layers against plain integer arithmetic, and against the error that rounding to 8 bits may make."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from convbert import ConvBertModel, InputError
from convbert.layers import GroupedLinear, Linear
from convbert.quantization import SMALLEST_LAYER, Int8Linear, adds_in_16_bits, is_quantized, quantize


def whole_numbers(rows, columns, lowest, highest):
    """Random whole numbers, half of them extreme, so that sums overflow wherever they can; both extremes in a row."""
    numbers = torch.randint(lowest, highest + 1, (rows, columns))
    extreme = torch.where(torch.rand(rows, columns) < 0.5, lowest, highest)
    numbers = torch.where(torch.rand(rows, columns) < 0.5, extreme, numbers)
    numbers[0], numbers[1] = highest, lowest
    numbers[:, 0], numbers[:, -1] = lowest, highest
    return numbers


def layer_of(weight, bias=None):
    layer = Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def int8(layer):
    return Int8Linear(layer.weight, layer.bias)


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(2, 3, 2), (33, 129, 17), (150, 512, 260)])
def test_equals_integer_arithmetic(tokens, inputs, outputs):
    """Whole multiples of one power of two a row lose nothing, so the result must be exact."""
    weight = whole_numbers(outputs, inputs, -127, 127)
    if adds_in_16_bits():  # neighbours as large as they may be
        even, odd = weight[:, 0 : inputs - 1 : 2], weight[:, 1::2]
        odd.clamp_(-127 - even.clamp_max(0), 127 - even.clamp_min(0))
    states = whole_numbers(tokens, inputs, 0, 255) - torch.randint(0, 256, (tokens, 1))
    token_unit = 2.0 ** torch.randint(-6, 3, (tokens, 1))
    weight_unit = 2.0 ** torch.randint(-9, -2, (outputs, 1))
    layer = int8(layer_of(weight * weight_unit))
    sums = states.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T
    expected = sums * (token_unit * weight_unit.T).double().numpy()
    assert torch.equal(layer(states * token_unit).double(), torch.from_numpy(expected))


@pytest.mark.parametrize("shape", [(7, 40), (2, 5, 40), (1, 40)])
def test_is_as_close_to_fp32_as_rounding_allows(shape):
    """Off by at most half a unit of each factor in every product."""
    torch.manual_seed(sum(shape))
    exact, states = nn.Linear(40, 24), torch.randn(shape) * torch.rand(*shape[:-1], 1)
    layer = int8(exact)
    largest = exact.weight.abs().amax(1, keepdim=True)
    if adds_in_16_bits():
        largest = largest.maximum((exact.weight[:, ::2] + exact.weight[:, 1::2]).abs().amax(1, keepdim=True))
    weight_unit = largest / 127
    state_unit = (states.amax(-1, keepdim=True) - states.amin(-1, keepdim=True)) / 255
    bound = state_unit / 2 * (exact.weight.abs() + weight_unit / 2).sum(1)
    bound = bound + states.abs().sum(-1, keepdim=True) * weight_unit.squeeze(1) / 2
    with torch.no_grad():
        found, expected = layer(states), exact(states)
    assert found.shape == expected.shape
    assert ((found - expected).abs() <= bound + 1e-6).all()
    assert (found - expected).norm() < 0.03 * expected.norm()


def test_a_token_does_not_depend_on_the_others():
    layer, states = int8(nn.Linear(64, 48)), torch.randn(9, 64)
    states[4] *= 1e4
    together = layer(states)
    for token in range(9):
        assert torch.equal(layer(states[token : token + 1])[0], together[token])


def test_no_tokens_and_tokens_of_zeros():
    exact = nn.Linear(16, 8)
    layer = int8(exact)
    assert layer(torch.empty(0, 16)).shape == (0, 8)
    assert layer(torch.empty(2, 0, 16)).shape == (2, 0, 8)
    assert torch.equal(layer(torch.zeros(3, 16)), exact.bias.detach().expand(3, 8))
    assert torch.isfinite(int8(layer_of(torch.zeros(8, 16)))(torch.full((2, 16), 1e30))).all()


def test_wide_linear_layers_alone_are_replaced():
    wide = SMALLEST_LAYER // 512
    stack = nn.Sequential(
        Linear(512, wide),
        nn.Sequential(nn.Linear(wide, 512)),
        Linear(512, wide - 1),
        GroupedLinear(1024, 1024, 2),
    )
    assert quantize(stack) == 2
    assert isinstance(stack[0], Int8Linear)
    assert isinstance(stack[1][0], Int8Linear)
    assert [type(layer) for layer in stack[2:]] == [Linear, GroupedLinear]


def test_gradients_and_other_devices_are_refused():
    layer = int8(nn.Linear(8, 8))
    with pytest.raises(InputError, match="has no gradients"):
        layer(torch.ones(1, 8, requires_grad=True))
    with pytest.raises(InputError, match="runs on a CPU, not on meta"):
        layer(torch.ones(1, 8, device="meta"))


@pytest.fixture
def int8_model(monkeypatch):
    monkeypatch.setattr("convbert.quantization.SMALLEST_LAYER", 0)
    model = ConvBertModel(tiny.config()).eval()
    quantize(model.encoder)
    return model


def test_an_int8_model_is_neither_trained_nor_saved(int8_model, tmp_path):
    with pytest.raises(InputError, match="cannot be trained: load it with from_pretrained"):
        int8_model.train()
    assert not any(module.training for module in int8_model.modules())
    with pytest.raises(InputError, match="cannot be saved"):
        int8_model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="cannot be saved"):
        int8_model.state_dict()
    assert not list(tmp_path.iterdir())
    assert is_quantized(int8_model)
    assert not is_quantized(ConvBertModel(tiny.config()).train())


@torch.inference_mode()
def test_a_copy_of_an_int8_model_is_one(int8_model):
    copied, vectors = copy.deepcopy(int8_model), torch.randn(2, 5, 16)
    assert torch.equal(
        copied(inputs_embeds=vectors).last_hidden_state, int8_model(inputs_embeds=vectors).last_hidden_state
    )
    copied.encoder.layer[0].intermediate.dense.bias.add_(1)
    assert not torch.equal(
        copied(inputs_embeds=vectors).last_hidden_state, int8_model(inputs_embeds=vectors).last_hidden_state
    )
