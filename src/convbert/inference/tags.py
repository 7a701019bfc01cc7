"""Tags that say where spans begin and end, in the spellings that people use, and the spans they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

UNTYPED = "ENTITY"
"""The type of spans whose tags name none: B, I and O alone."""

_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
"""Of BIO, IOBES, BILOU and BMES, in the letters of IOBES."""
_PATTERNS = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        *(r"(?P<letter>[BIMELSUW])[-_:/|](?P<type>.+)", r"(?P<letter>[bimelsuw])[-_:/|](?P<type>.+)"),
        *(r"(?P<type>.+)[-_:/|](?P<letter>[BIMELSUW])", r"(?P<type>.+)[-_:/|](?P<letter>[bimelsuw])"),
        *(r"(?P<letter>[BIMELSUW])", r"(?P<letter>[bimelsuw])"),
    )
]
_BARE = re.compile(r"(?P<type>.+)", re.DOTALL)
_OUTSIDE = ("O", "o")
_PADDING = ("X", "[PAD]", "[CLS]", "[SEP]")
"""Tags of word pieces, in data that was cut into them."""

Part = tuple[str, str]
"""A letter of B, I, E, S, or "O" or "X", and a type."""


@dataclass(frozen=True)
class Scheme:
    """How a set of tags is to be read: "BIO", "IOBES", ...; tag to its letter, in those of IOBES, and type; tags that
    do not fit; and what a reader should know, "" for plain BIO.
    """

    name: str
    parts: Mapping[str, Part]
    unknown: tuple[str, ...] = ()
    note: str = ""

    @property
    def types(self) -> set[str]:
        """The types of spans."""
        return {kind for letter, kind in self.parts.values() if letter not in "OX"}

    @property
    def marks_spans(self) -> bool:
        """Whether these are tags of entities, not parts of speech of which one is called "I"."""
        return bool(self.types) and (not self.unknown or any(tag[:2] in ("B-", "I-") for tag in self.parts))


def read_scheme(tags: Iterable[str], *, may_be_bare: bool = True) -> Scheme:
    """The scheme that fits a set of tags, or most of them; beside an "O", types without a letter may be entities, too
    (`may_be_bare`).
    """
    names = sorted(set(tags))
    inside = [name for name in names if name not in _OUTSIDE]
    marked = [name for name in inside if name not in _PADDING]
    found = [(pattern, [name for name in marked if pattern.fullmatch(name)]) for pattern in _PATTERNS]
    pattern, fitting = max(found, key=lambda each: len(each[1]))
    if not fitting and may_be_bare and len(inside) < len(names):
        pattern, fitting, marked = _BARE, inside, inside
    parts: dict[str, Part] = {name: ("O", "") for name in names if name in _OUTSIDE}
    letters = set()
    for match in filter(None, map(pattern.fullmatch, fitting)):
        groups = {"letter": "I", "type": UNTYPED, **match.groupdict()}
        letters.add(groups["letter"].upper())
        parts[match[0]] = _LETTERS[groups["letter"].upper()], groups["type"]
    parts |= {name: ("X", "") for name in inside if name in _PADDING and name not in parts}
    unknown = tuple(name for name in marked if name not in parts)
    title = _name(letters)
    return Scheme(title, parts, unknown, _note(title, pattern, fitting, parts))


@lru_cache(maxsize=4096)
def scheme_of(tags: frozenset[str], may_be_bare: bool = False) -> Scheme:
    """As `read_scheme`, remembered: of the labels of a model, or the tags of a sentence."""
    return read_scheme(tags, may_be_bare=may_be_bare)


def _name(letters: set[str]) -> str:
    if letters & {"L", "U"}:
        return "BILOU"
    if letters & {"M", "W"}:
        return "BMES"
    if letters & {"E", "S"}:
        return "IOBES" if letters & {"B", "S"} else "IOE"
    return "BIO" if "B" in letters or not letters else "IO"


def _note(title: str, pattern: re.Pattern[str], fitting: Sequence[str], parts: Mapping[str, Part]) -> str:
    notes = []
    if fitting and (
        title != "BIO" or pattern is not _PATTERNS[0] or any(name[1:2] != "-" for name in fitting)
    ):
        notes.append(f"tags are read as {title}, written as in {fitting[0]!r}")
    if pattern in _PATTERNS[4:] and fitting:
        notes.append(f"they name no type, so there is one, {UNTYPED}")
    if padding := [name for name, (letter, _) in parts.items() if letter == "X"]:
        notes.append(f"{padding[0]} goes on with the tag before it")
    return "; ".join(notes)


def as_bio(tags: Sequence[str], parts: Mapping[str, Part] | None = None) -> tuple[str, ...]:
    """Tags of any scheme (`parts`, by default that of these tags) as BIO: B begins every span; a tag without a part is
    outside. As CoNLL's own evaluation reads them, an I or E that continues nothing begins a span.
    """
    parts = scheme_of(frozenset(tags)).parts if parts is None else parts
    found: list[str] = []
    current = ""  # the type that an I would go on with
    for tag in tags:
        letter, kind = parts.get(tag, ("O", ""))
        if letter == "X":
            letter, kind = ("I", current) if current else ("O", "")
        if letter == "O":
            found.append("O")
            current = ""
            continue
        goes_on = letter in "IE" and current == kind
        found.append(f"{'I' if goes_on else 'B'}-{kind}")
        current = "" if letter in "ES" else kind
    return tuple(found)


def group_tags(tags: Sequence[str], parts: Mapping[str, Part] | None = None) -> list[tuple[str, int, int]]:
    """(type, first token, last token) of every entity, and of every gap, whose type is ""; see `as_bio`."""
    groups: list[tuple[str, int, int]] = []
    before = ""
    for index, tag in enumerate(as_bio(tags, parts)):
        if tag.startswith("B-") or (tag == "O") != (before == "O"):
            groups.append((tag[2:], index, index))
        groups[-1] = (*groups[-1][:2], index)
        before = tag
    return groups


def entity_spans(tags: Sequence[str], parts: Mapping[str, Part] | None = None) -> set[tuple[str, int, int]]:
    """Those of `group_tags` that are entities."""
    return {group for group in group_tags(tags, parts) if group[0]}
