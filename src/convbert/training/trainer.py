"""The engine: transformers' Trainer around an objective, with exact figures, a clock, and resume that can be
trusted.

An objective is a module whose forward takes a batch and returns `{"loss": scalar, figure: (2,), ...}`, each
figure being a sum and a count.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from convbert.errors import InputError

_WEIGHTS_FILE = "model.safetensors"
_STATE_FILE = "trainer_state.json"
_NEVER = 10**8
"""A number of steps that no run reaches, for runs that end by the clock."""


class Clock(TrainerCallback, ExportableState):
    """How far a run has come, by steps or by minutes of training; survives a restart through the checkpoint.

    Args:
        max_steps: the run ends after so many optimizer steps, or
        max_minutes: after so much time, evaluations and checkpoints included. Exactly one of the two is
            given.
    """

    def __init__(self, max_steps: int | None = None, max_minutes: float | None = None) -> None:
        if (max_steps is None) == (max_minutes is None):
            raise InputError(
                "give either max_steps or max_minutes, "
                f"got max_steps={max_steps} and max_minutes={max_minutes}"
            )
        if not (max_steps or max_minutes or 0) > 0:
            raise InputError(f"max_steps or max_minutes must be above 0, got {max_steps or max_minutes}")
        self.max_steps, self.max_minutes = max_steps, max_minutes
        self.seconds_before = 0.0
        self.started: float | None = None

    @property
    def seconds(self) -> float:
        """Time spent training, over all restarts."""
        running = 0.0 if self.started is None else time.monotonic() - self.started
        return self.seconds_before + running

    def fraction_done(self, step: int) -> float:
        """Share of the run that lies behind after `step` optimizer steps, in [0, 1]."""
        if self.max_minutes is not None:
            return min(1.0, self.seconds / (60 * self.max_minutes))
        assert self.max_steps is not None
        return min(1.0, step / self.max_steps)

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Expected time to the end, at the given pace."""
        if self.max_minutes is not None:
            return max(0.0, 60 * self.max_minutes - self.seconds)
        assert self.max_steps is not None
        return (self.max_steps - step) * seconds_per_step

    def resume_from(self, checkpoint: Path) -> None:
        """Take over the time that was spent before `checkpoint`."""
        callbacks = TrainerState.load_from_json(str(checkpoint / _STATE_FILE)).stateful_callbacks
        self.seconds_before = float(callbacks[type(self).__name__]["attributes"]["seconds_before"])

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"seconds_before": self.seconds}}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds_before, self.started = self.seconds, None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.fraction_done(state.global_step) >= 1.0:
            control.should_save = control.should_training_stop = True


