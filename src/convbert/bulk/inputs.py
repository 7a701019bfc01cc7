"""Texts and rows to be answered, from a stream or a file, in blocks: memory does not grow with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any

from convbert.files.lines import check_file, open_stream
from convbert.util.errors import InputError

TABLES = ("csv", "tsv", "parquet", "conll", "conllu", "json")
"""Formats that the readers of labelled data know by the ending of this name."""
FORMATS = ("auto", "text", "jsonl", *TABLES)
_MAGIC = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
}
_BLOCK_BYTES = 1 << 18
_BLOCK_ROWS = 512
LONGEST_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Item:
    """A line or a row to be answered.

    Args:
        number: of the line or the row, from 1.
        content: a text, a `Row` of cells, or an `InputError` that says why it cannot be used.
        place: where it stands, for messages ("texts.txt: line 17"); "" where the error says it.
        size: bytes that it takes in its file, where that is known.
    """

    number: int
    content: Any
    place: str = ""
    size: int = 0


@dataclass(frozen=True)
class Input:
    """Items in blocks, as they arrive; "line" or "row" is what is numbered, and `size` is in bytes, where known."""

    unit: str
    format: str
    size: int | None
    blocks: Iterator[list[Item]]


def open_input(
    name: str,
    given: str,
    wanted: Sequence[str],
    *,
    headerless: Sequence[str] = (),
    tags: Sequence[str] = (),
    report: Callable[[str], None],
) -> Input:
    """Open a file, or stdin for "-".

    Args:
        given: one of `FORMATS`; "auto" goes by the ending, and by the first lines where it says nothing.
        wanted, headerless: the columns of a table that are read; those of one without a header.
        tags: of a tagger: a text file whose lines end with one of them is in CoNLL columns, and so is "eng.testb".
        report: told what the input was taken for.
    """
    check_input(name, given)
    shown = "stdin" if name == "-" else name
    format_ = given if given != "auto" else format_of(name, bool(tags))
    if format_ not in TABLES:
        blocks, size = open_lines(name)
        first = next(blocks, [])
        if name != "-":  # the last line of a short file, without an end; a pipe may be slow
            first = [*first, *next(blocks, [])]
        if format_ is None:
            format_ = _guess(first, tags if name != "-" else ())
            if format_ != "text":
                report(f"{shown}: is read as {format_} (--format text takes each line as it is)")
        if format_ not in TABLES:
            return Input("line", format_, size, _read_cells(chain([first], blocks), format_, shown, report))
    return Input("row", format_, None, _read_rows(name, format_, wanted, headerless, report))


def check_input(name: str, given: str) -> None:
    """What can be refused before a model is loaded; see `open_input`."""
    if given not in FORMATS:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}; got {given}")
    if name != "-":
        check_file(Path(name))
    elif given in TABLES:
        raise InputError(f"--format {given} is read from a file: name it by --input")
    elif kind := _magic_of(getattr(_stdin(), "peek", lambda size: b"")(4)):
        raise InputError(f"stdin: is {kind}; name the file by --input")


def open_lines(name: str) -> tuple[Iterator[list[Item]], int | None]:
    """The lines of a file, which may be compressed, or of stdin for "-"; and its bytes, where that is known."""
    if name == "-":
        return read_blocks(_stdin(), "stdin"), None
    ending = Path(name).suffix.lower()
    compression = ending if ending in (".gz", ".zst") else ""

    def blocks() -> Iterator[list[Item]]:
        with open_stream(Path(name), compression) as (stream, _):
            if not compression and (kind := _magic_of(stream.peek(4))):  # type: ignore[attr-defined]
                raise InputError(f"{name}: is {kind}: its name should end so, or say --format")
            yield from read_blocks(stream, name)

    return blocks(), None if compression else Path(name).stat().st_size


def read_blocks(stream: IO[bytes], name: str) -> Iterator[list[Item]]:
    """The lines that have arrived, as soon as there are any: a file in blocks, a slow pipe as it is written (`read1`).
    Lines that are not UTF-8 or longer than `LONGEST_LINE_BYTES` keep their place, with an error instead of a text.
    """
    number, rest = 0, b""
    while arrived := stream.read1(_BLOCK_BYTES):  # type: ignore[attr-defined]
        *whole, rest = (rest + arrived).split(b"\n")
        rest = rest[:LONGEST_LINE_BYTES]  # of a longer line it is enough to know that it is one
        if whole:
            yield [_read_line(raw, number + place, name) for place, raw in enumerate(whole, start=1)]
        number += len(whole)
    if rest:
        yield [_read_line(rest, number + 1, name)]


def _read_line(raw: bytes, number: int, name: str) -> Item:
    text: str | InputError
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        text = InputError(
            f"not UTF-8 text: byte {error.start + 1} (0x{raw[error.start]:02x}): {error.reason}"
        )
    if len(raw) >= LONGEST_LINE_BYTES:
        text = InputError(f"longer than {LONGEST_LINE_BYTES >> 20} MiB; one text per line is expected")
    return Item(number, text, f"{name}: line {number}", len(raw) + 1)


def _stdin() -> IO[bytes]:
    if sys.stdin is None:
        raise InputError("stdin is closed: there is nothing to read")
    return sys.stdin.buffer


def _magic_of(beginning: bytes) -> str | None:
    return next((kind for magic, kind in _MAGIC.items() if beginning.startswith(magic)), None)


def format_of(name: str, is_for_tags: bool) -> str | None:
    """By the ending of a file's name; None where that says nothing."""
    from convbert.finetuning.readers import CONLL_ENDINGS, SPLIT_ENDINGS, ending_of

    ending = "" if name == "-" else ending_of(Path(name))
    if ending.removeprefix(".") in FORMATS[2:] and ending:
        return ending.removeprefix(".")
    if ending in CONLL_ENDINGS or (is_for_tags and ending in SPLIT_ENDINGS):
        return "conll"
    return "jsonl" if ending == ".ndjson" else None


