"""Texts from a stream, one per line, in blocks: memory does not grow with the stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from convbert.util.errors import InputError

BLOCK_BYTES = 1 << 18
LONGEST_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Line:
    """One text.

    Args:
        place: where it stands, for messages: "texts.txt: line 17".
        number: of the line, from 1.
        text: without its line end; or why it cannot be used.
        size: bytes it takes in the stream.
    """

    place: str
    number: int
    text: str | InputError
    size: int = 0


def open_stdin() -> BinaryIO:
    """Its bytes.

    Raises:
        InputError: it is closed.
    """
    if sys.stdin is None:
        raise InputError("stdin is closed: there is nothing to read")
    return sys.stdin.buffer


def read_blocks(stream: BinaryIO, name: str) -> Iterator[list[Line]]:
    """Yield the lines that have arrived, as soon as there are any.

    A file comes in blocks of `BLOCK_BYTES`; a slow pipe or a terminal comes as it is written. Lines that are
    not UTF-8 or longer than `LONGEST_LINE_BYTES` keep their place, with an error instead of a text.

    Args:
        stream: buffered; its `read1` returns what is there.
        name: of the stream, for messages.
    """
    number, rest = 0, b""
    while arrived := stream.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
        *whole, rest = (rest + arrived).split(b"\n")
        rest = rest[:LONGEST_LINE_BYTES]  # of a longer line it is enough to know that it is one
        if whole:
            yield [_line(raw, number + place, name) for place, raw in enumerate(whole, start=1)]
        number += len(whole)
    if rest:
        yield [_line(rest, number + 1, name)]


def _line(raw: bytes, number: int, name: str) -> Line:
    text: str | InputError
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        text = InputError(
            f"not UTF-8 text: byte {error.start + 1} (0x{raw[error.start]:02x}): {error.reason}"
        )
    if len(raw) >= LONGEST_LINE_BYTES:
        text = InputError(f"longer than {LONGEST_LINE_BYTES >> 20} MiB; one text per line is expected")
    return Line(f"{name}: line {number}", number, text, len(raw) + 1)
