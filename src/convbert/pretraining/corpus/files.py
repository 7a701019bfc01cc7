"""Bytes of compressed files, and rows of tables and data sets; what goes wrong with them, in one sentence."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from convbert.errors import InputError
from convbert.pretraining.corpus.sources import HubDataset, Input, TextFile

_ROWS = 1000

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
                """Exactly `size` bytes but at the end, so that blocks do not depend on the stream's buffers."""
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


def read_rows(source: Input, column: str) -> Iterator[tuple[list[str], int]]:
    """Yield the texts of some rows, and how much of the source has been read, in bytes on disk.

    Raises:
        InputError: the source cannot be read, or has no such column of text; the message names those it has.
    """
    rows = _read_dataset(source, column) if isinstance(source, HubDataset) else _read_parquet(source, column)
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
    return InputError(
        f"{place}: no column {column!r}; there are {told} (convbert prepare --text-column takes another)"
    )


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
