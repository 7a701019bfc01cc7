import random
from itertools import chain

import numpy as np
import pytest

from convbert.pretraining.corpus import packing as rule
from convbert.pretraining.corpus.packing import Packing
from convbert.util.errors import InputError

CLS, SEP = 2, 3


def pack(packing, *documents):
    return list(packing.pack(documents, CLS, SEP))


def make_document(seed, paragraphs=60, longest=40):
    source = random.Random(seed)
    return [
        [source.randrange(10, 5000) for _ in range(source.randint(1, longest))] for _ in range(paragraphs)
    ]


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6, 7, 8, 12, 13, 25])
def test_one_segment_keeps_order_fills_sequences_and_drops_short_rests_alone(length):
    ids = list(range(100, 100 + length))
    sequences = [ids for ids, second in pack(Packing(8, 4), [ids[:3], ids[3:]]) if not second]
    assert all(sequence[0] == CLS and sequence[-1] == SEP for sequence in sequences)
    assert all(len(sequence) == 8 for sequence in sequences[:-1])
    rest = length % 6
    assert (
        list(chain(*(sequence[1:-1] for sequence in sequences))) == ids[: length - (rest if rest < 2 else 0)]
    )


def test_documents_are_crossed_only_where_asked():
    documents = [[[10, 11]], [[12], [13, 14]], [[15, 16, 17]]]
    assert [ids for ids, _ in pack(Packing(6, 3), *documents)] == [
        [CLS, 10, 11, SEP],
        [CLS, 12, 13, 14, SEP],
        [CLS, 15, 16, 17, SEP],
    ]
    assert [ids for ids, _ in pack(Packing(6, 3, cross_documents=True), *documents)] == [
        [CLS, 10, 11, SEP, 12, SEP],
        [CLS, 13, 14, SEP, 15, SEP],
        [CLS, 16, 17, SEP],
    ]


class Builder:
    """The rule of `build_pretraining_dataset.py` as its comments state it, in a form of its own: one line in,
    perhaps one example out, with the target for the next example drawn ahead."""

    def __init__(self, longest, choices):
        self.longest, self.choices, self.lines = longest, choices, []
        self.draw_target()

    def draw_target(self):
        self.target = self.longest
        if self.choices.random() < 0.05:
            self.target = 5 + int(self.choices.random() * (self.longest - 4))

    def add(self, line):
        self.lines.append(line)
        return self.finish() if sum(map(len, self.lines)) >= self.target else None

    def finish(self):
        limit = 100_000 if self.choices.random() < 0.1 else (self.target - 3) // 2
        a, b = [], []
        for line in self.lines:
            goes_first = len(a) == 0 or len(a) + len(line) < limit
            if not goes_first and len(b) == 0 and len(a) < limit:
                goes_first = self.choices.random() < 0.5
            (a if goes_first else b).extend(line)
        del a[self.longest - 2 :]
        del b[max(0, self.longest - len(a) - 3) :]
        self.lines = []
        self.draw_target()
        return [CLS, *a, SEP, *b, SEP] if b else [CLS, *a, SEP], len(a) + 2 if b else 0


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("length", [5, 32, 128])
def test_two_segments_are_those_of_the_original_builder(length, cross):
    documents = [make_document(seed) for seed in range(20)] + [[[7]], [[8] * 500, [9]]]
    expected = []
    for document in [list(chain(*documents))] if cross else documents:
        builder = Builder(length, random.Random(rule._digest(document)))
        made = [builder.add(line) for line in document]
        made.append(builder.finish() if builder.lines else None)
        expected += [example for example in made if example is not None]
    found = pack(Packing(length, 3, "two", cross_documents=cross), *documents)
    assert found == expected
    assert all(len(ids) <= length for ids, _ in found)
    if length == 128:
        assert np.mean([start > 0 for _, start in found]) == pytest.approx(0.85, abs=0.1)


def test_two_segments_of_a_document_do_not_depend_on_its_neighbours():
    packing, document = Packing(64, 5, "two"), make_document(1)
    alone = pack(packing, document)
    assert pack(packing, make_document(2), document, make_document(3)) == (
        pack(packing, make_document(2)) + alone + pack(packing, make_document(3))
    )
    assert len({tuple(ids) for ids, _ in alone}) == len(alone) > 5


def test_choices_come_in_the_shares_of_the_original():
    """About 1 in 20 examples has a short target, 1 in 10 a single segment, where lines are single tokens."""
    found = pack(Packing(64, 5, "two"), *([[token]] * 6000 for token in range(10, 40)))
    lengths = np.array([len(ids) for ids, _ in found])
    assert np.mean([start == 0 for _, start in found]) == pytest.approx(0.10, abs=0.015)
    assert np.mean(lengths < 60) == pytest.approx(0.05 * 55 / 60, abs=0.012)
    full = [start for (_, start), length in zip(found, lengths, strict=True) if length == 64 and start]
    assert 31 <= np.mean(full) <= 33  # [CLS], and about half of 61


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16, 17), "min_sequence_length"),
        ((70_000, 16), "at most 65535"),
        ((16, 4, "three"), "segments must be"),
        ((4, 3, "two"), "5 at least"),
    ],
)
def test_impossible_packing_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Packing(*arguments)
