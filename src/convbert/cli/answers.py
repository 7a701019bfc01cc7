"""Where the answers of `convbert predict` go: stdout, or a file that gets its name when all of them are there."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import lock_descriptor

from convbert.cli.failures import say
from convbert.files.atomic import atomic_write
from convbert.util.errors import InputError

_RECORD = re.compile(rb'\{"(line|row)": (\d+), ("error": )?')


class Answers:
    """A file of answers, or stdout. Until all are there, the file has the ending .partial, beside it lies what it was
    started with, and other processes are kept away by a lock.

    Args:
        path: None is stdout.
        resume: go on with a file of which nobody knows how it was started.
        command: what makes another run the same one.

    Attributes:
        done, failed: lines that have been answered, by an interrupted run, too; and how many of them have no answer.
    """

    def __init__(self, path: Path | None, resume: bool, command: dict[str, Any]) -> None:
        self.path, self.done, self.failed, self.first_failure = path, 0, 0, ""
        self.unit = ""
        if path is None:
            self._stream: BinaryIO = sys.stdout.buffer
            return
        self._partial = path.with_name(f"{path.name}.partial")
        self._command = path.with_name(f"{path.name}.partial.json")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: there is no such folder")
        was_there = self._partial.exists()
        self._stream = self._partial.open("a+b")
        try:
            self._lock(path)
            if was_there and self._partial.stat().st_size:
                self._check_command(command, resume)
            atomic_write(self._command, json.dumps(command, allow_nan=False))
            self._seek_to_the_end()
        except BaseException:
            self._stream.close()
            raise

    def _lock(self, path: Path) -> None:
        with suppress(OSError):  # a file system without locks
            if not lock_descriptor(self._stream.fileno(), blocking=False):
                raise InputError(f"{path}: another process is writing it")
        if path.exists():
            if os.fstat(self._stream.fileno()).st_size == 0:
                self._partial.unlink(missing_ok=True)
            raise InputError(f"{path}: is there already; remove it, or choose another --output")

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

    def _seek_to_the_end(self) -> None:
        """Cut a line that was not written to its end, and count those that were."""
        end, number = 0, 0
        self._stream.seek(0)
        for line in self._stream:
            match = _RECORD.match(line)
            if not line.endswith(b"\n"):
                break
            if match is None or int(match[2]) != self.done + 1:
                raise InputError(f"{self._partial}: line {self.done + 1}: is no answer of an interrupted run")
            self.unit, number = match[1].decode(), int(match[2])
            self.done, end = number, end + len(line)
            self.failed += match[3] is not None
        self._stream.seek(end)
        self._stream.truncate()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self.path is None:
            return
        try:
            self._stream.flush()
            if kind is None:
                os.replace(self._partial, self.path)
                self._command.unlink(missing_ok=True)
            elif self._partial.stat().st_size == 0:  # the same command works once the input is right
                self._partial.unlink()
                self._command.unlink(missing_ok=True)
        except OSError:  # a full disk
            if kind is None:
                raise
        finally:
            with suppress(OSError):
                self._stream.close()

    def write(self, unit: str, number: int, place: str, record: dict[str, Any] | InputError) -> None:
        """One line of JSON: the number of the line or row, and its answer, or its error, which is at `place`, if it
        does not say.
        """
        if isinstance(record, InputError):
            self.failed += 1
            said = str(record)
            self.first_failure = self.first_failure or (f"{place}: {said}" if place else said)
            record = {"error": said}
        content = {unit: number, **record}
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, default=str)
        self._stream.write(text.encode(errors="replace") + b"\n")
        self.done = number

    def flush(self) -> None:
        """Hand over what has been written."""
        self._stream.flush()

    def report(self, unit: str) -> None:
        """Say how many lines have no answer."""
        if self.failed:
            lines = f"{unit} has" if self.failed == 1 else f"{unit}s have"
            first = f"; the first: {self.first_failure}" if self.first_failure else ""
            say(f"{self.failed:,} {lines} no answer{first}")
