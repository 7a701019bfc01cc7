"""Index work, on numbers a person can check by eye."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convbert import InputError
from convbert.ops.varlen import VarlenBounds, summarise, unpad_mask
from helpers import bounds


def test_by_eye():
    bounds, plan = unpad_mask(torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]]).bool())
    assert bounds.cu_seqlens.tolist() == [0, 2, 5, 6, 6]
    assert bounds.cu_seqlens.dtype == torch.int32
    assert (bounds.num_tokens, bounds.max_length) == (6, 3)
    assert plan.indices.tolist() == [0, 1, 3, 4, 5, 8]
    tokens = plan.unpad(torch.arange(12).view(4, 3))
    assert tokens.tolist() == [0, 1, 3, 4, 5, 8]
    assert plan.pad(tokens).tolist() == [[0, 1, 0], [3, 4, 5], [0, 0, 8], [0, 0, 0]]
    assert bounds.padding() is plan


def test_positions():
    assert VarlenBounds.of(bounds([2, 0, 3]), 5).positions().tolist() == [0, 1, 0, 1, 2]


def test_padding_is_planned_once():
    found = VarlenBounds.of(bounds([2, 0, 3]), 5, 4)
    plan = found.padding()
    assert plan.indices.tolist() == [0, 1, 8, 9, 10]
    assert plan.pad(torch.arange(1, 6)).tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [3, 4, 5, 0]]
    assert found.padding() is plan


def test_bounds_are_taken_as_they_are_the_second_time():
    found = VarlenBounds.of(bounds([2, 3]).long(), 5)
    assert found.cu_seqlens.dtype == torch.int32
    assert found.max_length == 3
    assert VarlenBounds.of(found, 5) is found


@pytest.mark.parametrize(
    ("ends", "max_length"),
    [([0, 3], None), ([1, 5], None), ([0, 4, 3, 5], None), ([0, 2, 5], 2), ([[0, 5]], None), ([], None)],
)
def test_bounds_that_do_not_fit_are_refused(ends, max_length):
    with pytest.raises(InputError, match="mine"):
        VarlenBounds.of(torch.tensor(ends, dtype=torch.int32), 5, max_length, names=("mine", "longest"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [([1, 1, 0], True), ([0, 1, 1], True), ([0, 1, 0], True), ([0, 0, 0], True), ([1, 0, 1], False)],
)
def test_summary(row, expected):
    mask = torch.tensor([[1, 1, 1], row]).bool()
    assert summarise(mask) == (mask.sum(), 3, expected)
    if not expected:
        with pytest.raises(ValueError, match="contiguous"):
            unpad_mask(mask)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)], ids=str)
def test_no_tokens(shape):
    bounds, plan = unpad_mask(torch.ones(shape).bool())
    assert bounds.cu_seqlens.tolist() == [0] * (shape[0] + 1)
    assert plan.pad(torch.ones(0, 5)).shape == (*shape, 5)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5))
def test_round_trip_keeps_tokens_and_zeroes_the_rest(edges):
    first, last = torch.tensor(edges)[:, :, None].unbind(1)
    mask = (torch.arange(4) >= first) & (torch.arange(4) < last)
    states = torch.randn(*mask.shape, 2)
    _, plan = unpad_mask(mask)
    assert torch.equal(plan.pad(plan.unpad(states)), states * mask[..., None])
