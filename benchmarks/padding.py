"""A rectangle of which half is padding, in rows of unequal length: ours, ours on the same rectangle without padding
(what a batch costs whose padding is computed), and transformers' ConvBERT, which computes the padding. Forward pass,
and training step as in the part `training`."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from benchmarks.cases import FILLED, OURS, THEIRS, Case, padding_cases
from benchmarks.forward import calling, checked
from benchmarks.oracle import GRADIENTS, each_alone, refuse
from benchmarks.report import Row
from benchmarks.run import Maker, Run, time_subjects
from benchmarks.subjects import config_of, prepare, twins
from benchmarks.timing import Call
from benchmarks.training import gradient_error, training_step

ROUNDS = 10
RATIOS = (("time / ours", OURS),)
cases = padding_cases


def measure(case: Case, run: Run) -> list[Row]:
    """One row."""
    row = Row(f"{case.step}, {case.name}", case.dtype)
    makers = _training(case, run.device) if case.step == "training" else _forward(case, run.device)
    with torch.inference_mode(case.step == "forward"):
        time_subjects(row, makers, run.effort(ROUNDS), run.device)
    return [row]


def _forward(case: Case, device: torch.device) -> dict[str, Maker]:
    inputs, filled = case.inputs(device), replace(case, half_padded=False).inputs(device)
    ours, oracle = twins(config_of(case), case.torch_dtype, device)
    theirs = deepcopy(oracle).to(case.torch_dtype)
    model = prepare(ours)

    def make_ours() -> Call:
        return checked(model, inputs, each_alone(oracle, inputs), case.dtype)

    return {OURS: make_ours, FILLED: lambda: calling(model, filled), THEIRS: lambda: calling(theirs, inputs)}


def _training(case: Case, device: torch.device) -> dict[str, Maker]:
    inputs, filled = case.inputs(device), replace(case, half_padded=False).inputs(device)
    ours, theirs = twins(config_of(case), torch.float32, device)

    def make_ours() -> Call:
        refuse(gradient_error(case, inputs, device), GRADIENTS[case.dtype])
        return training_step(ours, case, inputs)

    return {
        OURS: make_ours,
        FILLED: lambda: training_step(ours, case, filled),
        THEIRS: lambda: training_step(theirs, case, inputs),
    }
