"""Files of labelled data to rows: TSV, CSV, JSON, JSON Lines, Parquet, CoNLL columns, CoNLL-U and SQuAD."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from convbert.files.lines import numbered_lines, without_ends
from convbert.finetuning.cells import Read, Report, Row
from convbert.finetuning.conll import read_sentences
from convbert.inference.tags import read_scheme
from convbert.util.errors import InputError
from convbert.util.optional import require
from convbert.util.schema import Schema, check, parse_json


@dataclass(frozen=True)
class Table:
    """What a file holds; `columns` are in the order of the file."""

    path: Path
    columns: tuple[str, ...]
    rows: list[Read]

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
    path: Path,
    headerless: Sequence[str] = (),
    wanted: Sequence[str] = (),
    report: Report = lambda message: None,
) -> Table:
    """Read a file by the ending of its name; see `iter_rows`. An `InputError` refuses it where it is missing or
    damaged as a whole.
    """
    columns, rows = _open(path, headerless, wanted, report, None)
    found = list(rows)
    if not found:
        raise InputError(f"{path}: has no rows")
    if columns is None:  # those that any row has; a row without one of them is refused where it is read
        columns = tuple(dict.fromkeys(name for row in found if isinstance(row, Row) for name in row.cells))
    return Table(path, columns, found)


def iter_rows(
    path: Path,
    headerless: Sequence[str] = (),
    wanted: Sequence[str] = (),
    report: Report = lambda message: None,
    ending: str | None = None,
) -> Iterator[Read]:
    """The rows of a file as they come; memory does not grow with a TSV, CSV, JSON Lines or Parquet file.

    `.tsv` has no quoting, `.csv` has, and is separated by commas, semicolons or tabs. Both have a header, unless their
    first line names none of the columns `wanted` and has as many cells as `headerless`. `.jsonl` has an object a line;
    `.json` is SQuAD's, a list of objects, or JSON Lines. `.conll` and its like have a token a line, see `conll`. The
    text formats may be compressed: `.gz`, `.zst`.

    Args:
        report: told what was recognised: another separator, columns.
        ending: read the file as if its name ended so.

    Raises:
        InputError: as `read_table`; what is wrong with one row alone takes the row's place instead.
    """
    yield from _open(path, headerless, wanted, report, ending)[1]


def ending_of(path: Path) -> str:
    """The ending in lower case, without that of compression: ".csv" of "A.CSV.gz"."""
    return _split_name(path)[0]


def _split_name(path: Path) -> tuple[str, str]:
    *_, before, last = ("", "", *map(str.lower, path.suffixes))
    return (before, last) if last in _COMPRESSIONS else (last, "")


_COMPRESSIONS = (".gz", ".zst")
_Opened = tuple[tuple[str, ...] | None, Iterator[Read]]
"""The columns, where they are known beforehand, and the rows."""


def _open(
    path: Path, headerless: Sequence[str], wanted: Sequence[str], report: Report, ending: str | None
) -> _Opened:
    own, compression = _split_name(path)
    kind = ending or own
    if kind not in ENDINGS or (kind == ".parquet" and compression):
        raise InputError(
            f"{path}: what is in a {own + compression or 'nameless'} file? {', '.join(ENDINGS)} are read"
        )
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if kind == ".parquet":
        return _read_parquet(path)
    lines = numbered_lines(path, compression)
    if kind == ".tsv":
        lines, kind = _look_for_tokens(lines, wanted)
    if kind in (".tsv", ".csv"):
        cells = _csv_cells(path, lines, wanted, report) if kind == ".csv" else _tsv_cells(lines)
        first = next(cells, None)
        if first is None or isinstance(first, InputError):
            raise first or InputError(f"{path}: has no rows")
        names = first[1]
        has_header = not headerless or bool(set(wanted) & set(names)) or len(names) != len(headerless)
        columns = tuple(names if has_header else headerless)
        rows = cells if has_header else chain([first], cells)
        return columns, (_row(path, columns, found) for found in rows)
    if kind == ".json":
        return None, _read_json(path, lines)
    if kind in (".jsonl", ".ndjson"):
        return None, _read_json_lines(path, lines)
    tokens, sentences = read_sentences(path, without_ends(lines), wanted, report)
    return tokens, iter(sentences)


def _look_for_tokens(
    lines: Iterator[tuple[int, str]], wanted: Sequence[str]
) -> tuple[Iterator[tuple[int, str]], str]:
    """GermEval's files end with .tsv, and have a token a line and no header: the same lines, and how to read them."""
    begin: list[tuple[int, str]] = []
    for number, line in lines:
        begin.append((number, line))
        if line.strip() and not line.startswith("#"):
            break
    cells = begin[-1][1].split("\t") if begin else []
    is_header = set(cells) & set(wanted) or read_scheme([cells[-1].strip()] if cells else []).unknown
    is_conll = "tokens" in wanted and len(cells) > 1 and not is_header
    return chain(begin, lines), ".conll" if is_conll else ".tsv"


