"""The engine: transformers' Trainer around an objective, with exact figures, exact resumption and a clock.

An *objective* is a module whose forward takes a batch and returns `{"loss": scalar, figure: (2,), ...}`, each figure
being a sum and a count (see `FigureMeter`). It may have a method `loss_counts`, which takes the same batch and returns
(n,) numbers: of how many things each of the n terms of the loss is a mean. Its forward then takes `loss_counts`, too,
and divides by those instead of its own: the engine passes those of the whole step, so that a step's loss is that of one
large batch, on however many processes and in however many accumulation steps. Without the method, a step's loss is the
mean of its batches' losses.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from time import monotonic
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
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState, TrainerControl, TrainerState

from convbert.errors import InputError
from convbert.training.batching import BatchStream
from convbert.training.callbacks import STATE_FILE, Clock
from convbert.training.checkpoints import (
    checkpoint_folder,
    draft_folder,
    keep_newest,
    remove_leftovers,
    whole_checkpoint,
)
from convbert.training.figures import FigureMeter
from convbert.training.pace import Pace
from convbert.training.randomness import seed_all

_WEIGHTS_FILE = "model.safetensors"
_WINDOW_FILE = "window.json"
"""What has been counted since the last log entry, so that a resumed run logs what an unbroken one would."""


class ObjectiveTrainer(Trainer):
    """transformers' Trainer for an objective.

    Random numbers are seeded anew before every batch (see `seed_all`), and data comes as a `BatchStream`: a run that
    goes on from a checkpoint is, on a CPU to the last bit, the run that was never stopped.

    Args:
        objective: the module to train.
        args: see `training_arguments`.
        clock: when the run ends.
        sampler: order of the training data; see `BatchStream`.
        heldout_collator: as `data_collator`, for `eval_dataset`.
        optimizer, scheduler: as Trainer's `optimizers`.
        max_skipped_steps: a step whose loss or gradient is not finite changes nothing and is counted; so many in a row
            end the run.
        more_figures: given a training entry of the log, figures to add to it.
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
        max_skipped_steps: int = 20,
        more_figures: Callable[[dict[str, float]], dict[str, float]] | None = None,
    ) -> None:
        super().__init__(
            objective,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            optimizers=(optimizer, scheduler),
            callbacks=[clock, _OwnIntervals(), *(callbacks or [])],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.clock = clock
        self.heldout_collator = heldout_collator or data_collator
        self.max_skipped_steps = max_skipped_steps
        self.more_figures = more_figures or (lambda logs: {})
        self._loss_counts: Callable[..., Tensor] | None = getattr(objective, "loss_counts", None)
        # The Trainer's own question: whether a loss is already that of the whole step.
        self.model_accepts_loss_kwargs = self._loss_counts is not None
        self._sampler = sampler
        self._stream = self._batches_from(0)
        self._figures, self._of_step, self._losses_of_step = FigureMeter(), FigureMeter(), []
        self._pace = Pace()
        self._skipped_steps = self._skipped_in_a_row = 0
        self._batches_of_step = 0

    # ------------------------------------------------------------------------------------------- batches

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        workers = args.dataloader_num_workers
        # Not prepared by accelerate, which would share batches out once more.
        return DataLoader(
            self.train_dataset,
            batch_sampler=self._stream,
            collate_fn=self.data_collator,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=args.dataloader_pin_memory,
            worker_init_fn=_ignore_signals,
        )

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> Any:
        """The batches of the next step, and what its loss is a mean over (None for an objective that does not say)."""
        started = monotonic()
        self._pace.begin(self.state.global_step)
        try:
            batches = list(islice(epoch_iterator, num_batches))
        except RuntimeError as error:
            raise _as_input_error(error) from error
        self._pace.wait(monotonic() - started)
        self._batches_of_step = 0
        if not batches:  # the clock had already run out
            self.control.should_training_stop = True
            return batches, None
        if self._loss_counts is None:
            return batches, None
        counts = torch.stack([self._loss_counts(**batch) for batch in batches]).sum(0).double().to(device)
        # The gradients of the processes will be averaged, not added.
        return batches, self.accelerator.reduce(counts, "sum").clamp(min=1) / self.args.world_size

    def _batches_from(self, step: int) -> BatchStream:
        args, clock = self.args, self.clock
        end = clock.max_steps if clock.fraction_done(step) < 1.0 else step
        accumulated = args.gradient_accumulation_steps
        return BatchStream(
            self._sampler,
            args.train_batch_size,
            rank=args.process_index,
            world_size=args.world_size,
            first=step * accumulated,
            end=None if end is None else end * accumulated,
        )

    # --------------------------------------------------------------------------------------------- steps

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        args = self.args
        number = self.state.global_step * args.gradient_accumulation_steps + self._batches_of_step
        self._batches_of_step += 1
        seed_all(args.seed, number * args.world_size + args.process_index)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses_of_step.append(loss)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        if num_items_in_batch is not None:
            inputs = {**inputs, "loss_counts": num_items_in_batch}
        outputs = dict(model(**inputs))
        loss = outputs.pop("loss")
        self._of_step.add(outputs)
        self._pace.add(inputs["attention_mask"].sum())
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """As Trainer's; a step that is not finite is left out of weights, optimizer and figures."""
        norm = super()._clip_grad_norm(model)
        loss = torch.stack(self._losses_of_step).sum()
        if self._everyone(bool(torch.isfinite(norm) & torch.isfinite(loss))):
            self._figures.add(self._of_step.totals | {"loss": torch.stack((loss, torch.ones_like(loss)))})
            self._skipped_in_a_row = 0
        else:
            # accelerate's optimizer does nothing while gradients are not complete; the Trainer clears them afterwards.
            self.accelerator.gradient_state._set_sync_gradients(False)
            self._skipped_steps += 1
            self._skipped_in_a_row += 1
        self._of_step, self._losses_of_step = FigureMeter(), []
        if self._skipped_in_a_row >= self.max_skipped_steps:
            raise InputError(
                f"step {self.state.global_step + 1}: the loss or its gradient has not been finite for "
                f"{self._skipped_in_a_row} steps in a row; the steps changed nothing. "
                "A lower learning rate, a longer warm-up or full precision may help"
            )
        return norm

    def _everyone(self, yes: bool) -> bool:
        """Whether all processes say yes; they take the same way from here on."""
        if self.args.world_size == 1:
            return yes
        votes = torch.tensor(float(yes), device=self.args.device)
        return int(self.accelerator.reduce(votes, "sum")) == self.args.world_size

    # ----------------------------------------------------------------------------------- figures and logs

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "heldout"):
        """Means of the objective's figures over all held-out data, each item once, named `heldout_<figure>`.

        Only sums are kept, no logits.
        """
        started = monotonic()
        meter = FigureMeter()
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for is_own, batch in self._heldout_batches(eval_dataset):
                outputs = dict(self.model(**self._prepare_inputs(batch)))
                outputs.pop("loss")
                meter.add(outputs if is_own else {name: torch.zeros_like(f) for name, f in outputs.items()})
        means = meter.means(self._add_up)
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in means.items()}
        self._pace.pause(monotonic() - started)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the objective's figures, the speed and the time left on training entries."""
        if "train_runtime" in logs:
            return  # the Trainer's summary, of the time since the last restart alone
        step = self.state.global_step
        self.state.epoch = step * self.args.gradient_accumulation_steps / self._stream.batches_per_epoch
        if "loss" in logs:
            del logs["loss"]  # since the last restart alone
            logs |= self._figures.means(self._add_up)
            if not math.isfinite(logs.get("grad_norm", 0.0)):
                del logs["grad_norm"]
            logs["skipped_steps"] = self._skipped_steps
            logs |= self._pace.read(step, self._add_up)
            logs["minutes"] = self.clock.seconds / 60
            logs["minutes_left"] = self.clock.seconds_left(step, logs["seconds_per_step"]) / 60
            logs |= self.more_figures(logs)
            self._figures = FigureMeter()
        super().log(logs)

    def _add_up(self, numbers: Tensor) -> Tensor:
        return self.accelerator.reduce(numbers.to(self.args.device), "sum")

    def _heldout_batches(self, dataset: Dataset | None) -> Iterator[tuple[bool, Any]]:
        """This process's batches. All processes get equally many, and the ones that fill up are not its own."""
        dataset = self.eval_dataset if dataset is None else dataset
        items, size = len(dataset), self.args.eval_batch_size  # type: ignore[arg-type]
        starts = range(0, items, size)
        rounds = math.ceil(len(starts) / self.args.world_size)
        own = list(starts[self.args.process_index :: self.args.world_size])
        filled = own + [0] * (rounds - len(own))
        loader = DataLoader(
            dataset,
            batch_sampler=[range(start, min(start + size, items)) for start in filled],  # type: ignore[arg-type]
            collate_fn=self.heldout_collator,
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=_ignore_signals,
        )
        for number, batch in enumerate(loader):
            yield number < len(own), batch

    # --------------------------------------------------------------------------------------- checkpoints

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train to the end of the clock, from the start or from a checkpoint folder."""
        if self.is_world_process_zero():
            remove_leftovers(Path(self.args.output_dir))
        step = 0 if resume_from_checkpoint is None else self._take_up(Path(resume_from_checkpoint))
        self._stream = self._batches_from(step)
        return super().train(
            None if resume_from_checkpoint is None else str(resume_from_checkpoint), **kwargs
        )

    def _take_up(self, checkpoint: Path) -> int:
        """Restore what the Trainer does not; the step of the checkpoint."""
        state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        for callback in self.callback_handler.callbacks:
            stored = state.stateful_callbacks.get(type(callback).__name__)
            if isinstance(callback, ExportableState) and isinstance(stored, dict):
                vars(callback).update(stored["attributes"])
        window = json.loads((checkpoint / _WINDOW_FILE).read_text(encoding="utf-8"))
        self._skipped_steps = window["skipped_steps"]
        self._skipped_in_a_row = window["skipped_in_a_row"]
        figures = window["figures"]
        if len(figures) == self.args.world_size:
            self._figures.load(figures[self.args.process_index])
        return state.global_step

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint whole or not at all, and remove those that are too many."""
        root, step = Path(self.args.output_dir), self.state.global_step
        folder = checkpoint_folder(root, step)
        if self.state.best_global_step == step:
            self.state.best_model_checkpoint = str(folder)
        figures = self._figures_of_all()
        failure: Exception | None = None
        try:
            if self.is_world_process_zero():
                with whole_checkpoint(root, step) as draft:
                    self._write_weights(draft)
                    self._write_state(draft, figures)
                keep_newest(root, self.args.save_total_limit or 1, self.state.best_global_step)
            elif self.is_fsdp_enabled:  # every process has its part of the weights
                self._write_weights(draft_folder(root))
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk comes as any of the three
            failure = error
        if not self._everyone(failure is None):
            raise InputError(f"{folder}: the checkpoint cannot be written: {failure}") from failure

    def _figures_of_all(self) -> list[dict[str, list[float]]]:
        from accelerate.utils import gather_object

        return gather_object([self._figures.state()])

    def _write_weights(self, draft: Path) -> None:
        self.save_model(str(draft), _internal_call=True)
        self._save_optimizer_and_scheduler(str(draft))

    def _write_state(self, draft: Path, figures: list[dict[str, list[float]]]) -> None:
        window = {
            "figures": figures,
            "skipped_steps": self._skipped_steps,
            "skipped_in_a_row": self._skipped_in_a_row,
        }
        (draft / _WINDOW_FILE).write_text(json.dumps(window) + "\n", encoding="utf-8")
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(draft / STATE_FILE))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As Trainer's, for a figure of any name; a better one than before is saved at once."""
        name, state = self.args.metric_for_best_model, self.state
        if name is None:
            return False
        if name not in metrics:
            raise InputError(f"no figure named {name}; there are {', '.join(sorted(metrics))}")
        sign = 1 if self.args.greater_is_better else -1
        better = state.best_metric is None or sign * metrics[name] > sign * state.best_metric
        if better:
            state.best_metric, state.best_global_step = metrics[name], state.global_step
            self.control.should_save = True
        return better

    # Checkpoints hold the whole objective; safetensors keeps tied tables once and restores the tie.
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.is_world_process_zero():
            return
        file = str(Path(output_dir or self.args.output_dir, _WEIGHTS_FILE))
        if state_dict is None:
            safetensors.torch.save_model(self.model, file)
        else:  # gathered from all processes
            safetensors.torch.save_file(state_dict, file)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        target = self.model if model is None else model
        safetensors.torch.load_model(target, str(Path(resume_from_checkpoint, _WEIGHTS_FILE)))


class _OwnIntervals(TrainerCallback):
    """A resumed run logs, evaluates and saves at its own intervals, not at those of the checkpoint."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        state.compute_steps(args, args.max_steps)


def _ignore_signals(worker: int) -> None:
    """For a process that prepares batches: a signal to the whole group is the trainer's to answer."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _as_input_error(error: RuntimeError) -> Exception:
    if "DataLoader worker" in str(error):
        return InputError(f"a process that prepares batches has died, perhaps for want of memory: {error}")
    return error
