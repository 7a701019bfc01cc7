"""Several processes train the model that one would."""

import os
import signal
import time
import warnings

import pytest
import torch

from convbert.training.checkpoints import last_checkpoint
from convbert.training.processes import launched_processes
from convbert.util.errors import SlowerWarning
from training_runs import REFUSED, STOPPED, finish, log_of, start, weights_of

# Sums are added up in another order.
ROUNDING = {"rel": 1e-5, "abs": 1e-6}


def assert_equal_runs(one, other):
    entries = log_of(one), log_of(other)
    assert len(entries[0]) == len(entries[1])
    for ours, theirs in zip(*entries, strict=True):
        assert ours == pytest.approx(theirs, **ROUNDING)
    for ours, theirs in zip(weights_of(one).values(), weights_of(other).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


SIZES = {"steps": 8, "log_every": 1, "evaluate_every": 4}


def test_two_processes_with_accumulation_are_one_large_batch(tmp_path):
    """Texts have other lengths, so that a mean of the parts' means would be another number."""
    assert finish(tmp_path / "one", batch_size=8, dropout=0.0, **SIZES) == [0]
    assert finish(tmp_path / "two", 2, batch_size=4, dropout=0.0, **SIZES) == [0, 0]
    parts = {"batch_size": 2, "gradient_accumulation_steps": 2}
    assert finish(tmp_path / "four", 2, dropout=0.0, **parts, **SIZES) == [0, 0]
    assert_equal_runs(tmp_path / "two", tmp_path / "one")
    assert_equal_runs(tmp_path / "four", tmp_path / "one")


def test_dropout_belongs_to_the_batch_and_not_to_the_process(tmp_path):
    assert finish(tmp_path / "one", batch_size=4, gradient_accumulation_steps=2, **SIZES) == [0]
    assert finish(tmp_path / "two", 2, batch_size=4, **SIZES) == [0, 0]
    assert_equal_runs(tmp_path / "two", tmp_path / "one")


def wait_for_checkpoint(folder, processes):
    while last_checkpoint(folder) is None:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.01)


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    assert finish(tmp_path / "whole", 2) == [0, 0]
    processes = start(tmp_path / "parts", 2, pause_at=3)
    wait_for_checkpoint(tmp_path / "parts", processes)
    os.kill(processes[1].pid, signal.SIGTERM)
    (tmp_path / "parts/go").touch()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [STOPPED, STOPPED]
    assert finish(tmp_path / "parts", 2) == [0, 0]
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")


def test_when_one_process_dies_the_others_end_and_the_next_start_goes_on(tmp_path):
    assert finish(tmp_path / "whole", 2) == [0, 0]
    processes = start(tmp_path / "parts", 2, pause_at=3)
    wait_for_checkpoint(tmp_path / "parts", processes)
    processes[1].kill()
    (tmp_path / "parts/go").touch()
    for process in processes:
        process.join()
    assert processes[0].exitcode == REFUSED
    assert "another process of this run has died" in (tmp_path / "parts/error.txt").read_text()
    assert finish(tmp_path / "parts", 2) == [0, 0]
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")


def test_a_step_without_numbers_in_one_process_is_skipped_by_all(tmp_path):
    assert finish(tmp_path, 2, poisoned=(3,), **SIZES) == [0, 0]
    assert log_of(tmp_path)[-2]["skipped_steps"] == 1


def test_one_process_where_accelerate_was_asked_for_two_is_said(monkeypatch):
    """On a CPU, `accelerate launch` leaves the others to MPI, and says nothing."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    for count in (1, 2):
        options = f"--cpu --num_processes {count} --num_machines 1 --mixed_precision no --dynamo_backend no"
        asked = launch_command_parser().parse_args([*options.split(), "program.py"])
        command, environment = prepare_simple_launcher_cmd_env(asked)
        assert command[-1] == "program.py"  # and no launcher of several before it
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            patch.setattr(os, "environ", environment)
            assert launched_processes("cpu").num_processes == 1
        assert sum(issubclass(each.category, SlowerWarning) for each in found) == count - 1
