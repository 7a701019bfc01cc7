"""Masked language modelling where 15 % of the positions are masked: ours with the vocabulary computed at those
positions alone (`logits_to_keep`), ours with the logits of all positions, and transformers', which knows no other
way. Full logits are compared with transformers', those kept with the full ones."""

from __future__ import annotations

import torch
import transformers.models.convbert as theirs

from benchmarks.cases import OURS, THEIRS, Case
from benchmarks.oracle import STATES, refuse, worst_token
from benchmarks.report import Row
from benchmarks.run import Run, time_subjects
from benchmarks.subjects import config_of, lively, prepare
from benchmarks.timing import Call
from convbert import ConvBertForMaskedLM

ROUNDS = 15
ALL = "ours, all logits"
RATIOS = (("time / ours", OURS),)
MASKED = 0.15


def cases(device: torch.device) -> list[Case]:
    return [Case("base", (8, 128))]


@torch.inference_mode()
def measure(case: Case, run: Run) -> list[Row]:
    """One row."""
    model, peer = _twins(case, run.device)
    ids = case.inputs(run.device)["input_ids"]
    chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < MASKED
    chosen = chosen.to(run.device)

    def all_logits() -> torch.Tensor:
        return model(input_ids=ids).logits

    def kept() -> torch.Tensor:
        return model(input_ids=ids, logits_to_keep=chosen).logits

    def checked(call: Call, expected: torch.Tensor) -> Call:
        refuse(worst_token([call()], [expected]), STATES[case.dtype])
        return call

    full = peer(input_ids=ids).logits.flatten(0, 1)
    makers = {
        OURS: lambda: checked(kept, full[chosen.flatten()]),
        ALL: lambda: checked(lambda: all_logits().flatten(0, 1), full),
        THEIRS: lambda: lambda: peer(input_ids=ids),
    }
    row = Row(case.name, case.dtype, details={"masked positions": int(chosen.sum())})
    time_subjects(row, makers, run.effort(ROUNDS), run.device)
    return [row]


def _twins(case: Case, device: torch.device) -> tuple[torch.nn.Module, torch.nn.Module]:
    config = config_of(case)
    model = lively(ConvBertForMaskedLM, config).to(device)
    peer = theirs.ConvBertForMaskedLM(theirs.ConvBertConfig(**config.to_diff_dict())).to(device).eval()
    peer.load_state_dict(model.state_dict())
    return prepare(model), peer
