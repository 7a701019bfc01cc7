"""How a part is run: its cases one by one, each kept as soon as it is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.oracle import DifferentError
from benchmarks.report import Results, Row, world
from benchmarks.subjects import UnavailableError
from benchmarks.timing import Call, Effort, interleaved

# tqdm's watchdog would run beside what is timed.
tqdm.monitor_interval = 0


@dataclass(frozen=True)
class Run:
    """What the command line decides.

    Attributes:
        rounds: at most so many; None is each part's own number.
        seconds: after so many, a case gets no more rounds than the fewest.
        compile: also measure transformers' ConvBERT compiled.
        only: a regular expression that a case's name and precision must match.
    """

    device: torch.device
    threads: int = 2
    rounds: int | None = None
    warmup: int = 2
    seconds: float = 60.0
    compile: bool = True
    only: str = ""

    def effort(self, rounds: int) -> Effort:
        return Effort(rounds=self.rounds or rounds, warmup=self.warmup, seconds=self.seconds)

    def settings(self) -> dict[str, Any]:
        return {"threads": self.threads, "warm-up rounds": self.warmup, "seconds a case, about": self.seconds}


def run_part(part: ModuleType, run: Run, folder: Path, cases: Sequence[Any] | None = None) -> Results:
    """Measure a part's cases that `run.only` matches, and write them to `folder`.

    A part has `cases(device)`, `measure(case, run)`, the `RATIOS` of its table, and a docstring that opens its page.
    """
    name = part.__name__.rpartition(".")[2]
    about = (part.__doc__ or "").strip()
    results = Results(folder, name, about, part.RATIOS, world(run.device, run.settings()))
    chosen = [
        case
        for case in (part.cases(run.device) if cases is None else cases)
        if re.search(run.only, f"{case.name} {case.dtype} {case.step}")
    ]
    progress = tqdm(chosen, desc=name, unit="case")
    for case in progress:
        progress.set_postfix_str(f"{case.name} {case.dtype}")
        for row in part.measure(case, run):
            results.add(row)
    return results


Maker = Callable[[], Call]


def time_subjects(row: Row, makers: Mapping[str, Maker], effort: Effort, device: torch.device) -> None:
    """Build each subject, which checks it, and time together those that passed; the others get a note in `row`."""
    calls: dict[str, Call] = {}
    for name, make in makers.items():
        try:
            calls[name] = make()
        except (DifferentError, UnavailableError) as reason:
            row.notes[name] = str(reason)
    row.values |= interleaved(calls, effort, device)
