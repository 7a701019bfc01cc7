"""Forward pass without gradients, fp32, against transformers' ConvBERT with the same weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers.models.convbert as theirs

from benchmarks.cases import FORWARD, SIZES, Case
from benchmarks.timing import interleaved, ratio
from convbert import ConvBertModel


def run(rounds: int, warmup: int) -> list[dict[str, Any]]:
    """One row per case."""
    return [measure(case, rounds, warmup) for case in FORWARD]


@torch.inference_mode()
def measure(case: Case, rounds: int, warmup: int) -> dict[str, Any]:
    """Time one case, after the outputs were found equal."""
    model, peer = twins(case.size)
    inputs = case.inputs()
    refuse_different(model, peer, inputs)
    subjects = {"ours": lambda: model(**inputs), "transformers": lambda: peer(**inputs)}
    seconds = interleaved(subjects, rounds, warmup)
    return {"case": case.name, "speedup": ratio(seconds["transformers"], seconds["ours"]), "seconds": seconds}


def twins(size: str) -> tuple[ConvBertModel, torch.nn.Module]:
    """Ours and theirs, with the same random weights."""
    torch.manual_seed(0)
    config = SIZES[size]()
    model = ConvBertModel(config).eval()
    peer = theirs.ConvBertModel(theirs.ConvBertConfig(**config.to_diff_dict())).eval()
    peer.load_state_dict(model.state_dict())
    return model, peer


def refuse_different(model: torch.nn.Module, peer: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """No speed without correctness: each of the first rows alone, where padding cannot matter."""
    states = model(**inputs).last_hidden_state
    for row in range(min(4, len(states))):
        ids = inputs["input_ids"][row]
        if "attention_mask" in inputs:
            ids = ids[inputs["attention_mask"][row].bool()]
        expected = peer(ids[None]).last_hidden_state[0]
        error = (states[row, : len(ids)] - expected).abs().max().item()
        if error > 1e-4:
            raise SystemExit(f"outputs differ from transformers' by {error:.1e}: nothing is timed")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| case | speed over transformers | middle half of the rounds |", "| --- | ---: | ---: |"]
    for row in rows:
        speedup = row["speedup"]
        lines.append(
            f"| {row['case']} | {speedup['median']:.2f}× | {speedup['low']:.2f}× to {speedup['high']:.2f}× |"
        )
    return "\n".join(lines)
