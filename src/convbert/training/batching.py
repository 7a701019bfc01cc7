"""Batches in an order that can begin anywhere, batches of about equal numbers of tokens, and a seed for each batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from convbert.util.errors import InputError

_BATCHES_PER_POOL = 16
"""Texts are sorted by length within so many batches: even batches, and still a new mixture in every epoch."""


class BalancedBatches(Sampler[list[int]]):
    """Every text once an epoch, in batches that share the tokens of a pool evenly.

    A batch of short texts holds more of them than a batch of long ones; `batch_size` is the mean. An epoch always has
    the same number of batches, and its order depends on seed and epoch alone.

    Args:
        lengths: tokens of each text.
        batch_size: texts in a batch, on average.
        rank, world_size: which share of the batches this process gets.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.seed, self.epoch = seed, 0
        self.rank, self.world_size = rank, world_size
        self.per_process = max(1, -(-len(lengths) // (batch_size * world_size)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.per_process

    def __iter__(self) -> Iterator[list[int]]:
        numbers = np.random.default_rng((self.seed, self.epoch))
        count = self.per_process * self.world_size
        order = numbers.permutation(len(self.lengths))
        if len(order) < count:  # more processes than texts: some see a text twice
            order = np.resize(order, count)
        edges = np.linspace(0, count, -(-count // _BATCHES_PER_POOL) + 1).round().astype(int)
        starts = edges * len(order) // count
        batches: list[list[int]] = []
        for pool in range(len(edges) - 1):
            texts = order[starts[pool] : starts[pool + 1]]
            texts = texts[np.argsort(self.lengths[texts], kind="stable")]
            batches += cut_evenly(texts, self.lengths[texts], edges[pool + 1] - edges[pool])
        shuffled = numbers.permutation(count)[self.rank :: self.world_size]
        return iter([batches[number] for number in shuffled])


def cut_evenly(texts: NDArray[np.int64], lengths: NDArray[np.int64], count: int) -> list[list[int]]:
    """Cut a row of texts into `count` batches, none empty, of as equal a number of tokens as the order allows."""
    total = np.cumsum(lengths)
    middles = total - lengths / 2  # a text goes to the side on which most of it lies
    cuts = np.searchsorted(middles, total[-1] * np.arange(1, count) / count).tolist()
    edges = [0]
    for number, cut in enumerate(cuts, start=1):
        edges.append(min(max(cut, edges[-1] + 1), len(texts) - (count - number)))
    edges.append(len(texts))
    return [texts[first:last].tolist() for first, last in pairwise(edges)]


class BatchStream(Sampler[list[int]]):
    """This process's batches, one epoch after the other, from any place on.

    Nothing is left over at the end of an epoch: a batch may hold its last items and the first ones of the next. So
    optimizer step s always takes the s-th global batch of the stream, on however many processes and in however many
    accumulation steps it is worked off, and going on from a step reads nothing of what lies before it.

    Args:
        sampler: the order of an epoch, after `set_epoch`; from a place on, by `starting_at`, where it has this method.
            One that gives whole batches (`BalancedBatches`) gives those of this process; from one that gives items,
            `batch_size` consecutive ones are taken, process by process.
        first, end: numbers of the first batch and of the one after the last, counted per process since the start of
            the run; None goes on for ever.

    Raises:
        InputError: an epoch is empty.
    """

    def __init__(
        self,
        sampler: Sampler[Any],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        first: int = 0,
        end: int | None = None,
    ) -> None:
        if len(sampler) == 0:  # type: ignore[arg-type]
            raise InputError("there is nothing to train on")
        self.sampler, self.batch_size = sampler, batch_size
        self.rank, self.world_size = rank, world_size
        self.first, self.end = first, end
        self._gives_batches = isinstance(sampler, BalancedBatches)

    @property
    def batches_per_epoch(self) -> float:
        """Of this process."""
        length = len(self.sampler)  # type: ignore[arg-type]
        return length if self._gives_batches else length / (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._from(self.first) if self._gives_batches else self._cut(self.first)
        return batches if self.end is None else islice(batches, max(0, self.end - self.first))

    def _from(self, number: int) -> Iterator[Any]:
        """What the sampler gives, from the `number`-th on."""
        epoch, done = divmod(number, len(self.sampler))  # type: ignore[arg-type]
        while True:
            self.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            # A sampler that computes its order begins anywhere; others are run through.
            starting_at = getattr(self.sampler, "starting_at", None)
            yield from islice(self.sampler, done, None) if starting_at is None else starting_at(done)
            epoch, done = epoch + 1, 0

    def _cut(self, number: int) -> Iterator[list[int]]:
        items = self._from((number * self.world_size + self.rank) * self.batch_size)
        others = (self.world_size - 1) * self.batch_size
        while True:
            yield list(islice(items, self.batch_size))
            next(islice(items, others, others), None)  # the other processes' share


def seed_all(*numbers: int) -> None:
    """Seed Python, NumPy and PyTorch (on all devices) from several numbers, such as a seed and the number of a batch.

    With this before every batch, dropout does not depend on what ran before: neither on a restart, nor on an
    evaluation, nor on how a large batch is shared out over processes and accumulation steps.
    """
    words = np.random.SeedSequence(numbers).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[0]))
    torch.manual_seed((int(words[0]) << 32 | int(words[1])) >> 1)
