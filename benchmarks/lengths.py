"""Time and memory by length, one text at a time: ours, transformers' ConvBERT with the same weights, and of the same
width, layers and heads ELECTRA with SDPA and ModernBERT, which sees 128 tokens around each in two of three layers. All
have 8,192 positions; ModernBERT's feed-forward layers have as many weights as the others'. Memory is the peak above
the model, of one process for each subject, which reads the lengths one after the other; see `memory`. Ours was
compared with transformers' ConvBERT beforehand."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from functools import cache, partial

import torch
import transformers
from torch import nn

from benchmarks.cases import ELECTRA, OURS, SIZES, THEIRS, Case
from benchmarks.forward import calling, checked
from benchmarks.memory import ALLOCATOR, peak_on_gpu, peak_resident
from benchmarks.oracle import each_alone
from benchmarks.report import ROOT, Row
from benchmarks.run import Maker, Run, time_subjects
from benchmarks.subjects import prepare, rival, their_model, twins
from benchmarks.timing import Effort
from convbert import ConvBertConfig, ConvBertModel

ROUNDS = 10
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
MODERNBERT = "transformers' ModernBERT, SDPA"
SUBJECTS = (OURS, THEIRS, ELECTRA, MODERNBERT)
RATIOS = (("of ours", OURS),)


def cases(device: torch.device) -> list[Case]:
    return [Case("small", (1, length)) for length in LENGTHS]


def config_of(size: str) -> ConvBertConfig:
    return SIZES[size](max_position_embeddings=LENGTHS[-1])


def modern(config: ConvBertConfig) -> nn.Module:
    """ModernBERT of these sizes. Its feed-forward layer has three matrices in place of two."""
    names = "vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings"
    sizes = {name: getattr(config, name) for name in names.split()}
    special = dict.fromkeys(
        ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0
    )
    made = transformers.ModernBertConfig(
        **sizes, **special, intermediate_size=config.intermediate_size * 2 // 3, attn_implementation="sdpa"
    )
    return transformers.ModernBertModel(made)


def build(subject: str, config: ConvBertConfig) -> nn.Module:
    """With random weights."""
    if subject == OURS:
        return prepare(ConvBertModel(config))
    if subject == THEIRS:
        return their_model(config).eval()
    return (rival(config, "small") if subject == ELECTRA else modern(config)).eval()


def measure(case: Case, run: Run) -> list[Row]:
    """One row of times, one of memory."""
    config, inputs = config_of(case.size), case.inputs(run.device)
    ours, oracle = twins(config, case.torch_dtype, run.device)
    peers = {name: build(name, config).to(run.device) for name in (ELECTRA, MODERNBERT)}
    time, memory = Row(f"time, {case.name}", case.dtype), Row(f"memory, {case.name}", case.dtype, unit="B")
    with torch.inference_mode():
        expected = each_alone(oracle, inputs)
        makers: dict[str, Maker] = {
            OURS: lambda: checked(prepare(ours), inputs, expected, case.dtype),
            THEIRS: lambda: calling(oracle, inputs),
            **{name: partial(calling, peer, inputs) for name, peer in peers.items()},
        }
        effort = Effort(run.rounds or ROUNDS, warmup=1, seconds=run.seconds, fewest=3)
        time_subjects(time, makers, effort, run.device)
    for name in SUBJECTS:
        peaks = peaks_of(name, case.size, LENGTHS, str(run.device), run.threads)
        memory.values[name] = [float(peaks[str(inputs["input_ids"].shape[1])])]
    return [time, memory]


@cache
def peaks_of(subject: str, size: str, lengths: tuple[int, ...], device: str, threads: int) -> dict[str, int]:
    """Bytes above the model at each length, in a new process."""
    task = {"subject": subject, "size": size, "lengths": lengths, "device": device, "threads": threads}
    command = [sys.executable, "-m", "benchmarks.lengths", json.dumps(task)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ALLOCATOR}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


# -- in the new process


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task["threads"])
    device, config = torch.device(task["device"]), config_of(task["size"])
    model = build(task["subject"], config).to(device)
    found = {}
    with torch.inference_mode():
        model(**Case(task["size"], (1, 8)).inputs(device))
        for length in task["lengths"]:
            inputs = Case(task["size"], (1, length)).inputs(device)
            gc.collect()
            call = calling(model, inputs)
            found[length] = peak_on_gpu(call, device) if device.type == "cuda" else peak_resident(call)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
