"""Forward pass in int8 (8-bit weights and activations, dynamic), through what `convbert.load(folder,
precision="int8")` returns, against ours and transformers' ConvBERT in float32. What int8 costs in accuracy is in the
part `pipeline`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.cases import INT8, OURS, PUBLISHED, THEIRS, Case
from benchmarks.forward import checked
from benchmarks.oracle import each_alone
from benchmarks.precision import load
from benchmarks.report import Row
from benchmarks.run import Run, time_subjects
from benchmarks.subjects import config_of, prepare, twins
from benchmarks.timing import Call

ROUNDS = 15
RATIOS = (("time / ours, int8", INT8), ("time / ours, float32", OURS))


def cases(device: torch.device) -> list[Case]:
    """int8 is for the CPU."""
    return [Case(size, (8, 128), dtype="int8") for size in PUBLISHED] if device.type == "cpu" else []


def measure(case: Case, run: Run) -> list[Row]:
    """One row."""
    inputs = case.inputs(run.device)
    ours, oracle = twins(config_of(case), torch.float32, run.device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        expected = each_alone(oracle, inputs)

        def make_int8() -> Call:
            ours.save_pretrained(folder)
            return checked(load(Path(folder), "int8"), inputs, expected, "int8")

        makers = {
            INT8: make_int8,
            OURS: lambda: checked(prepare(ours), inputs, expected, "float32"),
            THEIRS: lambda: checked(oracle, inputs, expected, "float32"),
        }
        row = Row(case.name, case.dtype)
        time_subjects(row, makers, run.effort(ROUNDS), run.device)
    return [row]
