"""From the token ids of documents to sequences of one or two segments."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from convbert.util.errors import InputError

Paragraph = Sequence[int]
Document = list[Paragraph]
"""Token ids of its paragraphs, without special tokens."""

# Of the original's builder: see `Packing._two_segments`.
_SHORT_SHARE = 0.05
_SHORTEST_TARGET = 5
_SINGLE_SHARE = 0.1
_LONGEST = 2**16 - 1


@dataclass(frozen=True)
class Packing:
    """How documents become sequences.

    Args:
        sequence_length: tokens in a full sequence, special tokens included.
        min_sequence_length: what is left of a document becomes a shorter sequence if it has at least so many
            tokens, special tokens included, and is dropped otherwise.
        segments: "one": `[CLS] A [SEP]`, every token of a document once and in order. "two": the original's
            builder, `[CLS] A [SEP] B [SEP]`, with paragraphs as sentences; see `docs/pretraining.md`.
        cross_documents: a sequence goes on into the next document, with `[SEP]` between them ("one") or
            without a mark ("two", as the original).
    """

    sequence_length: int = 128
    min_sequence_length: int = 16
    segments: str = "one"
    cross_documents: bool = False

    def __post_init__(self) -> None:
        if not 3 <= self.min_sequence_length <= self.sequence_length <= _LONGEST:
            raise InputError(
                f"min_sequence_length must lie between 3 and sequence_length, at most {_LONGEST}; "
                f"got {self.min_sequence_length} and {self.sequence_length}"
            )
        if self.segments not in ("one", "two"):
            raise InputError(f'segments must be "one" or "two", got {self.segments!r}')
        if self.segments == "two" and self.sequence_length < _SHORTEST_TARGET:
            raise InputError(
                f"two segments need a sequence_length of {_SHORTEST_TARGET} at least, "
                f"got {self.sequence_length}"
            )

    def pack(
        self, documents: Iterable[Document], cls_id: int, sep_id: int
    ) -> Iterator[tuple[list[int], int]]:
        """Yield sequences, and the place where segment 1 of each begins, 0 where there is none.

        What comes out of a document depends on its ids alone (of all of them where they are crossed).
        """
        for document in self._cross(documents, sep_id) if self.cross_documents else documents:
            made = self._one_segment(document) if self.segments == "one" else self._two_segments(document)
            for first, second in made:
                ids = [cls_id, *first, sep_id]
                start = len(ids) if second else 0
                if second:
                    ids += [*second, sep_id]
                if len(ids) >= self.min_sequence_length:
                    yield ids, start

    def _cross(self, documents: Iterable[Document], sep_id: int) -> Iterator[Document]:
        joined: Document = []
        for document in documents:
            if joined and self.segments == "one":
                joined.append([sep_id])
            joined += document
        yield joined

    def _one_segment(self, document: Document) -> Iterator[tuple[list[int], list[int]]]:
        ids = list(itertools.chain.from_iterable(document))
        content = self.sequence_length - 2
        for start in range(0, len(ids), content):
            yield ids[start : start + content], []

    def _two_segments(self, document: Document) -> Iterator[tuple[list[int], list[int]]]:
        """The rule of ELECTRA's and ConvBERT's `ExampleBuilder`.

        Paragraphs are collected until they reach a target: the full length, or, once in twenty, any length
        from 5 on. The random choices hang on the document's ids, not on what was read before it.
        """
        choices = random.Random(_digest(document))
        waiting, length, target = [], 0, self._target(choices)
        for paragraph in document:
            waiting.append(paragraph)
            length += len(paragraph)
            if length >= target:
                yield self._divide(waiting, target, choices)
                waiting, length, target = [], 0, self._target(choices)
        if length:
            yield self._divide(waiting, target, choices)

    def _target(self, choices: random.Random) -> int:
        if choices.random() >= _SHORT_SHARE:
            return self.sequence_length
        spread = self.sequence_length - _SHORTEST_TARGET + 1
        return _SHORTEST_TARGET + int(choices.random() * spread)

    def _divide(
        self, paragraphs: Iterable[Paragraph], target: int, choices: random.Random
    ) -> tuple[list[int], list[int]]:
        """Paragraphs to two segments of about half the target each; once in ten to a single one.

        A paragraph goes to the first segment if that is empty, or stays below its half with it, or, while
        the second is empty, every second time although it does not; else to the second.
        """
        half = math.inf if choices.random() < _SINGLE_SHARE else (target - 3) // 2
        first: list[int] = []
        second: list[int] = []
        for paragraph in paragraphs:
            fits = not first or len(first) + len(paragraph) < half
            if fits or (not second and len(first) < half and choices.random() < 0.5):
                first += paragraph
            else:
                second += paragraph
        first = first[: self.sequence_length - 2]
        return first, second[: max(0, self.sequence_length - len(first) - 3)]


def _digest(document: Document) -> int:
    ids = np.fromiter(itertools.chain.from_iterable(document), dtype="<u4")
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")