def _guess(lines: Sequence[Item], tags: Sequence[str]) -> str:
    """Of an ending that says nothing: what most lines look like."""
    texts = [text for line in lines if isinstance(line.content, str) and (text := line.content.strip())]
    braced = sum(text.startswith("{") for text in texts)
    if braced and 10 * braced >= 9 * len(texts):  # of JSON Lines a few may be damaged
        return "jsonl" if 2 * sum(map(_is_object, texts)) > braced else "text"
    tagged = sum(len(cells := text.split()) > 1 and cells[-1] in tags for text in texts)
    return "conll" if 2 * tagged > len(texts) else "text"


def _is_object(text: str | InputError) -> bool:
    from convbert.util.schema import parse_json

    if isinstance(text, InputError) or not text.lstrip().startswith("{"):
        return False
    try:
        parse_json(text)
    except InputError:
        return False
    return True


def _read_cells(
    blocks: Iterator[list[Item]], format_: str, name: str, report: Callable[[str], None]
) -> Iterator[list[Item]]:
    """Lines as rows: of one cell, `text`, or of the object that they hold."""
    from convbert.finetuning.cells import Row
    from convbert.util.schema import parse_json

    def row(line: Item) -> Any:
        if isinstance(line.content, InputError):
            return line.content
        if not line.content.strip():
            return InputError("is empty")
        try:
            cells = {"text": line.content} if format_ == "text" else parse_json(line.content)
        except InputError as error:
            return error
        if isinstance(cells, dict):
            return Row(line.place, cells)
        return InputError(
            f"a JSON object is wanted, got {line.content!r:.60} (--format text reads plain lines)"
        )

    objects = 0
    for lines in blocks:
        objects += sum(_is_object(line.content) for line in lines) if format_ == "text" else 0
        yield [replace(line, content=row(line)) for line in lines]
    if objects:
        report(f"{name}: {objects:,} lines that look like JSON objects were read as text (see --format)")


def _read_rows(
    name: str, format_: str, wanted: Sequence[str], headerless: Sequence[str], report: Callable[[str], None]
) -> Iterator[list[Item]]:
    from convbert.finetuning.readers import iter_rows

    block: list[Item] = []
    size = 0
    for number, row in enumerate(iter_rows(Path(name), headerless, wanted, report, f".{format_}"), start=1):
        if isinstance(row, InputError):
            block.append(Item(number, row))
        else:
            block.append(Item(number, row, row.place))
            size += sum(_length(cell) for cell in row.cells.values())
        if len(block) == _BLOCK_ROWS or size > _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _length(cell: Any) -> int:
    return len(cell) if isinstance(cell, str) else sum(map(_length, cell)) if isinstance(cell, list) else 8
