"""Forward pass beside busy neighbours: processes that compute without end, as on a shared server or in a container
whose quota is smaller than the machine. Ours in fp32 and in int8, and ONNX Runtime on the same model, exported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks.cases import INT8, ONNX, OURS, Case
from benchmarks.report import Row
from benchmarks.run import Run, time_subjects
from benchmarks.runtimes import makers_of

ROUNDS = 30
SUBJECTS = (OURS, INT8, ONNX)
RATIOS = (("time / ours", OURS),)


@dataclass(frozen=True)
class Crowded(Case):
    """A case beside so many busy processes."""

    neighbours: int = 0

    @property
    def name(self) -> str:
        return f"{super().name}, {self.neighbours} busy neighbours"


def cases(device: torch.device) -> list[Crowded]:
    """For the CPU, where neighbours share the cores."""
    shapes = ({"rectangle": (1, 32)}, {"rectangle": (8, 128)}, {"sentences": 16})
    return [
        Crowded("small", **shape, neighbours=count)  # type: ignore[arg-type]
        for shape in (shapes if device.type == "cpu" else ())
        for count in (0, 1, 2)
    ]


def measure(case: Crowded, run: Run) -> list[Row]:
    """One row."""
    makers = makers_of(case, run)
    row = Row(case.name, case.dtype)
    with torch.no_grad(), busy(case.neighbours):
        time_subjects(row, {name: makers[name] for name in SUBJECTS}, run.effort(ROUNDS), run.device)
    return [row]


@contextmanager
def busy(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that compute until the block ends."""
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
