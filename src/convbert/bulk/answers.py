"""Where answers go: stdout, or a file that gets its name when all of them are there."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from filelock import lock_descriptor

from convbert.bulk.answering import Answered, Write, as_lines, as_table
from convbert.bulk.blocks import Position
from convbert.bulk.tables import common_schema, conform
from convbert.files.atomic import atomic_write
from convbert.util.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

_RECORD = re.compile(rb'\{("file": ("(?:[^"\\]|\\.)*"), )?"(line|row)": (\d+), ("error": )?')
_PART_BYTES, _PART_SECONDS = 1 << 25, 60.0
"""A part of a table is written when it is so large, or so old."""


class Answers:
    """Answers as JSON Lines on stdout.

    Attributes:
        write_as: how a block's answers are written.
        position, done, failed: the last line that has been answered, by an interrupted run, too; how many have been,
            and how many of them have no answer.
    """

    write_as: Write = staticmethod(as_lines)

    def __init__(self) -> None:
        self.position, self.done, self.failed, self.first_failure = Position(), 0, 0, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None: ...

    def write(self, answered: Answered) -> None:
        """Take what follows."""
        self._put(answered.content)
        self.position, self.done = answered.position, self.done + answered.texts
        self.failed += answered.failed
        self.first_failure = self.first_failure or answered.first_failure

    def _put(self, content: Any) -> None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()

    def report(self) -> str | None:
        """How many lines have no answer; None where all have one."""
        unit = self.position.unit
        lines = f"{unit} has" if self.failed == 1 else f"{unit}s have"
        first = f"; the first: {self.first_failure}" if self.first_failure else ""
        return f"{self.failed:,} {lines} no answer{first}" if self.failed else None


class FileAnswers(Answers):
    """Answers as JSON Lines on their way to a file. Until all are there, it has the ending .partial, beside it lies
    what it was started with, and other processes are kept away by a lock.

    Args:
        path: of the file.
        resume: go on with a file of which nobody knows how it was started.
        command: what makes another run the same one.

    Raises:
        InputError: the file is there, another command or process has begun it, or it cannot be written.
    """

    def __init__(self, path: Path, resume: bool, command: dict[str, Any]) -> None:
        super().__init__()
        self.path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._command = path.with_name(f"{path.name}.partial.json")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: there is no such folder")
        with self._naming():
            self._lock_file: IO[bytes] = self._open()
        try:
            with suppress(OSError):  # a file system without locks
                if not lock_descriptor(self._lock_file.fileno(), blocking=False):
                    raise InputError(f"{path}: another process is writing it")
            if path.exists():
                self._remove_empty()
                raise InputError(f"{path}: is there already; remove it, or choose another --output")
            if not self._is_empty():
                self._check_command(command, resume)
            with self._naming():
                atomic_write(self._command, json.dumps(command, allow_nan=False))
                self._go_on()
        except BaseException:
            self._lock_file.close()
            raise

    def _check_command(self, command: dict[str, Any], resume: bool) -> None:
        from convbert.training.run_folder import differences
        from convbert.util.schema import read_json

        before = read_json(self._command) if self._command.exists() else None
        if not isinstance(before, dict):
            if resume:
                return
            raise InputError(
                f"{self._partial}: an interrupted run left it, and how that was started is not known; go on with "
                "--resume, or remove it"
            )
        if changes := differences(before, json.loads(json.dumps(command, allow_nan=False))):
            raise InputError(
                f"{self._partial}: an interrupted run left it that was started otherwise: {changes}; give the command "
                "as it was, or remove the file"
            )

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """One sentence for a full disk."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            kept = "; what is finished is kept, and the same command goes on" if self.position.number else ""
            raise InputError(f"{self.path}: cannot be written: {reason}{kept}") from error

    def _remove_empty(self) -> None:
        if self._is_empty():  # the same command works once the input is right
            self._remove()
            self._command.unlink(missing_ok=True)

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                with self._naming():
                    self._flush()
                    self._finish()
                self._command.unlink(missing_ok=True)
            else:
                with suppress(OSError):  # a full disk
                    self._flush()
                self._remove_empty()
        finally:
            with suppress(OSError):
                self._lock_file.close()

    def write(self, answered: Answered) -> None:
        before, now = self.position, answered.position
        if before.file == now.file and before.unit not in ("", now.unit):
            raise InputError(f"{self._partial}: was begun by the {before.unit}, not by the {now.unit}")
        with self._naming():
            super().write(answered)

    def _open(self) -> IO[bytes]:
        return self._partial.open("a+b")

    def _is_empty(self) -> bool:
        return self._partial.stat().st_size == 0

    def _go_on(self) -> None:
        """Find what an interrupted run has finished; a line that it has not written to its end is cut."""
        end, stream = 0, self._lock_file
        stream.seek(0)
        for count, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                break
            match, before = _RECORD.match(line), self.position
            file = json.loads(match[2]) if match and match[2] else ""
            expected = before.number + 1 if file == before.file else 1
            if match is None or int(match[4]) != expected:
                raise InputError(f"{self._partial}: line {count}: is no answer of an interrupted run")
            self.position = Position(file, match[3].decode(), expected)
            end, self.done, self.failed = end + len(line), count, self.failed + (match[5] is not None)
        stream.seek(end)
        stream.truncate()

    def _put(self, content: bytes) -> None:
        self._lock_file.write(content)
        self._lock_file.flush()

    def _flush(self) -> None:
        self._lock_file.flush()

    def _finish(self) -> None:
        os.replace(self._partial, self.path)

    def _remove(self) -> None:
        self._partial.unlink(missing_ok=True)


