"""Which parts of a text that is too long for a model are read together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from convbert.util.errors import InputError

Long = Literal["windows", "cut", "refuse"]
"""What is done with a text that is too long: all of it is read, in windows; its beginning; or there is an error."""
LONG: tuple[Long, ...] = ("windows", "cut", "refuse")
OVERLAP = 4
"""Neighbouring windows on a text to be tagged share one `OVERLAP`th of their tokens."""


def check_long(given: Any, name: str = "long") -> Long:
    """Refuse what is none of the three."""
    if given not in LONG:
        raise InputError(f"{name} must be one of {', '.join(LONG)}; got {given!r}")
    return cast(Long, given)


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


def share_windows(texts: Sequence[int | None], size: int) -> tuple[list[list[int]], bool]:
    """As few windows as show every token of a text once, each about as many.

    Of a pair, the longer text is shared out, and the other one is in every window: its first tokens, if it would take
    more than half of the room.

    Args:
        texts: (T,) the number of the text that a token is of, 0 or 1, or None for a special token, which is in every
            window.
        size: tokens of a window, at most.

    Returns:
        The tokens of each window, by their places in `texts`; and whether some are in none.

    Raises:
        InputError: there is no room beside the special tokens.
    """
    own = [[place for place, text in enumerate(texts) if text == number] for number in (0, 1)]
    special = [place for place, text in enumerate(texts) if text is None]
    room = size - len(special)
    if room < 1:
        raise InputError(f"windows of {size} tokens have no room beside {len(special)} special ones")
    other, shared = sorted(own, key=len)
    shown = other[: room // 2]
    count = -(-len(shared) // (room - len(shown)))
    bounds = pairwise(len(shared) * number // count for number in range(count + 1))
    return [sorted(special + shown + shared[first:last]) for first, last in bounds], len(shown) < len(other)


def windows_around(places: Sequence[int], texts: Sequence[int | None], size: int) -> list[list[int]]:
    """Windows in whose middle halves some tokens of one text stand, as far as the text goes on at both sides; see
    `share_windows`.
    """
    inner = [place for place, text in enumerate(texts) if text is not None]
    special = [place for place, text in enumerate(texts) if text is None]
    room = size - len(special)
    wanted = np.searchsorted(inner, places).tolist()
    windows = []
    while wanted:
        group = [each for each in wanted if each - wanted[0] <= room // 2]
        first = min(max(0, (group[0] + group[-1] + 1 - room) // 2), max(0, len(inner) - room))
        windows.append(sorted(special + inner[first : first + room]))
        wanted = wanted[len(group) :]
    return windows


def text_numbers(encoded: Any) -> list[int | None]:
    """Of a text or a pair that a tokenizer has read, with `return_special_tokens_mask`: see `share_windows`."""
    if encoded.encodings:
        return list(encoded.encodings[0].sequence_ids)
    pairs = zip(encoded["special_tokens_mask"], encoded["token_type_ids"], strict=True)
    return [None if is_special else number for is_special, number in pairs]


def most_context(windows: Sequence[tuple[int, int]], *, longer_wins: bool = False) -> NDArray[np.int64]:
    """Per token of a text, the number of the window, given by first and last (exclusive) token, that sees it with most
    context around it: on the shorter of the two sides. Of equals the first, or the longer one.
    """
    length = max(last for _, last in windows)
    most, seen_by = np.full(length, -1.0), np.zeros(length, np.int64)
    for number, (first, last) in enumerate(windows):
        before = np.arange(last - first)
        context = np.minimum(before, before[::-1]) + (0.01 * len(before) if longer_wins else 0.0)
        better = context > most[first:last]
        most[first:last][better] = context[better]
        seen_by[first:last][better] = number
    return seen_by
