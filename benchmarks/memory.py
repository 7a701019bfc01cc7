"""Peak memory above the model, in a fresh process for every measure, counted from where it stands after the model was
built and one tiny step was made, so that neither weights, nor optimizer state, nor the start of libraries count.
Training: one whole step (forward, backward, fused AdamW), gradients included. On the CPU it is the resident size,
where glibc is told to give freed memory back at once (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ 64 KiB, one
arena); on a GPU it is what PyTorch's allocator handed out. Ours was compared with transformers' ConvBERT beforehand."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from benchmarks.cases import OURS, RIVAL, SIZES, THEIRS, Case, memory_cases
from benchmarks.forward import checked
from benchmarks.oracle import GRADIENTS, DifferentError, each_alone, refuse
from benchmarks.report import ROOT, Row
from benchmarks.run import Run
from benchmarks.subjects import config_of, prepare, rival, their_model, twins
from benchmarks.timing import Call
from benchmarks.training import adamw_of, gradient_error, training_step
from convbert import ConvBertModel

ROUNDS = 3  # fresh processes of each subject
RATIOS = (("of transformers'", THEIRS), ("of ours", OURS))
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "PYTHONPATH": os.pathsep.join(sys.path),
}
STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
cases = memory_cases


def measure(case: Case, run: Run) -> list[Row]:
    """One row; subjects take turns, A B A B, each time in a new process."""
    row = Row(f"{case.step}, {case.name}", case.dtype, unit="B")
    subjects = [THEIRS, RIVAL[case.size]]
    try:
        _check(case, run.device)
        subjects.insert(0, OURS)
    except DifferentError as reason:
        row.notes[OURS] = str(reason)
    row.values = {subject: [] for subject in subjects}
    for _ in range(run.effort(ROUNDS).rounds):
        for subject in subjects:
            row.values[subject].append(_in_new_process(subject, case, run))
    return [row]


def _check(case: Case, device: torch.device) -> None:
    inputs = case.inputs(device)
    if case.step == "training":
        refuse(gradient_error(case, inputs, device), GRADIENTS[case.dtype])
        return
    ours, oracle = twins(config_of(case), case.torch_dtype, device)
    with torch.inference_mode():
        checked(prepare(ours), inputs, each_alone(oracle, inputs), case.dtype)


def _in_new_process(subject: str, case: Case, run: Run) -> float:
    task = {"subject": subject, "case": asdict(case), "device": str(run.device), "threads": run.threads}
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(task)]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


# -- in the new process


def peak_above_model(subject: str, case: Case, device: torch.device) -> int:
    """Bytes that the step of `case` needs at its worst moment beyond what is there before it."""
    model = _build(subject, case).to(device)
    if case.step == "training":
        optimizer = adamw_of(model.parameters())  # one, whose state is there after the tiny step
        small, whole = (
            training_step(model, case, each.inputs(device), optimizer) for each in (_tiny(case), case)
        )
    else:
        model = prepare(model.to(case.torch_dtype)) if subject == OURS else model.to(case.torch_dtype).eval()
        small, whole = (_forward(model, each, device) for each in (_tiny(case), case))
    small()
    model.zero_grad()
    return peak_on_gpu(whole, device) if device.type == "cuda" else peak_resident(whole)


def _build(subject: str, case: Case) -> nn.Module:
    config = SIZES[case.size]()
    if subject == OURS:
        return ConvBertModel(config)
    return their_model(config) if subject == THEIRS else rival(config, case.size)


def _tiny(case: Case) -> Case:
    return Case(case.size, (1, 8), dtype=case.dtype, step=case.step)


def _forward(model: nn.Module, case: Case, device: torch.device) -> Call:
    inputs = case.inputs(device)

    def run() -> None:
        with torch.inference_mode():
            model(**inputs)

    return run


def peak_on_gpu(call: Call, device: torch.device) -> int:
    gc.collect()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def peak_resident(call: Call) -> int:
    """Growth of the largest resident size; where the kernel cannot forget an earlier peak, beyond that one."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        PEAK_RESET.write_text("5")
    before = _largest_resident()
    call()
    return _largest_resident() - before


def _largest_resident() -> int:
    """Bytes."""
    if STATUS.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"), re.M)
        if found:
            return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task["threads"])
    shape = task["case"]["rectangle"]
    case = Case(**{**task["case"], "rectangle": shape and tuple(shape)})
    print(peak_above_model(task["subject"], case, torch.device(task["device"])))


if __name__ == "__main__":
    main()
