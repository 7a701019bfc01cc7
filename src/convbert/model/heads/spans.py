"""Which spans of a text score best when it was read in overlapping windows: plain NumPy, no model.

The rules are those of BERT's published SQuAD program: a span lies within one window, starts at a token that
this window sees with most context around it, is not too long, and scores the sum of its two logits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convbert.util.errors import InputError

Logits = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """What the model says about tokens first ... last - 1 of a text.

    Attributes:
        start, end: (last - first,) logits of an answer that starts, or ends, at the token.
        no_start, no_end: the two logits of "no answer".
    """

    first: int
    last: int
    start: Logits
    end: Logits
    no_start: float
    no_end: float

    @property
    def no_answer(self) -> float:
        """Logit of "no answer", as of a span."""
        return self.no_start + self.no_end


def plan_windows(length: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """First and last (exclusive) token of windows of `room` tokens that cover `length` of them.

    Raises:
        InputError: neighbours would share a whole window.
    """
    if room <= overlap:
        raise InputError(f"windows of {room} tokens cannot share {overlap} with their neighbours")
    windows = [(0, min(room, length))]
    while windows[-1][1] < length:
        first = windows[-1][1] - overlap
        windows.append((first, min(first + room, length)))
    return windows


def best_seen(windows: Sequence[Window]) -> NDArray[np.int64]:
    """Per token of the text, the number of the window that sees it with most context around it.

    What counts is the shorter of the two sides, and the longer window where these are equal.
    """
    return most_context([(window.first, window.last) for window in windows], longer_wins=True)


def most_context(windows: Sequence[tuple[int, int]], *, longer_wins: bool = False) -> NDArray[np.int64]:
    """As `best_seen`, of windows by first and last (exclusive) token; the first of equals."""
    length = max(last for _, last in windows)
    most, seen_by = np.full(length, -1.0), np.zeros(length, np.int64)
    for number, (first, last) in enumerate(windows):
        before = np.arange(last - first)
        context = np.minimum(before, before[::-1]) + (0.01 * len(before) if longer_wins else 0.0)
        better = context > most[first:last]
        most[first:last][better] = context[better]
        seen_by[first:last][better] = number
    return seen_by


def best_spans(windows: Sequence[Window], longest: int) -> Iterator[tuple[float, int, int]]:
    """Spans of at most `longest` tokens, best first: logit, first token, last token (inclusive)."""
    seen_by = best_seen(windows)
    found = [
        _best_of(window, seen_by[window.first : window.last] == number, longest)
        for number, window in enumerate(windows)
    ]
    yield from heapq.merge(*found, key=lambda span: -span[0])


def _best_of(window: Window, may_start: NDArray[np.bool_], longest: int) -> Iterator[tuple[float, int, int]]:
    """As `best_spans`, of one window. Few are ever asked for, so few are kept; more are computed again."""
    given, wanted = 0, 32
    while True:
        spans = _spans(window, may_start, longest)
        order = np.argsort(-spans[0], kind="stable")[given:wanted]
        best = [column[order].tolist() for column in spans]
        del spans
        if not best[0]:
            return
        yield from zip(*best, strict=True)
        given, wanted = wanted, 8 * wanted


def _spans(
    window: Window, may_start: NDArray[np.bool_], longest: int
) -> tuple[Logits, NDArray[np.int64], NDArray[np.int64]]:
    """Logit, first and last token of every span that is allowed to start in this window."""
    firsts = np.flatnonzero(may_start)[:, None]
    lasts = firsts + np.arange(longest)
    inside = lasts < len(window.end)
    logits = window.start[firsts] + window.end[np.where(inside, lasts, 0)]
    firsts = np.broadcast_to(firsts, lasts.shape)
    return logits[inside], firsts[inside] + window.first, lasts[inside] + window.first


def log_scale(windows: Sequence[Window]) -> float:
    """What turns the logit of a span into the logarithm of its probability, when subtracted.

    A token that several windows see counts once, with its highest logit, so that no probability exceeds 1.
    """
    length = max(window.last for window in windows)
    starts, ends = np.full(length + 1, -np.inf), np.full(length + 1, -np.inf)
    for window in windows:
        seen = slice(window.first, window.last)
        starts[seen] = np.maximum(starts[seen], window.start)
        ends[seen] = np.maximum(ends[seen], window.end)
        starts[length] = max(starts[length], window.no_start)
        ends[length] = max(ends[length], window.no_end)
    return float(np.logaddexp.reduce(starts) + np.logaddexp.reduce(ends))
