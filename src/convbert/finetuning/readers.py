"""Files of labelled data to tables: TSV, CSV, JSON Lines, Parquet, CoNLL columns, CoNLL-U and SQuAD JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbert.errors import InputError
from convbert.optional import require
from convbert.schema import parse_json


@dataclass(frozen=True)
class Row:
    """One row: its place, for messages ("train.tsv: line 17"), and its cells by column."""

    place: str
    cells: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """What a file holds; `columns` are in the order of the file, and `skipped` counts rows that were left out."""

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]
    skipped: int = 0

    def check_columns(self, wanted: Sequence[str]) -> None:
        """Refuse a file that lacks a column, or has it twice; the message names those it has."""
        for column in wanted:
            if column not in self.columns:
                raise InputError(
                    f"{self.path}: there is no column {column!r}; there are {', '.join(self.columns)}"
                )
            if self.columns.count(column) > 1:
                raise InputError(f"{self.path}: {self.columns.count(column)} columns are named {column!r}")


def read_table(
    path: Path, headerless: Sequence[str] = (), wanted: Sequence[str] = (), *, skip_broken: bool = False
) -> Table:
    """Read a file by the ending of its name.

    `.tsv` has no quoting, `.csv` has. Both have a header, unless their first line names none of the columns `wanted`
    and has as many cells as `headerless`. `.jsonl` has an object a line, `.json` is SQuAD's. `.conll` (`.iob`,
    `.bio`, `.txt` with one token a line) has the token first and its tag last, `.conllu` is Universal Dependencies'.

    Args:
        skip_broken: leave out rows of TSV and CSV with another number of cells, or with nothing in a column `wanted`.

    Raises:
        InputError: no such file, an ending that is not known, not UTF-8, empty, or a damaged line, which is named.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise InputError(
            f"{path}: what is in a {path.suffix or 'nameless'} file? {', '.join(_READERS)} are read"
        )
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.suffix in (".tsv", ".csv"):
        table = _read_delimited(path, headerless, wanted, skip_broken)
    else:
        table = reader(path)
    if not table.rows:
        raise InputError(f"{path}: has no rows")
    return table


def read_text(path: Path) -> str:
    """The whole file.

    Raises:
        InputError: it is empty, or not UTF-8; the message names the line.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line}: not UTF-8 text (byte 0x{raw[error.start]:02x})") from error
    if not text.strip():
        raise InputError(f"{path}: is empty")
    return text


def _read_delimited(
    path: Path, headerless: Sequence[str] = (), wanted: Sequence[str] = (), skip_broken: bool = False
) -> Table:
    lines = list(_csv_lines(path) if path.suffix == ".csv" else _tsv_lines(path))
    first = lines[0][1]
    has_header = not headerless or bool(set(wanted) & set(first)) or len(first) != len(headerless)
    columns = tuple(first if has_header else headerless)
    rows, skipped = [], 0
    for number, cells in lines[has_header:]:
        by_column = dict(zip(columns, cells, strict=False))
        if len(cells) == len(columns) and not (skip_broken and _lacks_a_cell(by_column, wanted)):
            rows.append(Row(f"{path}: line {number}", by_column))
        elif skip_broken:
            skipped += 1
        else:
            raise InputError(f"{path}: line {number}: {len(cells)} cells for the {len(columns)} columns")
    return Table(path, columns, rows, skipped)


def _lacks_a_cell(cells: dict[str, str], wanted: Sequence[str]) -> bool:
    return any(column in cells and not cells[column].strip() for column in wanted)


def _tsv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r").split("\t")


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    first_line = 1
    usual_limit = csv.field_size_limit(max(len(text), 1 << 17))
    try:
        for cells in reader:
            if cells:
                yield first_line, cells
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}: line {first_line}: not CSV ({error})") from error
    finally:
        csv.field_size_limit(usual_limit)


def _read_json_lines(path: Path) -> Table:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = parse_json(line)
        except InputError as error:
            raise InputError(f"{path}: line {number}: {error}") from error
        if not isinstance(cells, dict):
            raise InputError(f"{path}: line {number}: an object is wanted, got {type(cells).__name__}")
        rows.append(Row(f"{path}: line {number}", cells))
    return _with_columns(path, rows)


def _read_parquet(path: Path) -> Table:
    require("train", f"reading {path}")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error
    rows = [Row(f"{path}: row {number}", cells) for number, cells in enumerate(table.to_pylist(), start=1)]
    return Table(path, tuple(table.column_names), rows)


def _with_columns(path: Path, rows: list[Row]) -> Table:
    """Columns are those that any row has; a row without one of them is refused where it is read."""
    return Table(path, tuple(dict.fromkeys(column for row in rows for column in row.cells)), rows)


def _read_conll(path: Path) -> Table:
    """Token first, tag last, separated by tabs or else by spaces; an empty line ends a sentence."""
    sentences = _read_sentences(path, is_conllu=False)
    return Table(path, ("tokens", "tags"), list(sentences))


def _read_conllu(path: Path) -> Table:
    """The words of CoNLL-U with their universal part of speech (`tags`, UPOS) and the language's own (`xpos`)."""
    sentences = _read_sentences(path, is_conllu=True)
    return Table(path, ("tokens", "tags", "xpos"), list(sentences))