_Cells = tuple[int, list[str]] | InputError


def _row(path: Path, columns: Sequence[str], found: _Cells) -> Read:
    if isinstance(found, InputError):
        return found
    number, cells = found
    if len(cells) != len(columns):
        return InputError(f"{path}: line {number}: {len(cells)} cells for the {len(columns)} columns")
    return Row(f"{path}: line {number}", dict(zip(columns, cells, strict=True)))


def _tsv_cells(lines: Iterable[tuple[int, str]]) -> Iterator[_Cells]:
    return ((number, line.split("\t")) for number, line in without_ends(lines) if line.strip())


def _csv_cells(
    path: Path, lines: Iterator[tuple[int, str]], wanted: Sequence[str], report: Report
) -> Iterator[_Cells]:
    lines = ((number, part) for number, line in lines for part in _AFTER_RETURN.split(line))
    number, header = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    said = re.fullmatch(r"sep=(.)\s*", header)  # Excel's own first line
    separator = said[1] if said else _separator(header, wanted)
    if separator != ",":
        report(f"{path}: cells are separated by {separator!r}")
    texts = chain([] if said else [header], (line for _, line in lines))
    reader = csv.reader(texts, strict=True, delimiter=separator)
    skipped = number - (0 if said else 1)
    usual_limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        while True:
            first_line = skipped + reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield InputError(f"{path}: line {first_line}: not CSV ({error})")
                continue
            if cells:
                yield first_line, cells
    finally:
        csv.field_size_limit(usual_limit)


_LONGEST_CELL = 1 << 27  # of the csv module, which has 131,072
_AFTER_RETURN = re.compile(r"(?<=\r)(?!\n|$)")


def _separator(header: str, wanted: Sequence[str]) -> str:
    """A comma, unless another one finds columns that are wanted, or alone finds more than one."""
    found: dict[str, list[str]] = {separator: [] for separator in ",;\t|"}
    for separator in found:
        with suppress(csv.Error):
            found[separator] = next(csv.reader([header], delimiter=separator), [])
    by_name = max(found, key=lambda each: len(set(wanted) & set(found[each])))  # the first of equals
    if set(wanted) & set(found[by_name]):
        return by_name
    return "," if len(found[","]) > 1 else max(found, key=lambda each: len(found[each]))


def _read_json_lines(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Read]:
    for number, line in lines:
        if line.strip():
            try:
                cells = parse_json(line)
            except InputError as error:
                yield InputError(f"{path}: line {number}: {error}")
                continue
            yield _row_or_error(f"{path}: line {number}", cells)


def _row_or_error(place: str, cells: Any) -> Read:
    if not isinstance(cells, dict):
        return InputError(f"{place}: an object is wanted, got {type(cells).__name__}")
    return Row(place, cells)


def _read_json(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Read]:
    """SQuAD's articles, with or without "data" around them, a list of objects, or an object a line.

    A question has `id`, `question`, `context` and `answers`, a list; in test data it has none.
    """
    kept = list(lines)
    try:
        content = parse_json("".join(line for _, line in kept))
    except InputError as error:
        objects = [line for _, line in kept if line.strip()]
        if len(objects) > 1 and all(line.lstrip().startswith("{") for line in objects[:2]):
            yield from _read_json_lines(path, kept)
            return
        raise InputError(f"{path}: {error}") from error
    if isinstance(content, dict) and content.keys() & {"paragraphs", "qas"}:
        content = [content]
    elif isinstance(content, dict):
        content = content.get("data")
    if not isinstance(content, list):
        raise InputError(
            f'{path}: neither SQuAD JSON (no list "data"), nor a list of objects, nor JSON Lines'
        )
    for number, item in enumerate(content, start=1):
        place = f"{path}: item {number}"
        if isinstance(item, dict) and item.keys() & {"paragraphs", "qas"}:
            yield from _read_questions(path, place, item)
        else:
            yield _row_or_error(place, item)