class FigureMeter:
    """Means of named figures over many batches, from their sums and counts (in float64, on the device)."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}

    def add(self, figures: dict[str, Tensor]) -> None:
        """Add one batch: name to (2,), sum and count."""
        for name, pair in figures.items():
            pair = pair.detach().double()
            self._totals[name] = self._totals[name] + pair if name in self._totals else pair

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda pair: pair) -> dict[str, float]:
        """Sum over count, by name; `reduce` adds up the processes of a distributed run."""
        pairs = {name: reduce(pair).tolist() for name, pair in self._totals.items()}
        return {name: total / count if count else math.nan for name, (total, count) in pairs.items()}


class ObjectiveTrainer(Trainer):
    """transformers' Trainer for an objective.

    With gradient accumulation the loss is the mean of the micro-batches' means.

    Args:
        objective: the module to train.
        args: see `training_arguments`.
        clock: when the run ends.
        sampler: order of the training data; its `set_epoch` is called.
        heldout_collator: as `data_collator`, for `eval_dataset`.
        optimizer, scheduler: as Trainer's `optimizers`.
    """

    control: TrainerControl
    heldout_collator: Callable

    def __init__(
        self,
        objective: nn.Module,
        args: TrainingArguments,
        *,
        clock: Clock,
        train_dataset: Dataset,
        sampler: Sampler,
        data_collator: Callable,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LambdaLR,
        eval_dataset: Dataset | None = None,
        heldout_collator: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        super().__init__(
            objective,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            optimizers=(optimizer, scheduler),
            callbacks=[clock, *(callbacks or [])],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.clock = clock
        self._sampler = sampler
        self.heldout_collator = heldout_collator or data_collator
        self._figures = FigureMeter()
        self._pace = _Pace()

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self._pace.begin(self.state.global_step)
        return super().training_step(*args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        outputs = dict(model(**inputs))
        loss = outputs.pop("loss")
        self._figures.add(outputs)
        self._pace.add(inputs["attention_mask"].sum())
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "heldout"):
        """Means of the objective's figures over all held-out data, named `heldout_<figure>`.

        Only sums are kept, no logits. (In a distributed run the last batch may count a few sequences twice.)
        """
        started = time.monotonic()
        meter = FigureMeter()
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for batch in self.get_eval_dataloader(eval_dataset):
                outputs = dict(self.model(**self._prepare_inputs(batch)))
                outputs.pop("loss")
                meter.add(outputs)
        means = meter.means(lambda pair: self.accelerator.reduce(pair, "sum"))
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in means.items()}
        self._pace.pause(time.monotonic() - started)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the objective's figures, the speed and the time left on training entries."""
        if "loss" in logs:
            logs |= self._figures.means(lambda pair: self.accelerator.reduce(pair, "sum"))
            logs |= self._pace.read(self.state.global_step, lambda n: self.accelerator.reduce(n, "sum"))
            logs["minutes"] = self.clock.seconds / 60
            logs["minutes_left"] = (
                self.clock.seconds_left(self.state.global_step, logs["seconds_per_step"]) / 60
            )
            self._figures = FigureMeter()
        super().log(logs)

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        loader = DataLoader(dataset, self.args.eval_batch_size, collate_fn=self.heldout_collator)
        return self.accelerator.prepare(loader)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        return self._sampler

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk comes as any of the three
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(f"{folder}: the checkpoint cannot be written: {error}") from error

    # Checkpoints hold the whole objective; safetensors keeps tied tables once and restores the tie.
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.model, str(folder / _WEIGHTS_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.model if model is None else model
        safetensors.torch.load_model(target, str(Path(resume_from_checkpoint, _WEIGHTS_FILE)))


def training_arguments(
    output_dir: str | Path,
    clock: Clock,
    *,
    batch_size: int,
    gradient_accumulation_steps: int = 1,
    max_grad_norm: float = 1.0,
    bf16: bool = False,
    log_every: int = 50,
    evaluate_every: int | None = None,
    save_every: int = 500,
    keep_checkpoints: int = 2,
    seed: int = 0,
    device: str | None = None,
) -> TrainingArguments:
    """Arguments for `ObjectiveTrainer`; intervals count optimizer steps, `batch_size` is per process.

    Args:
        evaluate_every: None turns evaluation during training off.
        device: "cpu" keeps a GPU unused; None takes what is there.
    """
    return TrainingArguments(
        output_dir=str(output_dir),
        max_steps=_NEVER if clock.max_steps is None else clock.max_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_grad_norm=max_grad_norm,
        bf16=bf16,
        logging_strategy="steps",
        logging_steps=log_every,
        logging_first_step=True,
        eval_strategy="no" if evaluate_every is None else "steps",
        eval_steps=evaluate_every,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=keep_checkpoints,
        seed=seed,
        use_cpu=device == "cpu" or not torch.accelerator.is_available(),
        dataloader_drop_last=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )


def supports_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware, so that autocast makes training faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None.

    The Trainer writes its state last, so a checkpoint whose state can be read is complete.
    """
    numbered = sorted(
        (int(number), folder)
        for folder in Path(output_dir).glob("checkpoint-*")
        if (number := folder.name.rpartition("-")[2]).isdigit()
    )
    for _, folder in reversed(numbered):
        try:
            json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return folder
    return None


class StopOnSignal(TrainerCallback):
    """Turns the first SIGTERM or Ctrl-C into a checkpoint and a clean end after the current step.

    Use as a context manager around training; a second signal acts as it would without this.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals inside the block; outside the main thread, where Python allows none, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._previous = {
            number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            self._restore()

    def _handle(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.received is not None:
            control.should_save = control.should_training_stop = True


class HistoryFile(TrainerCallback):
    """Appends every log entry to a JSONL file; after a resume the file holds no step twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero:
            self.path.write_text("".join(_json_line(entry) for entry in state.log_history), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as history:
                history.write(_json_line(state.log_history[-1]))


class ProgressLine(TrainerCallback):
    """One line per log entry on stderr; on a terminal, that of training entries is rewritten in place."""

    def __init__(self, clock: Clock, stream: Any = None) -> None:
        self.clock = clock
        self.stream = stream or sys.stderr
        self._line_is_open = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        training = "loss" in logs
        if not training and not any(name.startswith("heldout_") for name in logs):
            return
        self._write(progress_text(state.global_step, self.clock, logs), rewritable=training)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._close_line()

    def _write(self, text: str, rewritable: bool) -> None:
        if not self.stream.isatty():
            print(text, file=self.stream, flush=True)
            return
        if rewritable:
            self.stream.write(f"\r\x1b[K{text}")
            self.stream.flush()
            self._line_is_open = True
        else:
            self._close_line()
            print(text, file=self.stream, flush=True)

    def _close_line(self) -> None:
        if self._line_is_open:
            print(file=self.stream, flush=True)
            self._line_is_open = False


def progress_text(step: int, clock: Clock, logs: dict[str, float]) -> str:
    """A log entry for a reader, in one line."""
    of = "" if clock.max_steps is None else f"/{clock.max_steps}"
    parts = [f"step {step}{of}", f"{clock.fraction_done(step):6.1%}"]
    hidden = {"epoch", "grad_norm", "seconds_per_step", "minutes", "masked_loss"}
    for name, value in logs.items():
        if name == "tokens_per_second":
            parts.append(f"{value:,.0f} tokens/s")
        elif name == "minutes_left":
            parts.append(f"{_duration(60 * value)} left")
        elif name == "learning_rate":
            parts.append(f"lr {value:.2e}")
        elif name not in hidden:
            parts.append(f"{name.replace('_', ' ')} {value:.4f}")
    return "  ".join(parts)


class _Pace:
    """Tokens and steps per second since the last reading, pauses for evaluation left out."""

    def __init__(self) -> None:
        self._tokens: Tensor | None = None
        self._since: float | None = None
        self._step = 0

    def begin(self, step: int) -> None:
        """Start counting at `step`; does nothing when it has started."""
        if self._since is None:
            self._since, self._step = time.monotonic(), step

    def add(self, tokens: Tensor) -> None:
        self._tokens = tokens if self._tokens is None else self._tokens + tokens

    def pause(self, seconds: float) -> None:
        if self._since is not None:
            self._since += seconds

    def read(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        assert self._since is not None
        assert self._tokens is not None
        seconds = time.monotonic() - self._since
        speed = {
            "tokens_per_second": float(reduce(self._tokens)) / seconds,
            "seconds_per_step": seconds / max(1, step - self._step),
        }
        self._tokens, self._since, self._step = None, time.monotonic(), step
        return speed


def _json_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
