"""The compiled product with packed weights is the linear layer, in every build."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.ops import compiled
from convbert.ops.compiled import product
from helpers import FORMS, assert_close, slice_of_larger

BUILDS = pytest.mark.parametrize("form", FORMS[:-1], indirect=True)


def definition(states, weight, bias, gelu=False):
    """In double precision; `weight` (groups, in / groups, out / groups)."""
    grouped = states.double().unflatten(-1, (weight.shape[0], -1))
    out = torch.einsum("...gi,gio->...go", grouped, weight.double()).flatten(-2) + bias.double()
    return F.gelu(out) if gelu else out


@pytest.mark.usefixtures("poisoned_memory", "form")
@BUILDS
@pytest.mark.parametrize("gelu", [True, False], ids=["gelu", "plain"])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (5, 7, 18), (6, 64, 32), (7, 33, 31), (97, 40, 100), (400, 1030, 17)], ids=str
)
def test_is_its_definition(sizes, groups, gelu):
    rows, inputs, outputs = sizes
    states = slice_of_larger(rows, groups * inputs)
    weight, bias = torch.randn(groups, inputs, outputs) / inputs**0.5, torch.randn(groups * outputs)
    packed = product.pack(weight)
    expected = definition(states, weight, bias, gelu)
    assert_close(product.packed_linear(states, packed, bias, gelu), expected, torch.float32)
    if groups == 1:
        again = product.packed_linear(states, product.pack(weight[0].t()), bias, gelu)
        assert_close(again, expected, torch.float32)


@given(st.integers(0, 300), st.integers(1, 80), st.integers(1, 80), st.integers(1, 3), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_sizes_and_any_number_of_threads(rows, inputs, outputs, groups, threads):
    if compiled.build() is None:
        pytest.skip("no compiled kernels")
    states, weight = torch.randn(rows, groups * inputs), torch.randn(groups, inputs, outputs)
    bias = torch.randn(groups * outputs)
    packed, out = product.pack(weight), torch.full((rows, groups * outputs), torch.nan)
    compiled.call("packed_linear", threads, rows, groups, inputs, outputs, states, packed, bias, 0, out)
    assert_close(out, definition(states, weight, bias), torch.float32)


@pytest.mark.usefixtures("form")
@BUILDS
def test_the_other_tokens_do_not_matter_to_the_last_bit():
    states, weight, bias = torch.randn(131, 300), torch.randn(50, 300), torch.randn(50)
    packed = product.pack(weight)
    together = product.packed_linear(states, packed, bias, False)
    for start, stop in ((0, 1), (1, 8), (8, 131)):
        alone = product.packed_linear(states[start:stop], packed, bias, False)
        assert torch.equal(alone, together[start:stop])


@pytest.mark.usefixtures("form")
@BUILDS
def test_what_does_not_belong_together_is_refused():
    packed = product.pack(torch.randn(40, 16))
    for states, bias in ((torch.randn(2, 15), torch.randn(40)), (torch.randn(2, 16), torch.randn(200))):
        with pytest.raises(ValueError, match="do not belong together"):
            product.packed_linear(states, packed, bias, False)
