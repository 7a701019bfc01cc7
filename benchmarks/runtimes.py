"""Forward pass of the same weights in the runtimes that a user of a CPU would pick: ours in fp32 and int8, ONNX Runtime
in fp32 and in dynamic int8, OpenVINO in fp32, the latter three on what `convbert export` writes. Real sentences come as
a padded batch. ONNX Runtime's threads sleep between calls: spinning, they would take a core from the next subject."""

from __future__ import annotations

from copy import deepcopy

import torch

from benchmarks.cases import INT8, ONNX, ONNX_INT8, OPENVINO, OURS, RUNTIME_CASES, Case
from benchmarks.forward import checked
from benchmarks.oracle import each_alone
from benchmarks.report import Row
from benchmarks.run import Maker, Run, time_subjects
from benchmarks.subjects import config_of, onnx_runtime, openvino, prepare, twins
from benchmarks.timing import Call
from convbert.model.frozen import freeze

ROUNDS = 15
RATIOS = (("time / ours", OURS), ("time / ours, int8", INT8))


def cases(device: torch.device) -> list[Case]:
    """For the CPU."""
    return RUNTIME_CASES if device.type == "cpu" else []


def measure(case: Case, run: Run) -> list[Row]:
    """One row."""
    row = Row(case.name, case.dtype)
    with torch.no_grad():
        time_subjects(row, makers_of(case, run), run.effort(ROUNDS), run.device)
    return [row]


def makers_of(case: Case, run: Run) -> dict[str, Maker]:
    """What builds each subject, all with the same weights."""
    inputs = case.inputs(run.device)
    ours, oracle = twins(config_of(case), torch.float32, run.device)
    int8, exported = deepcopy(ours), deepcopy(ours)
    with torch.inference_mode():
        expected = each_alone(oracle, inputs)

    def make_int8() -> Call:
        prepare(int8)
        freeze(int8.encoder, int8=True)
        return checked(int8, inputs, expected, "int8")

    return {
        OURS: lambda: checked(prepare(ours), inputs, expected, "float32"),
        INT8: make_int8,
        ONNX: lambda: onnx_runtime(exported, inputs, run.threads),
        ONNX_INT8: lambda: onnx_runtime(exported, inputs, run.threads, "int8-dynamic"),
        OPENVINO: lambda: openvino(exported, inputs, run.threads),
    }
