"""Windows on long texts: the same answers as by the plain formulas, in memory that grows with the text alone."""

import tracemalloc

import numpy as np
import pytest

from convbert.inference.spans import Window, best_seen, best_spans
from convbert.inference.windows import most_context, plan_windows


def random_windows(seed):
    """Of a text of up to 120 tokens, also uneven ones; logits of few values, so that there are equals."""
    draw = np.random.default_rng(seed)
    length = int(draw.integers(1, 120))
    room = int(draw.integers(2, 40))
    places = plan_windows(length, room, int(draw.integers(0, room)))
    if seed % 3 == 0:  # of any length
        places += [tuple(sorted((int(a), int(b) + 1))) for a, b in draw.integers(0, length, (4, 2))]
    size = [last - first for first, last in places]
    values = [draw.integers(-3, 4, (2, each)).astype(float) for each in size]
    return [Window(*place, *rows, 0.0, 0.0) for place, rows in zip(places, values, strict=True)]


def context_table(windows, weight):
    """(windows, tokens): the shorter side, and a hundredth of the window's length; -1 outside."""
    table = np.full((len(windows), max(window.last for window in windows)), -1.0)
    for number, window in enumerate(windows):
        for token in range(window.first, window.last):
            shorter = min(token - window.first, window.last - 1 - token)
            table[number, token] = shorter + weight * (window.last - window.first)
    return table


@pytest.mark.parametrize("seed", range(60))
def test_a_token_belongs_to_the_window_with_most_context(seed):
    windows = random_windows(seed)
    assert best_seen(windows).tolist() == context_table(windows, 0.01).argmax(0).tolist()
    places = [(window.first, window.last) for window in windows]
    assert most_context(places).tolist() == context_table(windows, 0.0).argmax(0).tolist()


@pytest.mark.parametrize("seed", range(60))
def test_spans_come_in_the_order_of_one_stable_sort(seed):
    windows = random_windows(seed)
    longest = 1 + seed % 7
    seen_by = best_seen(windows)
    spans = [
        (window.start[first] + window.end[last], window.first + first, window.first + last)
        for number, window in enumerate(windows)
        for first in range(window.last - window.first)
        if seen_by[window.first + first] == number
        for last in range(first, min(first + longest, window.last - window.first))
    ]
    assert list(best_spans(windows, longest)) == sorted(spans, key=lambda span: -span[0])


def test_memory_grows_with_the_text_and_not_with_its_square():
    def peak(length):
        places = plan_windows(length, 64, 32)
        windows = [Window(a, b, np.zeros(b - a), np.zeros(b - a), 0.0, 0.0) for a, b in places]
        tracemalloc.start()
        next(best_spans(windows, 30))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(32_000) < 12 * peak(4_000)
