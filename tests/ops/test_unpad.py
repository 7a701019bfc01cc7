"""Index work, on numbers a person can check by eye."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convbert.ops import pack_mask
from convbert.ops.unpad import pack_bounds, position_in_sequence, summarise


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
def test_summary(row, expected):
    mask = torch.tensor([[1, 1, 1], row])
    assert summarise(mask) == (mask.sum(), 3, expected)
    if not expected:
        with pytest.raises(ValueError, match="must be contiguous"):
            pack_mask(mask)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)], ids=str)
def test_no_tokens(shape):
    packing = pack_mask(torch.ones(shape))
    assert packing.cu_seqlens.tolist() == [0] * (shape[0] + 1)
    assert packing.unpack(torch.ones(0, 5)).shape == (*shape, 5)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5))
def test_round_trip_keeps_tokens_and_zeroes_the_rest(edges):
    first, last = torch.tensor(edges)[:, :, None].unbind(1)
    mask = (torch.arange(4) >= first) & (torch.arange(4) < last)
    states = torch.randn(*mask.shape, 2)
    packing = pack_mask(mask)
    assert torch.equal(packing.unpack(packing.pack(states)), states * mask[..., None])
