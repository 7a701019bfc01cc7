"""Prepacked linear layers: fp32 by the definition, int8 by integer arithmetic and by what rounding may cost."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.ops import compiled
from convbert.ops.compiled.product import PrepackedLinear
from helpers import FORMS, assert_close

pytestmark = pytest.mark.skipif(not FORMS[:-1], reason="no compiled kernels here")
every_build = pytest.mark.parametrize("form", FORMS[:-1], indirect=True)


def definition(states, weight, bias):
    """In double precision; groups of (in, out) side by side."""
    states, weight = states.double(), weight.double()
    if weight.dim() == 2:
        return states @ weight.T + bias
    parts = states.split(weight.shape[1], dim=-1)
    return torch.cat([part @ each for part, each in zip(parts, weight, strict=True)], -1) + bias


def random_layer(inputs, outputs, groups=1):
    shape = (outputs, inputs) if groups == 1 else (groups, inputs, outputs)
    return torch.randn(shape), torch.randn(groups * outputs)


@pytest.mark.usefixtures("poisoned_memory")
@every_build
@pytest.mark.parametrize("gelu", [True, False], ids=["gelu", "plain"])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (5, 7, 3), (6, 33, 16), (193, 20, 70), (401, 1030, 48)], ids=str
)
def test_is_its_definition(form, sizes, groups, gelu):
    rows, inputs, outputs = sizes
    weight, bias = random_layer(inputs, outputs, groups)
    states = torch.randn(rows, groups * inputs)
    expected = definition(states, weight, bias)
    found = PrepackedLinear(weight, bias)(states, gelu=gelu)
    terms = definition(states.abs(), weight.abs(), bias.abs())
    assert_close(found, F.gelu(expected) if gelu else expected, torch.float32, terms=terms)


@given(
    st.integers(0, 300),
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(1, 3),
    st.integers(1, 5),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_sizes_and_any_number_of_threads(rows, inputs, outputs, groups, threads, int8):
    weight, bias = random_layer(inputs, outputs, groups)
    states, before = torch.randn(rows, groups * inputs), torch.get_num_threads()
    layer = PrepackedLinear(weight, bias, int8=int8)
    torch.set_num_threads(threads)
    try:
        found = layer(states)
    finally:
        torch.set_num_threads(before)
    expected = definition(states, weight, bias)
    if int8:
        assert (found - expected).norm() <= 0.05 * expected.norm()
    else:
        terms = definition(states.abs(), weight.abs(), bias.abs())
        assert_close(found, expected, torch.float32, terms=terms)


@every_build
@pytest.mark.parametrize("int8", [False, True])
def test_the_other_tokens_do_not_matter_to_the_last_bit(form, int8):
    layer, states = PrepackedLinear(*random_layer(130, 50), int8=int8), torch.randn(400, 130)
    states[4] *= 1e4
    together = layer(states)
    for first, last in ((0, 1), (3, 9), (191, 193), (399, 400)):
        assert torch.equal(layer(states[first:last]), together[first:last])


def test_what_does_not_belong_together_is_refused():
    weight, bias = random_layer(8, 4)
    with pytest.raises(ValueError, match="bias"):
        PrepackedLinear(weight, bias[:3])
    with pytest.raises(ValueError, match="8 wide"):
        PrepackedLinear(weight, bias)(torch.randn(2, 7))
    with pytest.raises(ValueError, match="fp32"):
        PrepackedLinear(weight, bias)(torch.randn(2, 8).bfloat16())


class TestInt8:
    @staticmethod
    def whole_numbers(rows, columns, lowest, highest):
        """Half of them extreme, so that sums overflow wherever they can; both extremes in a row."""
        numbers = torch.randint(lowest, highest + 1, (rows, columns))
        extreme = torch.where(torch.rand(rows, columns) < 0.5, lowest, highest)
        numbers = torch.where(torch.rand(rows, columns) < 0.5, extreme, numbers)
        numbers[0], numbers[1] = highest, lowest
        numbers[:, 0], numbers[:, -1] = lowest, highest
        return numbers

    @every_build
    @pytest.mark.parametrize("sizes", [(2, 3, 2), (33, 129, 17), (150, 512, 260)], ids=str)
    def test_equals_integer_arithmetic(self, form, sizes):
        """Whole multiples of one power of two a row lose nothing, so the result must be exact."""
        tokens, inputs, outputs = sizes
        weight = self.whole_numbers(outputs, inputs, -127, 127)
        if compiled.library().adds_in_16_bits():  # neighbours as large as they may be
            even, odd = weight[:, 0 : inputs - 1 : 2], weight[:, 1::2]
            odd.clamp_(-127 - even.clamp_max(0), 127 - even.clamp_min(0))
        states = self.whole_numbers(tokens, inputs, 0, 255) - torch.randint(0, 256, (tokens, 1))
        token_unit = 2.0 ** torch.randint(-6, 3, (tokens, 1))
        weight_unit = 2.0 ** torch.randint(-9, -2, (outputs, 1))
        layer = PrepackedLinear(weight * weight_unit, torch.zeros(outputs), int8=True)
        sums = states.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T
        expected = torch.from_numpy(sums * (token_unit * weight_unit.T).double().numpy())
        # The sum is exact; its size and the offset are added in fp32.
        largest = (states.abs().double() * token_unit) @ (weight.abs() * weight_unit).double().T
        assert ((layer(states * token_unit) - expected).abs() <= 2.0**-22 * largest).all()

    @every_build
    @pytest.mark.parametrize("shape", [(7, 40), (2, 5, 40), (1, 40)], ids=str)
    def test_is_as_close_as_rounding_allows(self, form, shape):
        """Off by at most half a unit of each factor in every product."""
        weight, bias = random_layer(40, 24)
        states = torch.randn(shape) * torch.rand(*shape[:-1], 1)
        largest = weight.abs().amax(1, keepdim=True)
        if compiled.library().adds_in_16_bits():
            largest = largest.maximum((weight[:, ::2] + weight[:, 1::2]).abs().amax(1, keepdim=True))
        weight_unit = largest / 127
        state_unit = (states.amax(-1, keepdim=True) - states.amin(-1, keepdim=True)) / 255
        bound = state_unit / 2 * (weight.abs() + weight_unit / 2).sum(1)
        bound = bound + states.abs().sum(-1, keepdim=True) * weight_unit.squeeze(1) / 2
        found, expected = PrepackedLinear(weight, bias, int8=True)(states), definition(states, weight, bias)
        assert ((found - expected).abs() <= bound + 1e-5).all()

    @every_build
    def test_tokens_of_zeros_and_of_one_sign(self, form):
        weight, bias = random_layer(16, 8)
        layer = PrepackedLinear(weight, bias, int8=True)
        assert torch.equal(layer(torch.zeros(3, 16)), bias.expand(3, 8))
        for sign in (1, -1):
            states = sign * torch.rand(5, 16)
            assert (layer(states) - definition(states, weight, bias)).norm() < 0.03 * 5 * 16**0.5
        flat = PrepackedLinear(torch.zeros(8, 16), bias, int8=True)
        assert torch.isfinite(flat(torch.full((2, 16), 1e30))).all()

    @every_build
    @pytest.mark.parametrize("damage", [float("nan"), float("inf"), -float("inf")])
    def test_a_damaged_token_is_seen_and_stays_alone(self, form, damage):
        layer, states = PrepackedLinear(*random_layer(300, 8), int8=True), torch.randn(6, 300)
        healthy = layer(states)
        states[2, 7] = damage
        found = layer(states)
        assert not torch.isfinite(found[2]).any()
        others = [0, 1, 3, 4, 5]
        assert torch.equal(found[others], healthy[others])
