"""Batches of similar length: nothing is lost, nothing is twice, and a batch's size is its tokens."""

from itertools import islice

import numpy as np
import pytest

from convbert.training.batching import BalancedBatches, BatchStream, cut_evenly


def lengths(count, seed=0):
    return np.random.default_rng(seed).geometric(0.04, count) + 2


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 700, 1025])
def test_every_text_once_an_epoch_in_as_many_batches(count):
    sampler = BalancedBatches(lengths(count), 32, seed=0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(text for batch in batches for text in batch) == list(range(count))
        assert len(batches) == len(sampler) == -(-count // 32)
        assert all(batches)


def test_batches_have_similar_tokens_and_little_padding():
    sizes = lengths(4096)
    batches = list(BalancedBatches(sizes, 32, seed=0))
    tokens = [sizes[batch].sum() for batch in batches]
    assert max(tokens) < 1.5 * np.mean(tokens)
    padded = sum(len(batch) * sizes[batch].max() for batch in batches)
    assert padded < 1.2 * sizes.sum()


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = BalancedBatches(lengths(500), 16, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


@pytest.mark.parametrize("count", [1, 50, 333])
def test_processes_share_the_batches(count):
    shares = [list(BalancedBatches(lengths(count), 8, 0, rank=rank, world_size=3)) for rank in range(3)]
    assert len({len(share) for share in shares}) == 1
    seen = [text for share in shares for batch in share for text in batch]
    assert set(seen) == set(range(count))
    assert len(seen) == max(count, 3 * len(shares[0]))  # a text is seen twice only where there are too few


def test_cuts_by_hand():
    assert cut_evenly(np.arange(5), np.array([1, 1, 1, 1, 4]), 2) == [[0, 1, 2, 3], [4]]
    assert cut_evenly(np.arange(3), np.array([9, 9, 1000]), 3) == [[0], [1], [2]]


class Places:
    """An order of 7 items that differs from epoch to epoch; with a short cut to its middle, or without."""

    def __init__(self, short_cut: bool) -> None:
        if short_cut:
            self.starting_at = lambda place: iter([100 * self.epoch + item for item in range(place, 7)])

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self):
        return 7

    def __iter__(self):
        return iter([100 * self.epoch + item for item in range(7)])


@pytest.mark.parametrize("short_cut", [False, True])
def test_a_stream_has_no_remainder_and_starts_anywhere(short_cut):
    def stream(count, **place):
        return list(islice(BatchStream(Places(short_cut), 2, **place), count))

    whole = [[0, 1], [2, 3], [4, 5], [6, 100], [101, 102], [103, 104], [105, 106], [200, 201]]
    assert stream(8) == whole
    for first in range(8):
        assert stream(8 - first, first=first) == whole[first:]
    assert stream(4, rank=0, world_size=2) == whole[0::2]
    assert stream(4, rank=1, world_size=2) == whole[1::2]
    assert stream(3, rank=1, world_size=2, first=1) == whole[3::2]
    assert stream(9, first=2, end=4) == whole[2:4]
    assert stream(9, first=4, end=4) == []


def test_a_stream_of_batches_goes_on_in_the_middle_of_an_epoch():
    sampler = BalancedBatches(lengths(50), 8, seed=0)
    whole = list(BatchStream(sampler, 8, end=20))
    assert list(BatchStream(sampler, 8, first=9, end=20)) == whole[9:]
    assert BatchStream(sampler, 8).batches_per_epoch == 7
