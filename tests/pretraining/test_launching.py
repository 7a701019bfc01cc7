"""`convbert pretrain` as people start it: by torchrun, stopped by a scheduler, killed, and started again."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import processes
from convbert.cli import main
from processes import finish, start

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


@pytest.fixture(scope="module")
def one_process(corpus, heldout_text, tmp_path_factory) -> Path:
    """A run of one process with batches of 8."""
    output = tmp_path_factory.mktemp("one") / "run"
    assert main(words(corpus, heldout_text, output, batch_size=8)) == 0
    return output


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Up to another order of sums."""
    assert len(entries(ours)) == len(entries(theirs)) == 8 + 2
    for mine, other in zip(entries(ours), entries(theirs), strict=True):
        assert mine == pytest.approx(other, rel=2e-5, abs=2e-6)
    for name in ("model", "generator"):
        weights = [load_file(folder / name / "model.safetensors") for folder in (ours, theirs)]
        assert weights[0].keys() == weights[1].keys()
        for key, weight in weights[0].items():
            torch.testing.assert_close(weight, weights[1][key], rtol=1e-4, atol=1e-5)


def test_torchrun_gives_the_losses_of_one_process(corpus, heldout_text, tmp_path, one_process):
    two = words(corpus, heldout_text, tmp_path / "two", batch_size=4)
    processes.torchrun(main, two, logs=tmp_path / "logs")
    assert_same_run(tmp_path / "two", one_process)


def _sharded(arguments: list[str]) -> int:
    _shard_on_cpus()
    return main(arguments)


def _shard_on_cpus() -> None:
    """PyTorch shards over CPUs, too; accelerate, and therefore we, offer it for GPUs alone."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    from convbert.training import arguments

    as_it_is = PartialState.__init__

    def claim_gpus(self, *args, **kwargs):
        as_it_is(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = claim_gpus
    arguments.check_fsdp = lambda use_cpu: None


def start_two(arguments: list[str]) -> list[multiprocessing.process.BaseProcess]:
    """Two processes that have a part of the weights each."""
    return [processes.start(_sharded, arguments, environment=place) for place in processes.places(2)]


def test_bad_input_of_the_first_process_is_the_end_of_all(corpus, heldout_text, tmp_path):
    """Each says so; none calls it an internal error, which would be a 1."""
    (tmp_path / "empty.txt").touch()
    assert finish(start_two(words(tmp_path / "empty.txt", heldout_text, tmp_path / "run"))) == [2, 2]


def test_sharded_weights_train_and_go_on_after_a_kill_like_whole_ones(
    corpus, heldout_text, tmp_path, one_process
):
    arguments = words(corpus, heldout_text, tmp_path / "run", batch_size=4, fsdp=True)
    started = start_two(arguments)
    while not (tmp_path / "run/checkpoint-4").exists():
        assert all(process.is_alive() for process in started)
        time.sleep(0.005)
    for process in started:
        process.kill()
    assert finish(started) == [-signal.SIGKILL] * 2
    assert not (tmp_path / "run/model").exists()
    assert finish(start_two(arguments)) == [0, 0]
    assert_same_run(tmp_path / "run", one_process)
    assert not list(tmp_path.glob("run/*/pytorch_model*"))  # weights that only unpickling reads


def test_the_same_command_goes_on_after_any_kill(corpus, heldout_text, tmp_path):
    """With dropout; killed at random moments while it learns a vocabulary, reads, trains, and writes checkpoints."""
    settings = {"hidden_dropout_prob": 0.1, "max_steps": 16, "save_every": 1}
    output, source = tmp_path / "parts", random.Random(0)
    assert finish([start(main, words(corpus, heldout_text, tmp_path / "whole", **settings))]) == [0]

    def steps() -> int:
        log = output / "log.jsonl"
        return log.read_text().count("learning_rate") if log.exists() else 0

    moments = [
        (output / "plan.json").exists,
        (output / "data").exists,
        *(lambda wanted=wanted: steps() >= wanted for wanted in sorted(source.sample(range(1, 10), 3))),
        *[lambda: any(output.glob(".writing-checkpoint*"))] * 3,
    ]
    for has_come in moments:
        process = start(main, words(corpus, heldout_text, output, **settings))
        while not has_come():
            assert process.is_alive()
        time.sleep(source.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert finish([start(main, words(corpus, heldout_text, output, **settings))]) == [0]

    assert entries(output) == entries(tmp_path / "whole")
    ours, theirs = (load_file(folder / "model/model.safetensors") for folder in (output, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(output.glob(".*"))


@pytest.mark.parametrize(
    "moment", ["convbert.pretraining.run.resolve_tokenizer", "convbert.pretraining.baselines.measure"]
)
def test_a_signal_before_the_first_step_or_after_the_last_ends_the_command_in_order(
    corpus, heldout_text, tmp_path, monkeypatch, capsys, moment
):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(moment, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert main(words(corpus, heldout_text, tmp_path / "run", max_steps=5)) == 0
    assert "run the same command to go on" in capsys.readouterr().err
    assert not (tmp_path / "run/model").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    assert main(words(corpus, heldout_text, tmp_path / "run", max_steps=5)) == 0
    assert (tmp_path / "run/model").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_scheduler_gets_the_exit_code_it_asked_for(corpus, heldout_text, tmp_path, number, code):
    process = start(main, words(corpus, heldout_text, tmp_path / "run", max_steps=100_000))
    while not (tmp_path / "run/checkpoint-4").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    assert not (tmp_path / "run/model").exists()
