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
    """The folder of a run: `model/`, `metrics.json`, `predictions.jsonl`, `report.html`, and one folder a seed."""

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

    def claim(self, record: dict[str, Any], resume: bool) -> None:
        """Note what is being run in an empty or new folder, or check that it is the same run that goes on.

        Raises:
            InputError: the folder is in use, holds another run, or cannot be written.
        """
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root}: is a file; the output must be a folder")
        stored = read_json(self.record)
        if not resume and self.root.exists() and any(self.root.iterdir()):
            raise InputError(
                f"{self.root}: not empty; resume the run in it (--resume), or choose another folder"
            )
        if resume and stored is not None:
            before, now = _flat(stored), _flat(json.loads(json.dumps(record)))
            changes = [
                f"{name} was {before.get(name)}, now {value}"
                for name, value in now.items()
                if before.get(name) != value and name not in _MAY_CHANGE
            ]
            if changes:
                raise InputError(f"{self.root}: this run was started otherwise: {'; '.join(changes)}")
        with whole_folder(self.root) as draft:
            write_json(draft / self.record.name, record)

    def clear_checkpoints(self, seed: int) -> None:
        """Remove what only an interrupted run needs."""
        for checkpoint in self.of_seed(seed).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the fields of the plan beside the others."""
    return {**record, **record.get("plan", {}), "plan": None}


def write_json(path: Path, content: Any) -> None:
    """Write an object for people to read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
