"""`convbert pretrain` as people start it: by torchrun, stopped by a scheduler, killed, and started again."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import convbert
from convbert.cli import main

SETTINGS = {
    "vocab_size": 200,
    "max_steps": 8,
    "log_every": 1,
    "save_every": 4,
    "evaluate_every": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def words(corpus: Path, heldout: Path, output: Path, **settings: object) -> list[str]:
    given = [f"{name}={json.dumps(value)}" for name, value in (SETTINGS | settings).items()]
    files = ["--corpus", str(corpus), "--heldout", str(heldout), "--output", str(output)]
    options = ["--recipe", "smoke", "--device", "cpu", "--no-bf16"]
    return ["pretrain", *options, *files, *(word for pair in given for word in ("--set", pair))]


def entries(output: Path) -> list[dict]:
    timings = {"tokens_per_second", "seconds_per_step", "input_wait", "minutes", "minutes_left", "mfu"}
    lines = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in timings} for line in lines]


def test_torchrun_gives_the_losses_of_one_process(corpus, heldout_text, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = [str(Path(convbert.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    two = words(corpus, heldout_text, tmp_path / "two", batch_size=4)
    done = subprocess.run(
        [*command, "-m", "convbert", *two], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert main(words(corpus, heldout_text, tmp_path / "one", batch_size=8)) == 0
    ours, theirs = entries(tmp_path / "two"), entries(tmp_path / "one")
    assert len(ours) == len(theirs) == 8 + 2
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=2e-5, abs=2e-6)
    weights = [load_file(tmp_path / name / "model/model.safetensors") for name in ("two", "one")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-4, atol=1e-5)


# A process that has imported everything, from which the others are forked: starting is cheap.
PROCESSES = multiprocessing.get_context("forkserver")


def _main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    raise SystemExit(main(arguments))


def start(arguments: list[str]) -> multiprocessing.Process:
    PROCESSES.set_forkserver_preload(["convbert.pretraining.run", "convbert.cli", __name__])
    process = PROCESSES.Process(target=_main, args=(arguments,))
    process.start()
    return process


def test_the_same_command_goes_on_after_any_kill(corpus, heldout_text, tmp_path):
    """With dropout; killed while it learns a vocabulary, reads the corpus, trains or writes."""
    settings = {"hidden_dropout_prob": 0.1, "max_steps": 16, "save_every": 1}
    whole = words(corpus, heldout_text, tmp_path / "whole", **settings)
    parts = words(corpus, heldout_text, tmp_path / "parts", **settings)
    start(["--version"]).join()  # imports everything
    began = time.monotonic()
    process = start(whole)
    process.join()
    assert process.exitcode == 0
    source, duration = random.Random(0), time.monotonic() - began
    for kills in range(40):
        process = start(parts)
        process.join(duration * source.uniform(0.1, 0.6) * (1 + kills / 10))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
    assert process.exitcode == 0
    assert kills >= 3
    assert entries(tmp_path / "parts") == entries(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "model/model.safetensors") for name in ("parts", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list((tmp_path / "parts").glob(".*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_scheduler_gets_the_exit_code_it_asked_for(corpus, heldout_text, tmp_path, number, code):
    process = start(words(corpus, heldout_text, tmp_path / "run", max_steps=100_000))
    end = time.monotonic() + 60
    while not (tmp_path / "run/checkpoint-4").exists():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    assert not (tmp_path / "run/model").exists()
