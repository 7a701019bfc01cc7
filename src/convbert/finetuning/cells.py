"""Rows of a table, and what may stand in a cell: a text, a label, a list."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Collection
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from math import isfinite
from token import STRING
from tokenize import TokenError, generate_tokens
from typing import Any

from convbert.util.errors import InputError
from convbert.util.schema import parse_json

Report = Callable[[str], None]
"""Told what a reader should know of."""
_DECIMAL = re.compile(r"-?\d+\.0+")


@dataclass(frozen=True)
class Row:
    """One row: its place, for messages ("train.tsv: line 17"), and its cells by column."""

    place: str
    cells: dict[str, Any]


Read = Row | InputError
"""A row, or why it cannot be used; the message names it."""


def text_of(cell: Any, place: str, role: str) -> str:
    """A cell that must hold text, and not only space."""
    if not isinstance(cell, str):
        raise InputError(f"{place}: {role} must be text, got {type(cell).__name__}: {cell!r:.60}")
    if not cell.strip():
        raise InputError(f"{place}: {role} is empty")
    return cell


def text_in(row: Row, column: str) -> str:
    """The text in a cell; see `text_of`."""
    if column not in row.cells:
        raise InputError(f"{row.place}: there is no {column}; there are {', '.join(row.cells)}")
    return text_of(row.cells[column], row.place, column)


_NO_LABEL = ("nan", "-nan", "<na>", "nat", "#n/a")
"""What pandas and Excel write into a cell without a value, in lower case."""


def label_in(cell: Any, place: str, column: str) -> str:
    """The label in a cell; an `InputError` where there is none, or something that is no label.

    A column of whole numbers with gaps becomes one of floats with NaN in pandas: 1.0 is the label 1, and NaN is none.
    """
    if isinstance(cell, float):
        cell = None if not isfinite(cell) else int(cell) if cell.is_integer() else cell
    if cell is not None and not isinstance(cell, str | int | float):
        raise InputError(f"{place}: {column} must be a label, got {type(cell).__name__}: {cell!r:.60}")
    label = "" if cell is None else str(cell).strip()
    if not label:
        raise InputError(f"{place}: {column} is empty")
    if label.lower() in _NO_LABEL:
        raise InputError(f"{place}: {column} is {label!r}, which stands for no label")
    return label


def same_label(label: str, known: Collection[str]) -> str:
    """The label, or the one among those known that is the same number: pandas writes 1 as 1.0."""
    if label in known or not _is_number(label):
        return label
    same = [each for each in known if _is_number(each) and float(each) == float(label)]
    return same[0] if len(same) == 1 else label


def _is_number(label: str) -> bool:
    try:
        return isfinite(float(label))
    except ValueError:
        return False


def list_in(row: Row, column: str) -> Any:
    """The list or object in a cell. Where cells are text, in CSV and TSV, it is written as JSON, or as pandas writes a
    column of lists, ['a', 'b']; NumPy's ['a' 'b'] would be one text, and is refused."""
    cell = row.cells.get(column)
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", "{")):
        return cell
    try:
        return parse_json(cell)
    except InputError as error:
        try:
            kinds = [token.type for token in generate_tokens(StringIO(cell.strip()).readline)]
            if (STRING, STRING) not in pairwise(kinds):
                return literal_eval(cell.strip())
        except (ValueError, SyntaxError, TokenError, RecursionError, MemoryError):
            pass
        raise InputError(
            f"{row.place}: {column}: must be a list in JSON, got {cell!r:.60} ({error})"
        ) from error


def strings_in(row: Row, column: str) -> list[str]:
    """The list of strings in a cell; see `list_in`."""
    cell = sequence_in(row, column)
    if all(isinstance(item, str) for item in cell):
        return cell
    raise InputError(f"{row.place}: {column} must be a list of strings, got {cell!r:.60}")


def sequence_in(row: Row, column: str) -> list[Any]:
    """The list in a cell, which must not be empty; see `list_in`."""
    cell = list_in(row, column)
    if isinstance(cell, list) and cell:
        return cell
    raise InputError(f"{row.place}: {column} must be a list of strings, got {cell!r:.60}")


def choices_in(row: Row, columns: str) -> list[str]:
    """Choices, of a column of lists, or of a column for each with commas between their names."""
    names = columns.split(",")
    is_list = columns in row.cells or len(names) == 1
    cells = list_in(row, columns) if is_list else [row.cells.get(name) for name in names]
    if not isinstance(cells, list) or len(cells) < 2:
        raise InputError(f"{row.place}: {columns} must be a list of at least two choices, got {cells!r:.60}")
    return [text_of(cell, row.place, name) for cell, name in zip(cells, names * len(cells), strict=False)]


def one_name_each(names: Collection[str]) -> dict[str, str]:
    """Labels that pandas wrote as 1.0 in one place and as 1 in another, to the shorter name; others are left out."""
    return {
        name: name.split(".")[0] for name in names if _DECIMAL.fullmatch(name) and name.split(".")[0] in names
    }
