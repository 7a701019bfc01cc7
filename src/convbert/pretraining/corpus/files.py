"""Rows of tables and data sets; what goes wrong with them, in one sentence."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from convbert.files.lines import open_stream
from convbert.pretraining.corpus.sources import HubDataset, TextFile, TextSource
from convbert.util.errors import InputError

_ROWS = 1000
_LONGEST_CELL = 1 << 27


def read_rows(source: TextSource, column: str) -> Iterator[tuple[list[str], int]]:
    """Yield the texts of some rows, and how much of the source has been read, in bytes on disk.

    Raises:
        InputError: the source cannot be read, or has no such column of text; the message names those it has.
    """
    if isinstance(source, HubDataset):
        rows = _read_dataset(source, column)
    else:
        rows = (_read_parquet if source.format == "parquet" else _read_cells)(source, column)
    for texts, share in rows:
        yield [check_text(text, column, source) for text in texts], int(share * source.size)


def check_text(value: Any, column: str, place: object) -> str:
    """A text column's value; nothing in place of a null.

    Raises:
        InputError: it is no text.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{place}: column {column!r} holds {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can write
        raise InputError(
            f"{place}: column {column!r} holds no Unicode text: {error.reason} at character {error.start}"
        ) from error
    return value


def no_column(place: object, column: str, names: Iterable[Any]) -> InputError:
    """What to raise where there is no such column among `names`."""
    told = ", ".join(map(str, names)) or "none"
    return InputError(f"{place}: no column {column!r}; there are {told} (--text-column names another)")


def _read_cells(source: TextFile, column: str) -> Iterator[tuple[list[str | None], float]]:
    """The rows of a CSV or TSV file with a header; cells of a TSV file are taken as they are, without quotes."""
    usual_limit = csv.field_size_limit(_LONGEST_CELL)
    number, texts = 0, list[str | None]()
    try:
        with open_stream(source.path, source.compression) as (stream, position):
            lines = io.TextIOWrapper(stream, "utf-8-sig", newline="\n")
            first = next((line for line in lines if line.strip()), "")
            rows, names = _rows_of(first, lines, column, source.format)
            if column not in names:
                raise no_column(source, column, names)
            place = names.index(column)
            for number, row in enumerate(rows, start=1):
                if row and len(row) != len(names):
                    raise InputError(
                        f"{source}: row {number} has {len(row)} cells, and there are {len(names)} columns"
                    )
                if row:
                    texts.append(row[place])
                if len(texts) >= _ROWS:
                    yield texts, position() / source.size
                    texts = []
            if texts:
                yield texts, 1.0
    except csv.Error as error:
        raise InputError(f"{source}: row {number + 1}: not CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 text after row {number}: {error.reason}") from error
    finally:
        csv.field_size_limit(usual_limit)


def _rows_of(
    header: str, lines: Iterable[str], column: str, kind: str
) -> tuple[Iterator[list[str]], list[str]]:
    """Rows and names of columns. Commas part the cells of CSV, or semicolons, if they alone find the column."""
    if kind == "tsv":
        rows = (line.rstrip("\r\n").split("\t") for line in lines if line.strip())
        return rows, header.rstrip("\r\n").split("\t")
    names = {separator: next(csv.reader([header], delimiter=separator), []) for separator in ",;"}
    separator = ";" if column in names[";"] and column not in names[","] else ","
    reader = csv.reader(itertools.chain([header], lines), strict=True, delimiter=separator)
    return reader, next(reader, [])


def _read_parquet(source: TextFile, column: str) -> Iterator[tuple[list[str | None], float]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source.compression:
        raise InputError(
            f"{source}: Parquet is compressed inside; give the file without {source.compression}"
        )
    try:
        with pq.ParquetFile(source.path) as table:
            names = table.schema_arrow.names
            if column not in names:
                raise no_column(source, column, names)
            kind = table.schema_arrow.field(column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise InputError(f"{source}: column {column!r} holds {kind}, not text")
            done = 0
            for batch in table.iter_batches(batch_size=_ROWS, columns=[column]):
                done += batch.num_rows
                yield batch.column(0).to_pylist(), done / table.metadata.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read as Parquet: {_first_line(error)}") from error


def _read_dataset(source: HubDataset, column: str) -> Iterator[tuple[list[str | None], float]]:
    try:
        dataset = _open_dataset(source)
        names = dataset.column_names
        if names is not None and column not in names:
            raise no_column(source, column, names)
        total = len(dataset) if hasattr(dataset, "__len__") else None
        done = 0
        for batch in dataset.iter(batch_size=_ROWS):
            texts = batch.get(column)
            if texts is None:
                raise no_column(source, column, batch)
            done += len(texts)
            yield texts, done / total if total else 0.0
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # about names, files and networks
        raise InputError(f"{source}: cannot be read: {_first_line(error)}") from error


def _open_dataset(source: HubDataset) -> Any:
    """Streamed, so that nothing is downloaded whole; what `save_to_disk` wrote is mapped into memory."""
    import datasets

    if source.saved is None:
        return datasets.load_dataset(source.name, source.configuration, split=source.split, streaming=True)
    saved = datasets.load_from_disk(source.name)
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if source.split in saved:
        return saved[source.split]
    raise InputError(f"{source}: no split {source.split!r}; there are {', '.join(saved)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
