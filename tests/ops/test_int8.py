"""What surrounds an 8-bit product, in every form, against the definition in double precision."""

import pytest
import torch
import torch.nn.functional as F

from convbert.ops import finish_int8, round_tokens
from helpers import assert_close, slice_of_larger


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, 300), (130, 768)], ids=str)
def test_rounded_tokens_are_half_a_unit_away(shape):
    tokens = slice_of_larger(*shape) * torch.logspace(-20, 20, shape[0])[:, None]
    whole, lowest, unit = round_tokens(tokens)
    assert (whole.dtype, whole.shape, lowest.shape, unit.shape) == (
        torch.uint8,
        shape,
        (shape[0], 1),
        (shape[0], 1),
    )
    found = lowest.double() + unit.double() * whole
    assert ((found - tokens).abs() <= unit * 0.501).all()
    spread = tokens.amax(1, keepdim=True).clamp_min(0) - tokens.amin(1, keepdim=True).clamp_max(0)
    assert_close(unit * 255 / spread, torch.ones(shape[0], 1), torch.float32)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("sign", [1, -1])
def test_tokens_of_one_sign_and_of_zeros(sign):
    tokens = sign * torch.tensor([[0.0, 0.0], [5.0, 1.0], [1e30, 1e30]])
    whole, lowest, unit = round_tokens(tokens)
    assert torch.isfinite(unit).all()
    assert_close((lowest + unit * whole)[0], torch.zeros(2), torch.float32)
    assert ((lowest + unit * whole - tokens).abs() <= 0.51 * unit).all()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("damage", [float("nan"), float("inf"), -float("inf")])
def test_a_damaged_token_is_seen_and_stays_alone(damage):
    tokens = torch.randn(3, 20)
    tokens[1, 7] = damage
    whole, lowest, unit = round_tokens(tokens)
    out = finish_int8(whole.float(), lowest, unit, torch.ones(20), torch.zeros(20))
    assert not torch.isfinite(out[1]).any()
    assert torch.isfinite(out[[0, 2]]).all()


@pytest.mark.usefixtures("poisoned_memory", "form")
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (130, 300)], ids=str)
def test_sums_get_their_size(shape, gelu):
    rows, columns = shape
    sums, lowest, unit = torch.randn(shape), torch.randn(rows, 1), torch.rand(rows, 1)
    weight_sum, bias = torch.randn(columns), torch.randn(columns)
    expected = sums.double() * unit + lowest.double() * weight_sum + bias
    found = finish_int8(sums, lowest, unit, weight_sum, bias, gelu=gelu)
    assert_close(found, F.gelu(expected) if gelu else expected, torch.float32)
