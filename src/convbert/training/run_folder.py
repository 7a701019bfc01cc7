"""What every run folder has: a record of what is run, a log, a model, and metrics that are written last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbert.util.errors import InputError
from convbert.util.schema import Schema, check, parse_json, read_json


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one run lies."""

    root: Path

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.root / "model"

    @property
    def metrics(self) -> Path:
        """The metrics of a finished run; written last."""
        return self.root / "metrics.json"

    @property
    def log(self) -> Path:
        """One JSON object a line for every log entry."""
        return self.root / "log.jsonl"


def read_record(schema: type[Schema], path: Path) -> dict[str, Any] | None:
    """The object in a file of the run, checked; None where there is no file.

    Raises:
        InputError: it is damaged; the message names it.
    """
    if not path.exists():
        return None
    content = read_json(path)
    check(schema, content, path)
    return content


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a `log.jsonl`.

    Raises:
        InputError: a line of it is damaged; the message names it.
    """
    entries = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        place = f"{path}: line {number}"
        try:
            content = parse_json(line)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        entries.append(check(_Entry, content, place).model_dump())
    return entries


class _Entry(Schema):
    step: int


def holds_model(folder: Path) -> bool:
    """Whether a model is there: its configuration and weights."""
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The fields in which a run was started otherwise, for a message; "" where there are none."""
    changed = [name for name, value in wanted.items() if stored.get(name) != value]
    return "; ".join(f"{name} was {stored.get(name)}, now {wanted[name]}" for name in changed)
