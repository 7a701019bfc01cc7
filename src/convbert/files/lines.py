"""Lines of text files, which may be compressed."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from convbert.util.errors import InputError
from convbert.util.optional import require


def check_file(path: Path) -> None:
    """Refuse what is no file."""
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}")


@contextmanager
def open_stream(path: Path, compression: str) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """The bytes of a file, without its compression (".gz", ".zst" or ""), and what tells how much of it has been read.

    A read gives all bytes it is asked for, but at the end.

    Raises:
        InputError: the file cannot be read, or is not the compressed file its name promises.
    """
    try:
        with path.open("rb") as raw, _decompressed(raw, path, compression) as stream:
            yield stream, raw.tell
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged gzip file ({error})") from error
    except OSError as error:  # Arrow's have no number
        what = "cannot be read" if error.errno else f"damaged {compression} file"
        raise InputError(f"{path}: {what} ({error.strerror or error})") from error


def _decompressed(raw: IO[bytes], path: Path, compression: str) -> Any:
    if compression == ".zst":
        require("table", f"reading {path}")
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(raw, compression="zstd"))
    return gzip.GzipFile(fileobj=raw) if compression else raw


def numbered_lines(path: Path, compression: str) -> Iterator[tuple[int, str]]:
    """Lines with their ends and numbers.

    Args:
        compression: ".gz", ".zst" or "".

    Raises:
        InputError: nothing but space, or not UTF-8 text; the message names the line.
    """
    number, is_empty = 0, True
    with open_stream(path, compression) as (stream, _):
        for raw in stream:
            try:
                text = raw.decode("utf-8-sig" if number == 0 else "utf-8")
            except UnicodeDecodeError as error:
                what = f"not UTF-8 text (byte 0x{raw[error.start]:02x}): save it as UTF-8"
                if number == 0 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    what = "UTF-16 text: save it as UTF-8"
                raise InputError(f"{path}: line {number + 1}: {what}") from error
            if "\0" in text:
                raise InputError(f"{path}: line {number + 1}: a NUL character: this is no text file")
            number += 1
            is_empty = is_empty and not text.strip()
            yield number, text
    if is_empty:
        raise InputError(f"{path}: is empty")


def without_ends(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    return ((number, line.rstrip("\r\n")) for number, line in lines)
