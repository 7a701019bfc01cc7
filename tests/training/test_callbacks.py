import json
import os
import signal
import threading
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from convbert.training import callbacks
from convbert.training.callbacks import HistoryFile, ProgressLine, StopOnSignal, TrainingBudget, progress_text
from convbert.util.errors import InputError

ALONE = SimpleNamespace(world_size=1)


@pytest.fixture
def now(monkeypatch):
    """A budget on the wall that the test moves: a list of one number, in seconds."""
    seconds = [1000.0]
    monkeypatch.setattr(callbacks, "monotonic", lambda: seconds[0])
    return seconds


def test_a_run_by_steps_counts_steps():
    budget = TrainingBudget(max_steps=20)
    assert [budget.fraction_done(step) for step in (0, 5, 20, 25)] == [0, 0.25, 1, 1]
    assert budget.seconds_left(15, seconds_per_step=2.0) == 10


def test_a_run_by_minutes_counts_time_and_survives_a_restart(now):
    budget = TrainingBudget(max_minutes=2)
    budget.on_train_begin()
    now[0] += 30
    assert budget.fraction_done(step=12345) == 0.25
    kept = json.loads(json.dumps(budget.state()))["attributes"]

    now[0] += 1e6  # between the runs
    again = TrainingBudget(max_minutes=2)
    vars(again).update(kept)
    again.on_train_begin()
    now[0] += 60
    assert again.fraction_done(step=0) == 0.75
    assert again.seconds_left(0, seconds_per_step=9.0) == 30
    again.on_train_end()
    now[0] += 60
    assert again.seconds == 90


def test_the_clock_ends_the_run_with_a_checkpoint(now):
    budget, control = TrainingBudget(max_minutes=1), TrainerControl()
    budget.on_train_begin()
    budget.on_step_end(None, TrainerState(global_step=1), control)
    assert not control.should_training_stop
    now[0] += 60
    budget.on_step_end(None, TrainerState(global_step=2), control)
    assert control.should_training_stop
    assert control.should_save


@pytest.mark.parametrize(
    "lengths", [{}, {"max_steps": 1, "max_minutes": 1}, {"max_steps": 0}, {"max_minutes": -1.0}]
)
def test_a_clock_needs_one_length(lengths):
    with pytest.raises(InputError, match="max_minutes"):
        TrainingBudget(**lengths)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_for_a_clean_end(number):
    stop, control = StopOnSignal(), TrainerControl()
    before = signal.getsignal(number)
    with stop.listening():
        stop.on_step_end(ALONE, TrainerState(), control)
        assert not control.should_training_stop
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) == before  # a second signal is not held back
    stop.on_step_end(ALONE, TrainerState(), control)
    assert control.should_training_stop
    assert control.should_save
    assert stop.received == number
    assert signal.getsignal(number) == before


def test_listening_in_another_thread_does_nothing():
    stop, entered = StopOnSignal(), []

    def listen() -> None:
        with stop.listening():
            entered.append(True)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert entered == [True]


def test_history_has_each_entry_once_after_a_resume(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lost": true}\n')
    state = TrainerState(log_history=[{"step": 1}, {"step": 2}])
    history = HistoryFile(path)
    history.on_train_begin(None, state, TrainerControl())
    state.log_history.append({"step": 3, "loss": 0.5})
    history.on_log(None, state, TrainerControl(), logs={})
    assert [json.loads(line) for line in path.read_text().splitlines()] == state.log_history


LOGS = {
    "loss": 1.5,
    "masked_accuracy": 0.25,
    "replaced_accuracy": 0.91,
    "replaced_auc": 0.82,
    "replaced_recall": 0.4,
    "mfu": 0.314,
    "learning_rate": 1e-3,
    "tokens_per_second": 12345.6,
    "minutes_left": 61.5,
}


def test_progress_says_what_a_reader_asks():
    text = progress_text(5, TrainingBudget(max_steps=20), LOGS)
    for part in (
        "step 5/20",
        "25.0%",
        "loss 1.5",
        "masked acc 0.25",
        "replaced acc 0.91",
        "auc 0.82",
        "recall 0.4",
        "MFU 31.4%",
        "12,346 tokens/s",
        "1h01m left",
    ):
        assert part in text


def test_training_and_evaluation_have_a_line_each(capsys):
    progress = ProgressLine(TrainingBudget(max_steps=20))
    state = TrainerState(global_step=5, is_world_process_zero=True)
    for logs in (LOGS, LOGS, {"heldout_masked_loss": 2.0}, {"train_runtime": 3.0}):
        progress.on_log(None, state, TrainerControl(), logs=logs)
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    assert "heldout masked loss 2" in said


def test_a_step_line_shows_one_loss():
    """Of fine-tuning that of the examples; the optimizer's is weighed by the size of the batch."""
    line = progress_text(
        1, TrainingBudget(max_steps=2), {"loss": 0.25, "learning_rate": 1e-3, "train_loss": 0.5}
    )
    assert line.count("loss") == 1
    assert "train loss 0.5" in line
    assert "loss 0.25" in progress_text(1, TrainingBudget(max_steps=2), {"loss": 0.25, "learning_rate": 1e-3})


def test_a_log_holds_no_number_that_json_has_not(tmp_path):
    history = HistoryFile(tmp_path / "log.jsonl")
    state = TrainerState(log_history=[{"step": 1, "heldout_loss": float("nan")}], is_world_process_zero=True)
    history.on_train_begin(None, state, None)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "heldout_loss": null}\n'
