"""The folder of a pre-training run: whose it is, and what may go on in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import NonNegativeInt, create_model

from convbert.files.atomic import LOCK, write_json
from convbert.pretraining.recipes import PretrainingPlan
from convbert.training import run_folder
from convbert.training.checkpoints import checkpoints_in
from convbert.training.run_folder import differences, holds_model, read_record
from convbert.util.errors import InputError
from convbert.util.schema import Schema

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
_DRAFTS = "*/.saving-*"
"""What a kill may leave half-written: see `atomic_folder`."""

_FIELDS: Any = {name: (kind, None) for name, kind in get_type_hints(PretrainingPlan).items()}
_Plan = create_model("_Plan", __base__=Schema, **_FIELDS)


class _Data(Schema):
    """Of `run_data.json`; see `Run.data_record`."""

    train: str
    heldout: str | None
    tokenizer: str


class _Metrics(Schema):
    """Of `metrics.json`."""

    __pydantic_extra__: dict[str, bool | int | float | str | None]
    steps: NonNegativeInt


@dataclass(frozen=True)
class RunFolder(run_folder.RunFolder):
    """Where everything of one pre-training run lies."""

    @property
    def data(self) -> Path:
        """The tokenised corpus."""
        return self.root / "data"

    @property
    def tokenizer(self) -> Path:
        """The vocabulary that this run learned."""
        return self.root / "tokenizer"

    @property
    def plan(self) -> Path:
        """What is being run."""
        return self.root / "plan.json"

    @property
    def data_record(self) -> Path:
        """What it is run on."""
        return self.root / "run_data.json"

    @property
    def page(self) -> Path:
        """How the run goes, for people."""
        return self.root / "report.html"

    def claim(self, plan: PretrainingPlan) -> bool:
        """Note the plan; whether the run is a new one.

        Raises:
            InputError: the folder holds a run with another plan, a finished one of another length, or something else,
                or cannot be written.
        """
        stored = read_record(_Plan, self.plan)
        is_new = stored is None
        if is_new and {path.name for path in self.root.iterdir()} - {f"{self.plan.name}.partial", LOCK}:
            raise InputError(f"{self.root}: not empty, and holds no run to go on with; choose another folder")
        wanted = json.loads(json.dumps(plan.to_dict()))
        if stored is not None:
            fixed = {name: value for name, value in wanted.items() if name not in _MAY_CHANGE}
            if changes := differences(stored, fixed):
                raise InputError(f"{self.root}: this run was started with another plan: {changes}")
            if self.metrics.exists() and (changes := differences(stored, {n: wanted[n] for n in _LENGTH})):
                raise InputError(
                    f"{self.root}: this run has finished: {changes}; train on in another folder, "
                    f"with --start-from {self.model}"
                )
        for path in self.root.glob(_DRAFTS):
            shutil.rmtree(path)
        write_json(self.plan, wanted)
        return is_new

    def bind(self, record: dict[str, Any]) -> None:
        """Note what the run is trained on, or check that it is still that."""
        stored = read_record(_Data, self.data_record)
        if stored is None:
            if checkpoints_in(self.root):
                raise InputError(
                    f"{self.data_record}: is missing, so nobody knows what this run is trained on"
                )
            write_json(self.data_record, record)
        elif changes := differences(stored, record):
            raise InputError(f"{self.root}: this run was started with another corpus: {changes}")

    def finished(self, plan: PretrainingPlan, report: Callable[[str], None]) -> dict[str, Any] | None:
        """The metrics of a run that has finished; None where there is something left to do, if only to write models
        again that are gone.

        Raises:
            InputError: they are gone, and there is no checkpoint from which they could be written again.
        """
        metrics = read_record(_Metrics, self.metrics)
        if metrics is None:
            return None
        models = ["model"] if plan.objective == "mlm" else ["model", "generator"]
        lost = [name for name in models if not holds_model(self.root / name)]
        if not lost:
            return metrics
        told = f"{self.root}: this run has finished, but {' and '.join(lost)} is gone, and"
        if not checkpoints_in(self.root):
            raise InputError(
                f"{told} no checkpoint is left to write it from; remove the folder to train anew"
            )
        report(f"{told} is written again")
        return None

    def clear(self) -> None:
        """Remove what was written since a `claim` of a new run."""
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
