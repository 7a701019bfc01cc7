"""Where everything of a fine-tuning run lies, and what it was started with."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbert.files.atomic import atomic_folder
from convbert.util.errors import InputError
from convbert.util.schema import Schema, check, parse_json, read_json

_MAY_CHANGE = ("bf16", "log_every", "seeds", "contents")


@dataclass(frozen=True)
class Files:
    """Where the labelled data lies; several dev files are scored separately, and the first chooses the model.

    Without a dev file, a part of the training data is split off.
    """

    train: Path
    dev: tuple[Path, ...] = ()

    def contents(self) -> list[str]:
        """A digest of each file, that of the training data first: the same name may come to hold other data."""
        return [_digest(path) for path in (self.train, *self.dev)]


class _Record(Schema):
    """Of `run.json`."""

    task: dict[str, Any]
    model: str
    train: str
    dev: list[str]
    plan: dict[str, Any]
    contents: list[str] | None = None


class SeedFigures(Schema):
    """Of `metrics.json` of a seed, what the run goes on from."""

    scores: dict[str, dict[str, float]]
    collapsed: bool
    skipped_steps: int = 0


class _RunFigures(Schema):
    """Of `metrics.json` of a run."""

    seeds: dict[str, SeedFigures]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run: `model/`, `metrics.json`, `dev_predictions.jsonl`, `report.html`, and one folder a seed."""

    root: Path

    @property
    def model(self) -> Path:
        """The best seed's model."""
        return self.root / "model"

    @property
    def record(self) -> Path:
        """What is being run: task, plan, data, model."""
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        """The figures of a finished run; written last."""
        return self.root / "metrics.json"

    def of_seed(self, seed: int) -> Path:
        """The folder of one seed."""
        return self.root / f"seed-{seed}"

    def check(self, record: dict[str, Any]) -> None:
        """Check that the folder is empty, or that it is the same run that goes on.

        Raises:
            InputError: the folder holds another run, something else, or a damaged record.
        """
        if all(path.name.startswith(".") for path in self.root.iterdir()):
            return  # empty, but for what a kill left half-written
        if not self.record.exists():
            raise InputError(
                f"{self.root}: not empty, and there is no run in it to resume (no run.json); choose another folder"
            )
        stored = check(_Record, read_json(self.record), self.record).model_dump()
        before, now = _flat(stored), _flat(json.loads(json.dumps(record)))
        changes = [
            f"{name} was {before[name]}, now {value}"
            for name, value in now.items()
            if before.get(name) is not None and before[name] != value and name not in _MAY_CHANGE
        ]
        if not changes and stored["contents"] is not None:
            if len(stored["contents"]) != len(now["contents"]):
                raise InputError(f"{self.record}: contents: one entry for each file is wanted")
            files = zip([now["train"], *now["dev"]], stored["contents"], now["contents"], strict=True)
            changes = [f"{path} held other data" for path, old, new in files if old != new]
        if changes:
            raise InputError(
                f"{self.root}: this run was started otherwise: {'; '.join(changes)}; "
                "give the command as it was, or choose another folder"
            )

    def note(self, record: dict[str, Any]) -> None:
        """Write down what is being run.

        Raises:
            InputError: the folder cannot be written.
        """
        write_whole(self.record, record)

    def finished(self, seeds: int) -> dict[str, Any] | None:
        """The figures of a run that has come to its end with so many seeds, and whose model is there.

        Raises:
            InputError: they are damaged.
        """
        figures = _figures(_RunFigures, self.metrics)
        if figures is None or len(figures["seeds"]) < seeds or not holds_model(self.model):
            return None
        return figures

    def figures_of_seed(self, seed: int) -> dict[str, Any] | None:
        """The figures of a seed that has come to its end, and whose model is there.

        Raises:
            InputError: they are damaged.
        """
        folder = self.of_seed(seed)
        return _figures(SeedFigures, folder / "metrics.json") if holds_model(folder / "model") else None

    def history(self, seed: int) -> list[dict[str, Any]]:
        """The entries of a seed's log.

        Raises:
            InputError: a line of it is damaged.
        """
        path = self.of_seed(seed) / "log.jsonl"
        entries = []
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
        ):
            place = f"{path}: line {number}"
            try:
                entries.append(check(_Entry, parse_json(line), place).model_dump())
            except InputError as error:
                raise InputError(f"{place}: {error}" if place not in str(error) else str(error)) from error
        return entries

    def clear_checkpoints(self, seed: int) -> None:
        """Remove what only an interrupted run needs."""
        for pattern in ("checkpoint-*", "unused-checkpoint-*"):
            for checkpoint in self.of_seed(seed).glob(pattern):
                shutil.rmtree(checkpoint)


class _Entry(Schema):
    """Of a log."""

    step: int


def holds_model(folder: Path) -> bool:
    """Whether a model is there: its configuration and weights."""
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def refuse_runs(folder: Path) -> None:
    """Refuse to write into the folder of a run or of one of its seeds, whose figures and predictions would be lost.

    Raises:
        InputError: it is one.
    """
    if any((folder / name).exists() for name in ("run.json", "log.jsonl")):
        raise InputError(f"{folder}: holds a training run; choose another folder")


def _figures(schema: type[Schema], path: Path) -> dict[str, Any] | None:
    """What a `metrics.json` holds; None where there is none."""
    if not path.exists():
        return None
    try:
        return check(schema, read_json(path), path).model_dump()
    except InputError as error:
        raise InputError(f"{error}; remove {path} to have it written anew") from error


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the fields of the plan beside the others."""
    return {**record, **record["plan"], "plan": None}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def write_whole(path: Path, content: Any) -> None:
    """As `write_json`, so that the file is there in full or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    with atomic_folder(path.parent) as draft:
        write_json(draft / path.name, content)


def write_json(path: Path, content: Any) -> None:
    """Write an object for people to read; none of its numbers may be NaN, which is no JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
