"""Where everything of a fine-tuning run lies, and what it was started with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbert.training import run_folder
from convbert.training.run_folder import differences, holds_model, read_log, read_record
from convbert.util.errors import InputError
from convbert.util.schema import Schema

_MAY_CHANGE = ("bf16", "log_every", "seeds", "contents")


@dataclass(frozen=True)
class Files:
    """Where the labelled data lies. Several dev files are scored separately, and the first chooses the model; without
    one, a part of the training data is split off.
    """

    train: Path
    dev: tuple[Path, ...] = ()

    def contents(self) -> list[str]:
        """A digest of each file, that of the training data first: the same name may come to hold other data."""
        return [_digest(path) for path in (self.train, *self.dev)]


class _Record(Schema):
    task: dict[str, Any]
    model: str
    train: str
    dev: list[str]
    plan: dict[str, Any]
    contents: list[str] | None = None


class _SeedMetrics(Schema):
    scores: dict[str, dict[str, float]]
    collapsed: bool
    skipped_steps: int = 0


class _RunMetrics(Schema):
    seeds: dict[str, _SeedMetrics]


@dataclass(frozen=True)
class RunFolder(run_folder.RunFolder):
    """The folder of a run: `model/`, `metrics.json`, `dev_predictions.jsonl`, `report.html`, and one folder a seed."""

    @property
    def record(self) -> Path:
        """What is being run: task, plan, data, model."""
        return self.root / "run.json"

    def of_seed(self, seed: int) -> run_folder.RunFolder:
        """The folder of one seed."""
        return run_folder.RunFolder(self.root / f"seed-{seed}")

    def check(self, record: dict[str, Any]) -> None:
        """Refuse a folder that holds another run, something else, or a damaged record; an empty one, or the same run,
        is fine.
        """
        stored = read_record(_Record, self.record)
        if stored is None:
            if all(path.name.startswith(".") or path.suffix == ".partial" for path in self.root.iterdir()):
                return  # empty, but for what a kill left half-written
            raise InputError(
                f"{self.root}: not empty, and there is no run in it to resume (no run.json); choose another folder"
            )
        before, now = _flat(stored), _flat(json.loads(json.dumps(record)))
        known = {name for name, value in before.items() if value is not None} - {*_MAY_CHANGE}
        changes = differences(before, {name: value for name, value in now.items() if name in known})
        if not changes and (digests := stored.get("contents")) is not None:
            if len(digests) != len(now["contents"]):
                raise InputError(f"{self.record}: contents: one entry for each file is wanted")
            files = zip([now["train"], *now["dev"]], digests, now["contents"], strict=True)
            changes = "; ".join(f"{path} held other data" for path, old, new in files if old != new)
        if changes:
            raise InputError(
                f"{self.root}: this run was started otherwise: {changes}; "
                "give the command as it was, or choose another folder"
            )

    def finished(self, seeds: int) -> dict[str, Any] | None:
        """The metrics of a run that has come to its end with so many seeds, and whose model is there."""
        metrics = _read_metrics(_RunMetrics, self)
        return metrics if metrics is not None and len(metrics["seeds"]) >= seeds else None

    def metrics_of_seed(self, seed: int) -> dict[str, Any] | None:
        """The metrics of a seed that has come to its end, and whose model is there."""
        return _read_metrics(_SeedMetrics, self.of_seed(seed))

    def history(self, seed: int) -> list[dict[str, Any]]:
        """The entries of a seed's log."""
        return read_log(self.of_seed(seed).log)


def refuse_runs(folder: Path) -> None:
    """Refuse to write into the folder of a run or of one of its seeds, whose metrics and predictions would be lost."""
    if any((folder / name).exists() for name in ("run.json", "log.jsonl")):
        raise InputError(f"{folder}: holds a training run; choose another folder")


def _read_metrics(schema: type[Schema], folder: run_folder.RunFolder) -> dict[str, Any] | None:
    if not holds_model(folder.model):
        return None
    try:
        return read_record(schema, folder.metrics)
    except InputError as error:
        raise InputError(f"{error}; remove {folder.metrics} to have it written anew") from error


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the fields of the plan beside the others."""
    return {**record, **record["plan"], "plan": None}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
