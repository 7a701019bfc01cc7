"""What `convbert predict` reads: lines of text, JSON Lines, or the rows of a table, in blocks, with constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from convbert.cli.lines import BLOCK_BYTES, Line, open_stdin, read_blocks
from convbert.finetuning.readers import CONLL_ENDINGS, SPLIT_ENDINGS, Row, ending_of, iter_rows
from convbert.util.errors import InputError
from convbert.util.schema import parse_json

_TABLES = {
    "csv": ".csv",
    "tsv": ".tsv",
    "parquet": ".parquet",
    "conll": ".conll",
    "conllu": ".conllu",
    "json": ".json",
}
"""Format to the ending that the readers of labelled data know it by."""
FORMATS = ("auto", "text", "jsonl", *_TABLES)
_BY_ENDING = {
    **dict.fromkeys(CONLL_ENDINGS, "conll"),
    **{ending: name for name, ending in _TABLES.items()},
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_MAGIC = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
}
_ROWS = 512
"""In a block, at most."""


@dataclass(frozen=True)
class Item:
    """A line or a row to be answered, or why there is none.

    Args:
        number: of the line or the row, from 1.
        place: where it stands, for messages; "" where the error says it.
        size: bytes that it takes in its file, where that is known.
    """

    number: int
    row: Row | InputError
    place: str = ""
    size: int = 0


@dataclass(frozen=True)
class Input:
    """Items in blocks, as they arrive.

    Args:
        unit: what is numbered: "line" or "row".
        format: one of `FORMATS`, but "auto".
        size: bytes in all, where known.
    """

    unit: str
    format: str
    size: int | None
    blocks: Iterator[list[Item]]


@contextmanager
def open_input(
    name: str,
    given: str,
    wanted: Sequence[str],
    *,
    headerless: Sequence[str] = (),
    tags: Sequence[str] = (),
    report: Callable[[str], None],
) -> Iterator[Input]:
    """Open a file, or stdin for "-".

    Args:
        given: one of `FORMATS`; "auto" goes by the ending, and by the first lines where it says nothing.
        wanted: the columns of a table that are read.
        headerless: columns of a table without a header.
        tags: of a tagger: a text file whose lines end with one of them is in CoNLL columns, and so is "eng.testb".
        report: told what the input was taken for.

    Raises:
        InputError: no such file, or one that cannot be read in this format.
    """
    check_input(name, given)
    shown = "stdin" if name == "-" else name
    ending = "" if name == "-" else ending_of(Path(name))
    format_ = given if given != "auto" else _BY_ENDING.get(ending)
    if given == "auto" and tags and ending in SPLIT_ENDINGS:
        format_ = "conll"
    if format_ in _TABLES:
        yield _table(name, format_, wanted, headerless, report)
        return
    with _open(name) as (stream, size):
        blocks = read_blocks(stream, shown)
        first = next(blocks, [])
        if name != "-":  # the last line of a short file, without an end; a pipe may be slow
            first = [*first, *next(blocks, [])]
        if format_ is None:
            format_ = _guess(first, tags if name != "-" else ())
            if format_ != "text":
                report(f"{shown}: is read as {format_} (--format text takes each line as it is)")
        if format_ in _TABLES:
            yield _table(name, format_, wanted, headerless, report)
            return
        yield Input("line", format_, size, _items(chain([first], blocks), format_, shown, report))


def check_input(name: str, given: str) -> None:
    """What can be refused before a model is loaded.

    Raises:
        InputError: see `open_input`.
    """
    if given not in FORMATS:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}; got {given}")
    if name == "-":
        if given in _TABLES:
            raise InputError(f"--format {given} is read from a file: name it by --input")
        peek = getattr(open_stdin(), "peek", lambda size: b"")
        if (kind := _magic_of(peek(4))) is not None:
            raise InputError(f"stdin: is {kind}; name the file by --input")
    elif not Path(name).is_file():
        raise InputError(f"{name}: {'is a folder' if Path(name).is_dir() else 'there is no such file'}")


def _magic_of(beginning: bytes) -> str | None:
    return next((kind for magic, kind in _MAGIC.items() if beginning.startswith(magic)), None)


@contextmanager
def _open(name: str) -> Iterator[tuple[Any, int | None]]:
    """The stream, and how many bytes it has where that is known."""
    if name == "-":
        yield open_stdin(), None
        return
    from convbert.pretraining.corpus.files import open_bytes
    from convbert.pretraining.corpus.sources import COMPRESSIONS, TextFile

    source = TextFile(Path(name), "text", COMPRESSIONS.get(Path(name).suffix.lower()))
    if source.compression is None:
        with open(name, "rb") as raw:
            beginning = raw.read(4)
        if (kind := _magic_of(beginning)) is not None:
            raise InputError(f"{name}: is {kind}: its name should end so, or say --format")
    with open_bytes(source) as (read, _):
        yield SimpleNamespace(read1=read), None if source.compression else source.size


def _guess(lines: Sequence[Line], tags: Sequence[str]) -> str:
    """Of an ending that says nothing: what most lines look like."""
    texts = [text for line in lines if isinstance(line.text, str) and (text := line.text.strip())]
    braced = sum(text.startswith("{") for text in texts)
    if braced and 10 * braced >= 9 * len(texts):  # of JSON Lines a few may be damaged
        objects = sum(isinstance(_parsed(text), dict) for text in texts)
        return "jsonl" if 2 * objects > braced else "text"
    tagged = sum(len(cells := text.split()) > 1 and cells[-1] in tags for text in texts)
    return "conll" if 2 * tagged > len(texts) else "text"


def _parsed(text: str | InputError) -> Any:
    try:
        return parse_json(text) if isinstance(text, str) and text.lstrip().startswith("{") else None
    except InputError:
        return None


def _items(
    blocks: Iterable[list[Line]], format_: str, name: str, report: Callable[[str], None]
) -> Iterator[list[Item]]:
    objects = 0
    for lines in blocks:
        if format_ == "text":
            objects += sum(isinstance(_parsed(line.text), dict) for line in lines)
        yield [Item(line.number, _row(line, format_), line.place, line.size) for line in lines]
    if objects:
        report(f"{name}: {objects:,} lines that look like JSON objects were read as text (see --format)")


def _row(line: Line, format_: str) -> Row | InputError:
    if isinstance(line.text, InputError):
        return line.text
    if not line.text.strip():
        return InputError("is empty")
    if format_ == "text":
        return Row(line.place, {"text": line.text})
    try:
        cells = parse_json(line.text)
    except InputError as error:
        return error
    if not isinstance(cells, dict):
        return InputError(f"a JSON object is wanted, got {line.text!r:.60} (--format text reads plain lines)")
    return Row(line.place, cells)


def _table(
    name: str, format_: str, wanted: Sequence[str], headerless: Sequence[str], report: Callable[[str], None]
) -> Input:
    rows = iter_rows(Path(name), headerless, wanted, report, ending=_TABLES[format_])

    def blocks() -> Iterator[list[Item]]:
        block: list[Item] = []
        characters = 0
        for number, row in enumerate(rows, start=1):
            block.append(Item(number, row, "" if isinstance(row, InputError) else row.place))
            characters += 0 if isinstance(row, InputError) else sum(map(_length, row.cells.values()))
            if len(block) == _ROWS or characters > BLOCK_BYTES:
                yield block
                block, characters = [], 0
        if block:
            yield block

    return Input("row", format_, None, blocks())


def _length(cell: Any) -> int:
    return len(cell) if isinstance(cell, str) else sum(map(_length, cell)) if isinstance(cell, list) else 8
