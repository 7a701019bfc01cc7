"""Forward pass beside busy neighbours: processes that compute without end, as on a shared server or in a container
whose quota is smaller than the machine. Ours in fp32 and in int8, and ONNX Runtime on the same model, exported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch

from benchmarks.cases import INT8, ONNX, OURS, Case
from benchmarks.forward import checked
from benchmarks.oracle import each_alone
from benchmarks.report import Row
from benchmarks.run import Run, time_subjects
from benchmarks.subjects import config_of, onnx_runtime, prepare, twins
from benchmarks.timing import Call
from convbert.model.frozen import freeze

ROUNDS = 30
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
    inputs = case.inputs(run.device)
    ours, oracle = twins(config_of(case), torch.float32, run.device)
    int8, exported = deepcopy(ours), deepcopy(ours)
    with torch.inference_mode():
        expected = each_alone(oracle, inputs)

    def make_int8() -> Call:
        prepare(int8)
        freeze(int8.encoder, int8=True)
        return checked(int8, inputs, expected, "int8")

    makers = {
        OURS: lambda: checked(prepare(ours), inputs, expected, "float32"),
        INT8: make_int8,
        ONNX: lambda: onnx_runtime(exported, inputs, run.threads),
    }
    row = Row(case.name, case.dtype)
    with torch.no_grad(), busy(case.neighbours):
        time_subjects(row, makers, run.effort(ROUNDS), run.device)
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
