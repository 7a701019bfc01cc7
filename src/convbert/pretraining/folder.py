"""The folder of a pre-training run: whose it is, and what may go on in it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbert.errors import InputError
from convbert.pretraining.recipes import PretrainingPlan
from convbert.saving import read_json, write_atomically

# What may change when a run goes on; a change of anything else would make it another run. Batch size and accumulation
# steps may, as long as a step takes equally many sequences: see `Run.data_record`.
_MAY_CHANGE = frozenset(
    (
        *("name", "max_steps", "max_minutes", "bf16", "batch_size", "gradient_accumulation_steps"),
        *("log_every", "evaluate_every", "save_every"),
        *("keep_checkpoints", "max_skipped_steps"),
        *("gradient_checkpointing", "compile", "fsdp", "dataloader_workers", "report_to"),
    )
)
_LENGTH = ("max_steps", "max_minutes")
_DRAFT = re.compile(r"\.(model|generator)-\d+|\.vocabulary-\w+")
"""What a kill may leave half-written: see `write_models` and `train_wordpiece`."""


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one run lies."""

    root: Path

    @property
    def data(self) -> Path:
        """The tokenised corpus."""
        return self.root / "data"

    @property
    def tokenizer(self) -> Path:
        """The vocabulary that this run learned."""
        return self.root / "tokenizer"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.root / "model"

    @property
    def plan(self) -> Path:
        """What is being run."""
        return self.root / "plan.json"

    @property
    def data_record(self) -> Path:
        """What it is run on."""
        return self.root / "run_data.json"

    @property
    def history(self) -> Path:
        """One JSON object a line for every log entry."""
        return self.root / "log.jsonl"

    @property
    def page(self) -> Path:
        """How the run goes, for people."""
        return self.root / "report.html"

    @property
    def metrics(self) -> Path:
        """The figures of a finished run; written last."""
        return self.root / "metrics.json"

    def claim(self, plan: PretrainingPlan) -> bool:
        """Note the plan; whether the run is a new one.

        Raises:
            InputError: the folder holds a run with another plan, a finished one of another length, or something else,
                or cannot be written.
        """
        stored = read_json(self.plan)
        is_new = stored is None
        if is_new and {path.name for path in self.root.iterdir()} - {f"{self.plan.name}.partial"}:
            raise InputError(f"{self.root}: not empty, and holds no run to go on with; choose another folder")
        wanted = json.loads(json.dumps(plan.to_dict()))
        if stored is not None:
            changes = _differences(stored, {n: v for n, v in wanted.items() if n not in _MAY_CHANGE})
            if changes:
                raise InputError(f"{self.root}: this run was started with another plan: {changes}")
            if self.metrics.exists() and (changes := _differences(stored, {n: wanted[n] for n in _LENGTH})):
                raise InputError(
                    f"{self.root}: this run has finished: {changes}; train on in another folder, "
                    f"with --start-from {self.model}"
                )
        for path in [*self.root.glob(".*"), *self.tokenizer.glob(".*")]:
            if _DRAFT.fullmatch(path.name):
                shutil.rmtree(path)
        self._write(self.plan, wanted)
        return is_new

    def bind(self, record: dict[str, Any]) -> None:
        """Note what the run is trained on, or check that it is still that.

        Raises:
            InputError: it is something else.
        """
        stored = read_json(self.data_record)
        if stored is None:
            self._write(self.data_record, record)
        elif changes := _differences(stored, record):
            raise InputError(f"{self.root}: this run was started with another corpus: {changes}")

    def clear(self) -> None:
        """Remove what was written since a `claim` of a new run."""
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        try:
            write_atomically(path, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{self.root}: cannot be written: {error.strerror or error}") from error


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    changed = [name for name, value in wanted.items() if stored.get(name) != value]
    return "; ".join(f"{name} was {stored.get(name)}, now {wanted[name]}" for name in changed)
