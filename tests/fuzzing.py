"""Damage to files, drawn at random from a seed, and what every reader owes to whoever gives it such a file."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from convbert import InputError

HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**9, -(10**18), 1.5, 1e308),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "text", "32", "NaN", "../../etc/passwd", "/etc/passwd", "\x00", "\ud800", "é" * 300),
    *([], [1], ["a", {}], [[]], {}, {"a": 1}, {"0": None}),
]


def damaged_json(content: Any, seed: int) -> Any:
    """A copy with one to three values replaced, removed, renamed or doubled."""
    draw = random.Random(seed)
    content = copy.deepcopy(content)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        content = _damage_one(content, draw)
    return content


def damaged_bytes(raw: bytes, seed: int) -> bytes:
    """A copy that is cut, or with bytes changed, inserted or removed."""
    draw = random.Random(seed)
    kind = draw.randrange(5)
    at = draw.randrange(len(raw) + 1)
    if kind == 0:
        return raw[:at]
    if kind == 1:
        return raw[:at] + bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9))) + raw[at:]
    if kind == 2:
        return (
            raw[:at]
            + draw.choice(
                [b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b"{", b"\xed\xa0\x80"]
            )
            + raw[at:]
        )
    if kind == 3:
        return raw[:at] + raw[at + draw.randrange(1, 65) :]
    changed = bytearray(raw)
    for _ in range(draw.randrange(1, 9)):
        if changed:
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def outcome(call: Callable[[], Any]) -> str:
    """ "answered" or "refused" (with a reason); every other exception, a crash of the reader, goes through."""
    try:
        call()
    except InputError as error:
        return "refused" if str(error).strip() else "refused without a word"
    return "answered"


def _damage_one(content: Any, draw: random.Random) -> Any:
    places = list(_places(content))
    if not places:
        return draw.choice(HOSTILE)
    parent, key = draw.choice(places)
    kind = draw.randrange(10)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[draw.choice(["", "x", "__class__", f"{key} "])] = parent.pop(key)
    elif kind == 2 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    else:
        parent[key] = copy.deepcopy(draw.choice(HOSTILE))
    return content


def _places(content: Any) -> Any:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])