class _Group(Schema):
    paragraphs: list[dict[str, Any]] | None = None
    qas: list[dict[str, Any]] | None = None


class _Question(Schema):
    id: str | int | None = None


def _read_questions(path: Path, place: str, item: dict[str, Any]) -> Iterator[Read]:
    """The questions of an article ("paragraphs"), or of a paragraph ("qas")."""
    try:
        group = check(_Group, item, place)
        if group.paragraphs is None and group.qas is None:
            raise InputError(f"{place}: qas: Field required")
    except InputError as error:
        yield error
        return
    for number, question in enumerate(group.qas or (), start=1):
        yield _read_question(path, f"{place}: question {number}", item, question)
    for number, paragraph in enumerate((group.paragraphs or ()) if group.qas is None else (), start=1):
        yield from _read_questions(path, f"{place}: paragraph {number}", paragraph)


def _read_question(path: Path, place: str, paragraph: dict[str, Any], question: dict[str, Any]) -> Read:
    try:
        name = check(_Question, question, place).id
    except InputError as error:
        return error
    cells: dict[str, Any] = {key: question[key] for key in ("question", "answers") if key in question}
    if "context" in paragraph:
        cells["context"] = paragraph["context"]
    answers = cells.get("answers")
    listed = answers if isinstance(answers, list) else [] if answers is None else [answers]
    if question.get("is_impossible") is True and all(
        isinstance(each, dict) and each.get("text") in ("", None) for each in listed
    ):
        cells["answers"] = []
    if name is None:
        return Row(place, cells)
    return Row(f"{path}: question {str(name)!r}", {"id": str(name), **cells})


def _read_parquet(path: Path) -> _Opened:
    require("table", f"reading {path}")
    import pyarrow as pa
    import pyarrow.parquet as pq

    damage = (pa.ArrowException, OSError, ValueError, OverflowError)  # UnicodeDecodeError is a ValueError
    try:
        file = pq.ParquetFile(path)
        columns = tuple(file.schema_arrow.names)
    except damage as error:
        raise InputError(f"{path}: not a Parquet file ({_first_line(error)})") from error
    names = _class_names(file.schema_arrow.metadata)

    def rows() -> Iterator[Read]:
        number = 0
        try:
            with file:
                for batch in file.iter_batches(batch_size=1024):
                    # By position: of two columns with one name, one is refused where it is wanted.
                    for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                        number += 1
                        found = dict(zip(columns, cells, strict=True))
                        yield Row(f"{path}: row {number}", _with_names(found, names))
        except damage as error:
            raise InputError(f"{path}: damaged after row {number} ({_first_line(error)})") from error

    return columns, rows()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _class_names(metadata: Any) -> dict[str, list[str]]:
    """The names that the datasets library notes for numbers in lists (`ner_tags`), by column."""
    names = {}
    try:
        features = parse_json((metadata or {})[b"huggingface"].decode())["info"]["features"]
        for column, feature in features.items():
            inner = feature.get("feature") if isinstance(feature, dict) else None
            if inner and inner["_type"] == "ClassLabel":
                names[column] = inner["names"]
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}
    return names


def _with_names(cells: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    for column, known in names.items():
        numbers = cells.get(column)
        if isinstance(numbers, list) and all(isinstance(n, int) and 0 <= n < len(known) for n in numbers):
            cells[column] = [known[number] for number in numbers]
    return cells


CONLL_ENDINGS = (".conll", ".conllu", ".conllup", ".iob", ".iob2", ".bio", ".bioes", ".bmes")
SPLIT_ENDINGS = (".train", ".testa", ".testb", ".dev", ".test")
"""Of files in the same columns: CoNLL-2003's eng.train, CoNLL-2002's ned.testa."""
ENDINGS = (".tsv", ".csv", ".jsonl", ".ndjson", ".parquet", ".json", ".txt", *CONLL_ENDINGS, *SPLIT_ENDINGS)
"""Of the files that `read_table` reads."""
