"""Index work, on numbers a person can check by eye."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convbert.ops import pack_mask
from convbert.ops.unpad import is_contiguous, pack_bounds, position_in_sequence


def test_by_eye():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]])
    packing = pack_mask(mask)
    assert packing.cu_seqlens.tolist() == [0, 2, 5, 6, 6]
    assert packing.cu_seqlens.dtype == torch.int32
    assert packing.indices.tolist() == [0, 1, 3, 4, 5, 8]
    assert packing.max_length == 3
    padded = torch.arange(12).view(4, 3)
    tokens = packing.pack(padded)
    assert tokens.tolist() == [0, 1, 3, 4, 5, 8]
    assert packing.unpack(tokens).tolist() == [[0, 1, 0], [3, 4, 5], [0, 0, 8], [0, 0, 0]]


def test_position_in_sequence():
    before, after = position_in_sequence(torch.tensor([0, 2, 2, 5], dtype=torch.int32), 5)
    assert before.tolist() == [0, 1, 0, 1, 2]
    assert after.tolist() == [1, 0, 2, 1, 0]


def test_pack_bounds():
    packing = pack_bounds(torch.tensor([0, 2, 2, 5], dtype=torch.int32), 4, 5)
    assert packing.indices.tolist() == [0, 1, 8, 9, 10]
    assert packing.unpack(torch.arange(1, 6)).tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [3, 4, 5, 0]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [([1, 1, 0], True), ([0, 1, 1], True), ([0, 1, 0], True), ([0, 0, 0], True), ([1, 0, 1], False)],
)
def test_is_contiguous(row, expected):
    assert bool(is_contiguous(torch.tensor([[1, 1, 1], row]))) is expected


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_round_trip_keeps_tokens_and_zeroes_the_rest(rows):
    mask = torch.tensor(rows)
    states = torch.randn(*mask.shape, 2)
    packing = pack_mask(mask)
    assert torch.equal(packing.unpack(packing.pack(states)), states * mask[..., None])
