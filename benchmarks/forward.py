"""Forward pass without gradients: ours, transformers' ConvBERT with the same weights (as it is, and compiled, where
the time to compile is not counted), transformers' ELECTRA or BERT of the same sizes with SDPA, and the floor: only
the matrix products of our network, each by the best library call. Real sentences come as a padded batch; the floor is
spared the padding. In bfloat16 the weights are bfloat16. What computes ConvBERT is compared with transformers'
ConvBERT in float32 on each text alone before anything is timed."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from benchmarks.cases import (
    COMPILED,
    FLOOR,
    OURS,
    RIVAL,
    THEIRS,
    THEIRS_FLOAT32,
    Case,
    forward_cases,
    row_lengths,
)
from benchmarks.floor import Floor
from benchmarks.oracle import STATES, Inputs, each_alone, real_rows, refuse, worst_token
from benchmarks.report import Row
from benchmarks.run import Maker, Run, time_subjects
from benchmarks.subjects import compiled, config_of, prepare, rival, twins
from benchmarks.timing import Call

ROUNDS = 20
RATIOS = (("time / floor", FLOOR), ("time / ours", OURS))
cases = forward_cases


def measure(case: Case, run: Run) -> list[Row]:
    """One row."""
    config, dtype, device = config_of(case), case.torch_dtype, run.device
    inputs = case.inputs(device)
    ours, oracle = twins(config, dtype, device)
    with torch.inference_mode():
        expected = each_alone(oracle, inputs)
    theirs = oracle if dtype == torch.float32 else deepcopy(oracle).to(dtype)
    peer = rival(config, case.size).to(device, dtype).eval()
    floor = Floor(config, row_lengths(inputs), dtype, device)

    def make_ours() -> Call:
        return checked(prepare(ours), inputs, expected, case.dtype)

    def make_theirs() -> Call:
        # With padding it differs from each text alone by design: the padding leaks into the convolution.
        return (
            calling(theirs, inputs)
            if "attention_mask" in inputs
            else checked(theirs, inputs, expected, case.dtype)
        )

    def make_compiled() -> Call:
        same_padding = real_rows(theirs(**inputs).last_hidden_state, inputs)
        return checked(compiled(theirs, device), inputs, same_padding, case.dtype)

    makers: dict[str, Maker] = {OURS: make_ours, THEIRS: make_theirs}
    if run.compile:
        makers[COMPILED] = make_compiled
    if theirs is not oracle:
        makers[THEIRS_FLOAT32] = lambda: calling(oracle, inputs)
    makers |= {RIVAL[case.size]: lambda: calling(peer, inputs), FLOOR: lambda: floor}
    row = Row(case.name, case.dtype, details={"floor": floor.chosen, "floor GFLOP": floor.flops / 1e9})
    with torch.inference_mode():
        time_subjects(row, makers, run.effort(ROUNDS), device)
    return [row]


def calling(model: nn.Module, inputs: Inputs) -> Call:
    return lambda: model(**inputs)


def checked(model: nn.Module, inputs: Inputs, expected: list[Tensor], precision: str) -> Call:
    """The call, after its states were found equal to the expected rows."""
    states = model(**inputs).last_hidden_state
    refuse(worst_token(real_rows(states, inputs), expected), STATES[precision])
    return calling(model, inputs)
