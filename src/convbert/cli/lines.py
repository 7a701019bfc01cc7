"""Texts from a stream, one per line, in blocks, and an answer for each: memory does not grow with the stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from convbert.util.errors import InputError

Answer = TypeVar("Answer")

BLOCK_BYTES = 1 << 18
LONGEST_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Line:
    """One text, or the reason why there is none.

    Args:
        place: where it stands, for messages: "texts.txt: line 17".
        number: of the line, from 1.
        text: without its line end.
        size: bytes it takes in the stream.
        problem: "" where the text can be used.
    """

    place: str
    number: int
    text: str
    size: int = 0
    problem: str = ""


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
    not UTF-8 or longer than `LONGEST_LINE_BYTES` keep their place, with a problem instead of a text.

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


def answer_lines(
    lines: Sequence[Line], answer: Callable[[list[str]], Iterator[Answer | InputError]]
) -> Iterator[tuple[Line, Answer | InputError]]:
    """Each line with its answer, or with the reason why it has none, in order.

    Args:
        answer: texts to as many answers or errors, in their order.
    """
    found = answer([line.text for line in lines if not line.problem])
    for line in lines:
        yield line, InputError(line.problem) if line.problem else next(found)


def _line(raw: bytes, number: int, name: str) -> Line:
    text, problem = "", ""
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text: byte {error.start + 1} (0x{raw[error.start]:02x}): {error.reason}"
    if len(raw) >= LONGEST_LINE_BYTES:
        text, problem = "", f"longer than {LONGEST_LINE_BYTES >> 20} MiB; one text per line is expected"
    return Line(f"{name}: line {number}", number, text, len(raw) + 1, problem)