def _read_sentences(path: Path, is_conllu: bool) -> Iterator[Row]:
    names = ("tokens", "tags", "xpos") if is_conllu else ("tokens", "tags")
    columns: list[tuple[str, ...]] = []
    start = 1
    for number, line in enumerate([*read_text(path).split("\n"), ""], start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            if columns:
                cells = {
                    name: list(column) for name, column in zip(names, zip(*columns, strict=True), strict=True)
                }
                yield Row(f"{path}: line {start}", cells)
            columns = []
        elif not (is_conllu and line.startswith("#")) and not line.startswith("-DOCSTART-"):
            if not columns:
                start = number
            word = _conllu_word(path, number, line) if is_conllu else _conll_word(path, number, line)
            if word is not None:
                columns.append(word)


def _conll_word(path: Path, number: int, line: str) -> tuple[str, str]:
    # A no-break space is part of a token, as in "10\u00a0000".
    cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
    if len(cells) < 2 or not cells[-1].strip():
        raise InputError(f"{path}: line {number}: a token and its tag are wanted, got {line!r}")
    return cells[0], cells[-1].strip()


def _conllu_word(path: Path, number: int, line: str) -> tuple[str, str, str] | None:
    cells = line.split("\t")
    if len(cells) != 10:
        raise InputError(f"{path}: line {number}: CoNLL-U has 10 columns, got {len(cells)}")
    # A range such as 1-2 stands for the words after it, and 1.1 for a word that is not in the text.
    return (cells[1], cells[3], cells[4]) if cells[0].isdigit() else None


def _read_squad(path: Path) -> Table:
    """A row for each question: `id`, `question`, `context` and `answers`, a list of (text, character offset).

    In test data no question has `answers`, and there is no such column.
    """
    text = read_text(path)
    try:
        rows = [
            _squad_row(path, paragraph, question)
            for article in parse_json(text)["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not SQuAD JSON ({type(error).__name__}: {error})") from error
    columns = ("id", "question", "context")
    return Table(
        path, (*columns, "answers") if any("answers" in row.cells for row in rows) else columns, rows
    )


def _squad_row(path: Path, paragraph: dict[str, Any], question: dict[str, Any]) -> Row:
    cells = {
        "id": str(question["id"]),
        "question": question["question"],
        "context": paragraph["context"],
    }
    if "answers" in question:
        cells["answers"] = [(answer["text"], answer["answer_start"]) for answer in question["answers"]]
    return Row(f"{path}: question {question.get('id', '')!r}", cells)


_READERS = {
    ".tsv": _read_delimited,
    ".csv": _read_delimited,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
    ".json": _read_squad,
    ".conll": _read_conll,
    ".iob": _read_conll,
    ".bio": _read_conll,
    ".txt": _read_conll,
    ".conllu": _read_conllu,
}
ENDINGS = tuple(_READERS)
"""Of the files that `read_table` reads."""
