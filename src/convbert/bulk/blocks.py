"""The files of a job, one after the other, in blocks that any process can answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from glob import glob
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from convbert.bulk.inputs import TABLES, Item, check_input, format_of, open_input
from convbert.util.errors import InputError

Report = Callable[[str], None]


class Block(NamedTuple):
    """Lines or rows of a file that are answered together.

    `file` is "" where there is one input, `unit` is "line" or "row", `types` are the Arrow types of a Parquet file's
    columns, and `size` is in bytes, also of what is skipped before it.
    """

    file: str
    unit: str
    items: list[Item]
    types: dict[str, Any]
    size: int


class Position(NamedTuple):
    """The last line or row that has been answered."""

    file: str = ""
    unit: str = ""
    number: int = 0


@dataclass(frozen=True)
class Inputs:
    """Files to be answered, in order.

    Args:
        names: of files; or "-", stdin.
        are_many: found by a pattern: answers name their file, and a damaged one stops no other.
        format, reading: see `open_input`.
        folder: where relative names begin.
    """

    names: list[str]
    are_many: bool
    format: str
    reading: dict[str, Any] = field(default_factory=dict)
    folder: str = field(default_factory=os.getcwd)

    @classmethod
    def find(cls, name: str, format_: str) -> Inputs:
        """The file of this name, or all that match a pattern such as "texts/*.jsonl".

        Raises:
            InputError: there is none, or the format is unknown.
        """
        are_many = any(sign in name for sign in "*?[") and not Path(name).exists()
        found = sorted(filter(os.path.isfile, glob(name, recursive=True))) if are_many else [name]
        if not found:
            raise InputError(f"{name}: matches no file")
        check_input(found[0], format_)
        return cls(found, are_many, format_)

    def size(self) -> int | None:
        """Bytes, where all files are lines of text without compression; of other files only reading tells."""
        for name in self.names:
            format_ = format_of(name, False) if self.format == "auto" else self.format
            if name == "-" or format_ in TABLES or name.lower().endswith((".gz", ".zst")):
                return None
        return sum(map(os.path.getsize, self.names))

    def after(self, position: Position) -> list[dict[str, Any]]:
        """The files that are left: their `name`, and `after` how many lines or rows to go on."""
        if position.file and position.file not in self.names:
            raise InputError(f"{position.file}: an interrupted run has answered it, and it is not there now")
        first = self.names.index(position.file) if position.file else 0
        names = self.names[first:]
        return [{"name": name, "after": 0 if at else position.number} for at, name in enumerate(names)]

    def read(self, name: str, after: int, report: Report = lambda message: None) -> Iterator[Block]:
        """What follows the first `after` lines or rows of a file; see `open_input`.

        Raises:
            InputError: the file is damaged; where there are many, that is its last answer.
        """
        types: dict[str, Any] = {}
        unit, number, size, file = "row", 0, 0, name if self.are_many else ""
        try:
            given = open_input(name, self.format, **self.reading, report=report)
            unit = given.unit
            for items in given.blocks:
                types = types or (_types_in(name) if given.format == "parquet" else {})
                number = items[-1].number if items else number
                size += sum(item.size for item in items)
                if left := [item for item in items if item.number > after]:
                    yield Block(file, unit, left, types, size)
                    size = 0
        except InputError as error:
            if not self.are_many:
                raise
            if number >= after:
                yield Block(file, unit, [Item(number + 1, error)], types, size)

    def read_batch(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Files of `after` as Ray Data hands them on, to rows of one block; names are seen from `folder`."""
        with chdir(self.folder):
            for name, after in zip(batch["name"], batch["after"], strict=True):
                yield from ({"block": one(block)} for block in self.read(str(name), int(after)))

    def first_row(self, report: Report) -> Any:
        """The first row, where the first file is a table."""
        for block in chain.from_iterable(self.read(name, 0, report) for name in self.names):
            rows = [item.content for item in block.items if not isinstance(item.content, InputError)]
            if rows or block.unit == "line":
                return rows[0] if block.unit == "row" else None
        return None


def one(value: Any) -> Any:
    """An array of one object."""
    import numpy as np  # not needed to refuse a wrong command

    array = np.empty(1, dtype=object)
    array[0] = value
    return array


def _types_in(name: str) -> dict[str, Any]:
    import pyarrow.parquet as pq

    schema = pq.read_schema(name)
    return dict(zip(schema.names, schema.types, strict=True))