class TableAnswers(FileAnswers):
    """A Parquet file. Its parts, each written whole or not at all, lie in a folder until they are joined."""

    write_as = staticmethod(as_table)

    def _open(self) -> IO[bytes]:
        self._waiting: list[pa.Table] = []
        self._bytes, self._since = 0, time.monotonic()
        self._partial.mkdir(exist_ok=True)
        return (self._partial / "lock").open("ab")

    def _parts(self) -> list[Path]:
        return sorted(self._partial.glob("*.parquet"))

    def _is_empty(self) -> bool:
        return not self._parts()

    def _go_on(self) -> None:
        import pyarrow.parquet as pq

        for part in self._parts():
            names = {"file", "line", "row"} & set(pq.read_schema(part).names)
            table = pq.ParquetFile(part).read([*names, "error"])
            self.done += len(table)
            self.failed += len(table) - table["error"].null_count
            (last,) = table.slice(len(table) - 1).to_pylist()
            unit = "row" if last.get("line") is None else "line"
            self.position = Position(last.get("file", ""), unit, last[unit])

    def _put(self, content: pa.Table) -> None:
        self._waiting.append(content)
        self._bytes += content.nbytes
        if self._bytes > _PART_BYTES or time.monotonic() - self._since > _PART_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            schema, mixed = common_schema(table.schema for table in self._waiting)
            self._write(self._partial / f"{len(self._parts()):06d}.parquet", schema, mixed, self._waiting)
        self._waiting, self._bytes, self._since = [], 0, time.monotonic()

    def _finish(self) -> None:
        import pyarrow.parquet as pq

        parts = self._parts()
        schema, mixed = common_schema(map(pq.read_schema, parts))
        self._write(self.path, schema, mixed, (pq.ParquetFile(part).read() for part in parts))
        self._remove()

    def _write(self, path: Path, schema: pa.Schema, mixed: set[str], tables: Iterable[pa.Table]) -> None:
        import pyarrow.parquet as pq

        draft = self._partial / "draft"
        texts = [field.name for field in schema if "string" in str(field.type)]
        try:
            with pq.ParquetWriter(draft, schema, use_dictionary=texts) as writer:  # no two vectors are equal
                for table in tables:
                    writer.write_table(conform(table, schema, mixed))
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def _remove(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)


def open_answers(path: Path | None, resume: bool, command: dict[str, Any]) -> Answers:
    """Answers to stdout for None, to a table for a name that ends with .parquet, else to JSON Lines."""
    if path is None:
        return Answers()
    return (TableAnswers if path.suffix.lower() == ".parquet" else FileAnswers)(path, resume, command)
