"""The files of a job, one after the other, in blocks that any process can answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from convbert.bulk.inputs import TABLES, Item, check_input, format_of, open_input
from convbert.util.errors import InputError


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
        format: see `open_input`.
    """

    names: list[str]
    are_many: bool
    format: str

    @classmethod
    def find(cls, name: str, format_: str) -> Inputs:
        """The file of this name, or all that match a pattern such as "texts/*.jsonl".

        Raises:
            InputError: there is none, or the format is unknown.
        """
        are_many = any(sign in name for sign in "*?[") and not Path(name).exists()
        names = (
            sorted(found for found in glob(name, recursive=True) if Path(found).is_file())
            if are_many
            else [name]
        )
        if not names:
            raise InputError(f"{name}: matches no file")
        check_input(names[0], format_)
        return cls(names, are_many, format_)

    def size(self) -> int | None:
        """Bytes, where all files are lines of text without compression; of other files only reading tells."""
        for name in self.names:
            format_ = format_of(name, False) if self.format == "auto" else self.format
            if name == "-" or format_ in TABLES or name.lower().endswith((".gz", ".zst")):
                return None
        return sum(Path(name).stat().st_size for name in self.names)

    def after(self, position: Position) -> list[tuple[str, int]]:
        """The files that are left, each with how many of its lines or rows have been answered."""
        first = self.names.index(position.file) if position.file in self.names else 0
        return [(name, 0 if at else position.number) for at, name in enumerate(self.names[first:])]

    def read(
        self, name: str, after: int, reading: dict[str, Any], report: Callable[[str], None]
    ) -> Iterator[Block]:
        """What follows the first `after` lines or rows of a file; see `open_input`.

        Raises:
            InputError: the file is damaged; where there are many, that is its last answer.
        """
        types: dict[str, Any] = {}
        unit, number, size = "row", 0, 0
        file = name if self.are_many else ""
        try:
            given = open_input(name, self.format, **reading, report=report)
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

    def first_row(self, reading: dict[str, Any], report: Callable[[str], None]) -> Any:
        """The first row of the first table; None where the first file has lines, or none can be read."""
        for name, _ in self.after(Position()):
            for block in self.read(name, 0, reading, report):
                rows = [item.content for item in block.items if not isinstance(item.content, InputError)]
                if rows:
                    return rows[0] if block.unit == "row" else None
        return None


def _types_in(name: str) -> dict[str, Any]:
    import pyarrow.parquet as pq

    schema = pq.read_schema(name)
    return dict(zip(schema.names, schema.types, strict=True))
