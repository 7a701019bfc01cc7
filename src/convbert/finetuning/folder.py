"""Where everything of a fine-tuning run lies."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbert.errors import InputError
from convbert.saving import read_json, whole_folder

_MAY_CHANGE = ("bf16", "log_every", "seeds")


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

    def check(self, record: dict[str, Any], resume: bool) -> None:
        """Check that the folder is empty, or, to resume, that it is the same run that goes on.

        Raises:
            InputError: the folder is in use, or holds another run or none.
        """
        if not any(self.root.iterdir()):
            return
        if not resume:
            raise InputError(
                f"{self.root}: not empty; resume the run in it (--resume), or choose another folder"
            )
        stored = read_json(self.record)
        if stored is None:
            raise InputError(f"{self.root}: not empty, and there is no run in it to resume (no run.json)")
        before, now = _flat(stored), _flat(json.loads(json.dumps(record)))
        changes = [
            f"{name} was {before[name]}, now {value}"
            for name, value in now.items()
            if name in before and before[name] != value and name not in _MAY_CHANGE
        ]
        if changes:
            raise InputError(f"{self.root}: this run was started otherwise: {'; '.join(changes)}")

    def note(self, record: dict[str, Any]) -> None:
        """Write down what is being run.

        Raises:
            InputError: the folder cannot be written.
        """
        write_whole(self.record, record)

    def clear_checkpoints(self, seed: int) -> None:
        """Remove what only an interrupted run needs."""
        for checkpoint in self.of_seed(seed).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def refuse_runs(folder: Path) -> None:
    """Refuse to write into the folder of a run or of one of its seeds, whose figures and predictions would be lost.

    Raises:
        InputError: it is one.
    """
    if any((folder / name).exists() for name in ("run.json", "log.jsonl")):
        raise InputError(f"{folder}: holds a training run; choose another folder")


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the fields of the plan beside the others."""
    return {**record, **record.get("plan", {}), "plan": None}


def write_whole(path: Path, content: Any) -> None:
    """As `write_json`, so that the file is there in full or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    with whole_folder(path.parent) as draft:
        write_json(draft / path.name, content)


def write_json(path: Path, content: Any) -> None:
    """Write an object for people to read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
