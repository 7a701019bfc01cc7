"""Which spans of a text answer a question best, when it is read in overlapping windows.

The rules are those of BERT's published SQuAD program: a span lies within one window, starts at a token that
this window sees with most context around it, is not too long, and scores the sum of its two logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convbert.inference.engine import Tokens
from convbert.inference.windows import most_context, plan_windows

Logits = NDArray[np.float64]


class Window(NamedTuple):
    """What the model says about tokens first ... last - 1 of a text: (last - first,) logits of an answer that starts,
    or ends, at each, and the two logits of "no answer"."""

    first: int
    last: int
    start: Logits
    end: Logits
    no_start: float
    no_end: float


@dataclass(frozen=True)
class Passage:
    """A text to find answers in, as N tokens without special ones: their ids, the characters [start, end) that each
    stands for, and the number of its word.
    """

    text: str
    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]
    words: Sequence[int]

    @classmethod
    def read(cls, text: str, tokenizer: Any) -> Passage:
        """The tokens of a text, by a fast tokenizer."""
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return cls(text, encoded["input_ids"], encoded["offset_mapping"], encoded.word_ids())

    def characters(self, first: int, last: int, whole_words: bool) -> tuple[int, int]:
        """Where in the text tokens first ... last (inclusive) stand."""
        if whole_words:
            while first > 0 and self.words[first - 1] == self.words[first]:
                first -= 1
            while last + 1 < len(self.words) and self.words[last + 1] == self.words[last]:
                last += 1
        return self.offsets[first][0], self.offsets[last][1]


class Place(NamedTuple):
    """Where a window stands: tokens first ... last - 1 of the passage, after `before` tokens of its own."""

    passage: Passage
    first: int
    last: int
    before: int


class Span(NamedTuple):
    """An answer: its characters in the passage, its two logits, and its probability."""

    start: int
    end: int
    start_logit: float
    end_logit: float
    score: float


def read_windows(
    question: list[int], passage: Passage, tokenizer: Any, room: int, overlap: int
) -> list[Tokens]:
    """The question before windows of `room` tokens on the passage; `detail` is their `Place`."""
    windows = []
    for first, last in plan_windows(len(passage.ids), room, overlap):
        shown = list(passage.ids[first:last])
        ids = tokenizer.build_inputs_with_special_tokens(question, shown)
        types = tokenizer.create_token_type_ids_from_sequences(question, shown)
        before = len(ids) - 1 - len(shown)
        windows.append(Tokens(ids, types, Place(passage, first, last, before)))
    return windows


def find_answers(
    found: Sequence[tuple[Place, Any]], longest: int, count: int, *, whole_words: bool = False
) -> tuple[list[Span], Span] | None:
    """The best spans, and "no answer", by the window that is least in favour of it; None where nothing is shown.

    Args:
        found: windows on one passage, each with its (T, 2) logits of start and end.
        longest: tokens of an answer, at most.
        count: spans to give, at most; each stands for other characters.
        whole_words: extend spans to whole words.
    """
    passage = found[0][0].passage if found else None
    windows = []
    for place, given in found:
        logits = np.asarray(given, np.float64)
        shown = logits[place.before : place.before + place.last - place.first]
        if len(shown):
            windows.append(Window(place.first, place.last, shown[:, 0], shown[:, 1], *map(float, logits[0])))
    if passage is None or not windows:
        return None
    seen_by, scale = best_seen(windows), _log_scale(windows)
    spans: dict[tuple[int, int], Span] = {}
    for logit, first, last in best_spans(windows, longest):
        # Two spans of tokens may stand for the same words; the better one comes first.
        characters = passage.characters(first, last, whole_words)
        window = windows[seen_by[first]]
        start = float(window.start[first - window.first])
        spans.setdefault(characters, Span(*characters, start, logit - start, exp(logit - scale)))
        if len(spans) == count:
            break
    null = min(windows, key=lambda window: window.no_start + window.no_end)
    score = exp(null.no_start + null.no_end - scale)
    return list(spans.values()), Span(0, 0, null.no_start, null.no_end, score)


def best_seen(windows: Sequence[Window]) -> NDArray[np.int64]:
    """Per token of the text, the number of the window that sees it with most context around it: on the shorter of the
    two sides, and in the longer window where these are equal.
    """
    return most_context([(window.first, window.last) for window in windows], longer_wins=True)


def best_spans(windows: Sequence[Window], longest: int) -> Iterator[tuple[float, int, int]]:
    """Spans of at most `longest` tokens, best first: logit, first token, last token (inclusive)."""
    seen_by = best_seen(windows)
    columns = []
    for number, window in enumerate(windows):
        size = len(window.end)
        firsts = np.flatnonzero(seen_by[window.first : window.last] == number)[:, None]
        lasts = firsts + np.arange(min(longest, size))
        inside = lasts < size
        logits = window.start[firsts] + window.end[np.where(inside, lasts, 0)]
        firsts = np.broadcast_to(firsts, lasts.shape)
        columns.append((logits[inside], firsts[inside] + window.first, lasts[inside] + window.first))
    logits, firsts, lasts = (np.concatenate(column) for column in zip(*columns, strict=True))
    for index in np.argsort(-logits, kind="stable"):
        yield float(logits[index]), int(firsts[index]), int(lasts[index])


def _log_scale(windows: Sequence[Window]) -> float:
    """What turns the logit of a span into the logarithm of its probability, when subtracted.

    A token that several windows see counts once, with its highest logit, so that no probability exceeds 1.
    """
    length = max(window.last for window in windows)
    best = np.full((2, length + 1), -np.inf)  # of start and end; the last place is for "no answer"
    for window in windows:
        seen = slice(window.first, window.last)
        best[:, seen] = np.maximum(best[:, seen], (window.start, window.end))
        best[:, length] = np.maximum(best[:, length], (window.no_start, window.no_end))
    return float(np.logaddexp.reduce(best, axis=1).sum())
