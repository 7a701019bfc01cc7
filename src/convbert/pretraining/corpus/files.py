"""Bytes of compressed files, and rows of tables and data sets; what goes wrong with them, in one sentence."""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from convbert.pretraining.corpus.sources import HubDataset, TextFile, TextSource
from convbert.util.errors import InputError

_ROWS = 1000
_LONGEST_CELL = 1 << 27

Read = Callable[[int], bytes]


@contextmanager
def open_bytes(source: TextFile) -> Iterator[tuple[Read, Callable[[], int]]]:
    """Give a function that reads up to so many bytes of text, b"" at the end, and one that tells how far
    the file on disk has been read.

    Raises:
        InputError: the file cannot be read, or is not the compressed file its name promises.
    """
    done = 0
    try:
        with open(source.path, "rb") as raw, _decompressed(raw, source) as stream:

            def read(size: int) -> bytes:
                """Exactly `size` bytes but at the end, so that chunks do not depend on the stream's buffers."""
                nonlocal done
                parts = []
                while size and (data := stream.read(size)):
                    parts.append(data)
                    size -= len(data)
                    done += len(data)
                return b"".join(parts)

            yield read, raw.tell
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{source}: damaged gzip file after {done} bytes of text: {error}") from error
    except OSError as error:
        if error.errno is None and source.compression is not None:  # Arrow's
            kind = f"damaged {source.compression} file after {done} bytes of text"
            raise InputError(f"{source}: {kind}: {error}") from error
        raise InputError(f"{source}: cannot be read: {error.strerror or error}") from error


def _decompressed(raw: IO[bytes], source: TextFile) -> Any:
    if source.compression == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if source.compression == "zstd":
        import pyarrow as pa

        return pa.input_stream(raw, compression="zstd")
    return raw


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
        with open_bytes(source) as (read, position):
            lines = _text_lines(read, source)
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
    finally:
        csv.field_size_limit(usual_limit)


def _rows_of(
    header: str, lines: Iterator[str], column: str, kind: str
) -> tuple[Iterator[list[str]], list[str]]:
    """Rows and names of columns. Commas part the cells of CSV, or semicolons, if they alone find the column."""
    if kind == "tsv":
        rows = (line.rstrip("\r\n").split("\t") for line in lines if line.strip())
        return rows, header.rstrip("\r\n").split("\t")
    for separator in ",;":
        reader = csv.reader(itertools.chain([header], lines), strict=True, delimiter=separator)
        names = next(csv.reader([header], delimiter=separator), [])
        if column in names:
            break
    names = next(reader, []) if column in names else next(csv.reader([header]), [])
    return reader, names


def _text_lines(read: Read, source: TextFile) -> Iterator[str]:
    """Lines of a file of UTF-8 text with their ends, one chunk of it in memory at a time."""
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    rest, number, at_end = "", 1, False
    while not at_end:
        data = read(1 << 20)
        at_end = not data
        try:
            *lines, rest = (rest + decode(data, final=at_end)).split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{source}: not UTF-8 text after line {number}: {error.reason}") from error
        for line in lines:
            number += 1
            yield f"{line}\n"
    if rest:
        yield rest


def _read_parquet(source: TextFile, column: str) -> Iterator[tuple[list[str | None], float]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source.compression is not None:
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
    with _naming(source):
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


@contextmanager
def _naming(source: HubDataset) -> Iterator[None]:
    """Turn what `datasets` raises about names, files and networks into one sentence."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
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
