"""The engine: transformers' Trainer around an objective, with exact metrics, exact resumption and a training budget.

An *objective* is a module whose forward takes a batch and returns `{"loss": scalar, metric: (2,), ...}`, each metric
being a sum and a count (see `MetricMeter`). It may have a method `loss_counts`, which takes the same batch and returns
(n,) numbers: of how many things each of the n terms of the loss is a mean. Its forward then takes `loss_counts`, too,
and divides by those instead of its own: the engine passes those of the whole step, so that a step's loss is that of one
large batch, on however many processes and in however many accumulation steps. Without the method, a step's loss is the
mean of its batches' losses.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl

from convbert.training.batching import BatchStream, seed_all
from convbert.training.callbacks import TrainingBudget
from convbert.training.checkpointing import CheckpointingTrainer
from convbert.training.metrics import DeviceFlag, MetricMeter, Throughput
from convbert.training.optimizer import UncorrectedAdamW
from convbert.util.errors import InputError


class ObjectiveTrainer(CheckpointingTrainer):
    """transformers' Trainer for an objective.

    Random numbers are seeded anew before every batch (see `seed_all`), and data comes as a `BatchStream`: a run that
    goes on from a checkpoint is, on a CPU to the last bit, the run that was never stopped.

    Args:
        objective: the module to train.
        args: see `training_arguments`.
        budget: when the run ends.
        sampler: order of the training data; see `BatchStream`.
        eval_collator: as `data_collator`, for `eval_dataset`.
        optimizer, scheduler: as Trainer's `optimizers`.
        max_skipped_steps: a step whose loss or gradient is not finite changes nothing and is counted; so many in a row
            end the run.
        more_metrics: given a training entry of the log, metrics to add to it.
    """

    control: TrainerControl
    eval_collator: Callable

    def __init__(
        self,
        objective: nn.Module,
        args: TrainingArguments,
        *,
        budget: TrainingBudget,
        train_dataset: Dataset,
        sampler: Sampler,
        data_collator: Callable,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LambdaLR,
        eval_dataset: Dataset | None = None,
        eval_collator: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        max_skipped_steps: int = 20,
        more_metrics: Callable[[dict[str, float]], dict[str, float]] | None = None,
    ) -> None:
        super().__init__(
            objective,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            callbacks=[_EngineEvents(self), budget, *(callbacks or [])],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        # Not by Trainer's argument, which FSDP refuses; it swaps the parameters in the optimizer.
        self.optimizer, self.lr_scheduler = optimizer, scheduler
        self.budget = budget
        self.eval_collator = eval_collator or data_collator
        self.max_skipped_steps = max_skipped_steps
        self.more_metrics = more_metrics or (lambda logs: {})
        self._loss_counts: Callable[..., Tensor] | None = getattr(objective, "loss_counts", None)
        # The Trainer's own question: whether a loss is already that of the whole step.
        self.model_accepts_loss_kwargs = self._loss_counts is not None
        self._sampler = sampler
        self._stream = self._batches_from(0)
        self._metrics, self._of_step = MetricMeter(), MetricMeter()
        self._losses_of_step: list[Tensor] = []
        self.throughput = Throughput()
        self._bare_optimizer: Any = optimizer  # accelerate will wrap the other
        self._pending: tuple[int, DeviceFlag] | None = None
        self._skipped_steps = self._skipped_in_a_row = 0

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
        self.throughput.begin(self.state.global_step)
        with _naming_workers():
            batches = list(islice(epoch_iterator, num_batches))
        self.throughput.wait(monotonic() - started)
        if not batches:  # the time had already run out
            self.control.should_training_stop = True
            return batches, None
        counts = None
        if self._loss_counts is not None:
            counts = torch.stack([self._loss_counts(**batch) for batch in batches]).sum(0)
            counts = counts.to(device, non_blocking=True)
            # The gradients of the processes will be averaged, not added.
            counts = self.accelerator.reduce(counts, "sum").clamp(min=1).float() / self.args.world_size
        if self.waits_for_device:  # the Trainer's own copies would wait
            from accelerate.utils import send_to_device

            batches = [send_to_device(batch, device, non_blocking=True) for batch in batches]
        return batches, counts

    def _batches_from(self, step: int) -> BatchStream:
        args, budget = self.args, self.budget
        end = budget.max_steps if budget.fraction_done(step) < 1.0 else step
        accumulated = args.gradient_accumulation_steps
        return BatchStream(
            self._sampler,
            args.train_batch_size,
            rank=args.process_index,
            world_size=args.world_size,
            first=step * accumulated,
            end=None if end is None else end * accumulated,
        )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        args = self.args
        number = self.state.global_step * args.gradient_accumulation_steps + len(self._losses_of_step)
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
        self.throughput.add(inputs["attention_mask"].sum())
        return (loss, outputs) if return_outputs else loss

    @property
    def waits_for_device(self) -> bool:
        """Whether reading a value means waiting for a device, so that it is read a step later."""
        return self.args.device.type == "cuda"

    def guard_step(self) -> None:
        """Leave a step whose loss or gradient is not finite out of weights, optimizer and metrics.

        A fused optimizer does so on the device itself; whether it did is read at the next step (see `settle`).
        """
        self.settle()
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of sharded weights
        loss = torch.stack(self._losses_of_step).sum()
        bad = ~(torch.isfinite(norm) & torch.isfinite(loss))
        if self.args.world_size > 1:
            bad = self.accelerator.reduce(bad.float(), "sum") > 0
        metrics = self._of_step.totals | {"loss": torch.stack((loss, torch.ones_like(loss)))}
        self._metrics.add(
            {name: torch.where(bad.to(metric.device), 0.0, metric) for name, metric in metrics.items()}
        )
        self._of_step, self._losses_of_step = MetricMeter(), []
        if self._bare_optimizer.defaults.get("fused") and not self.is_fsdp_enabled:
            self._bare_optimizer.found_inf = bad.float()  # as torch's GradScaler says it
        elif bad:
            self._bare_optimizer.zero_grad()
        self._pending = (self.state.global_step + 1, DeviceFlag(bad))

    def settle(self) -> None:
        """Count the last step, if it was left out, and end a run in which too many in a row were."""
        if self._pending is None:
            return
        (step, was_left_out), self._pending = self._pending, None
        if not was_left_out:
            self._skipped_in_a_row = 0
            return
        self._skipped_steps += 1
        self._skipped_in_a_row += 1
        if isinstance(self._bare_optimizer, UncorrectedAdamW):
            self._bare_optimizer.forget_step()
        if self._skipped_in_a_row >= self.max_skipped_steps:
            raise InputError(
                f"step {step}: the loss or its gradient has not been finite for "
                f"{self._skipped_in_a_row} steps in a row; the steps changed nothing. Going on in full precision may "
                "help (pretrain: --set bf16=false), or a new run with a lower learning rate or a longer warm-up"
            )

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "heldout"):
        """Means of the objective's metrics over all held-out data, each item once, named `heldout_<metric>`.

        Only sums are kept, no logits.
        """
        started = monotonic()
        meter = MetricMeter()
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for is_own, batch in self._eval_batches(eval_dataset):
                outputs = dict(self.model(**self._prepare_inputs(batch)))
                outputs.pop("loss")
                meter.add(outputs if is_own else {name: torch.zeros_like(f) for name, f in outputs.items()})
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in meter.means(self._add_up).items()}
        self.throughput.pause(monotonic() - started)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the objective's metrics, the speed and the time left on training entries."""
        if "train_runtime" in logs:
            return  # the Trainer's summary, of the time since the last restart alone
        step = self.state.global_step
        self.state.epoch = step * self.args.gradient_accumulation_steps / self._stream.batches_per_epoch
        if "loss" in logs:
            metrics = self._metrics.means(self._add_up)
            if "loss" in metrics:  # that of the Trainer is since the last restart alone
                logs["loss"] = metrics.pop("loss")
            else:
                del logs["loss"]
            logs |= metrics
            if not math.isfinite(logs.get("grad_norm", 0.0)):
                del logs["grad_norm"]
            logs["skipped_steps"] = self.skipped_steps
            logs |= self.throughput.read(step, self._add_up)
            logs["minutes"] = self.budget.seconds / 60
            logs["minutes_left"] = self.budget.seconds_left(step, logs["seconds_per_step"]) / 60
            logs |= self.more_metrics(logs)
            self._metrics = MetricMeter()
        started = monotonic()
        super().log(logs)
        self.throughput.pause(monotonic() - started)  # of those who look at the run

    def _add_up(self, numbers: Tensor) -> Tensor:
        return self.accelerator.reduce(numbers.to(self.args.device), "sum")

    def _eval_batches(self, dataset: Dataset | None) -> Iterator[tuple[bool, Any]]:
        """This process's batches. All processes get equally many, and the ones that fill up are not its own."""
        dataset = self.eval_dataset if dataset is None else dataset
        items, size = len(dataset), self.args.eval_batch_size  # type: ignore[arg-type]
        starts = range(0, items, size)
        rounds = math.ceil(len(starts) / self.args.world_size)
        own = list(starts[self.args.process_index :: self.args.world_size])
        filled = own + [0] * (rounds - len(own))
        loader = DataLoader(
            dataset,
            batch_sampler=[list(range(start, min(start + size, items))) for start in filled],
            collate_fn=self.eval_collator,
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=_ignore_signals,
        )
        batches = iter(loader)
        for number in range(len(filled)):
            with _naming_workers():
                batch = next(batches)
            yield number < len(own), batch

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train to the end of the budget, from the start or from a checkpoint folder.

        Raises:
            InputError: nothing could be learned, or another process has died.
        """
        step = 0 if resume_from_checkpoint is None else self.resume_from(Path(resume_from_checkpoint))
        self._stream = self._batches_from(step)
        try:
            result = super().train(**kwargs)
        except RuntimeError as error:
            is_theirs = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
            if self.args.world_size == 1 or not is_theirs:
                raise
            raise InputError(
                f"another process of this run has died or cannot be reached: {str(error).splitlines()[0]}; "
                "the same command goes on from the last checkpoint"
            ) from error
        if 0 < self.state.global_step <= self.skipped_steps:
            raise InputError(
                f"the loss or its gradient was not finite in any of the {self.skipped_steps} steps, so nothing was "
                "learned and no model is written: the model or the data may hold NaN"
            )
        return result

    @property
    def skipped_steps(self) -> int:
        """Steps so far that changed nothing, as their loss or gradient was not finite."""
        self.settle()
        return self._skipped_steps

    def progress(self) -> dict[str, Any]:
        return {
            "figures": self._metrics.state(),
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def load_progress(self, progress: list[dict[str, Any]]) -> None:
        self._skipped_steps = progress[0]["skipped_steps"]
        self._skipped_in_a_row = progress[0]["skipped_in_a_row"]
        metrics, rank = [part["figures"] for part in progress], self.args.process_index
        if len(metrics) == self.args.world_size:
            self._metrics.load(metrics[rank])
        elif rank == 0:
            self._metrics.load(*metrics)


class _EngineEvents(TrainerCallback):
    """Public events of a step that the engine acts on."""

    def __init__(self, trainer: ObjectiveTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.guard_step()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        if not self.trainer.waits_for_device:
            self.trainer.settle()


def _ignore_signals(worker: int) -> None:
    """For a process that prepares batches: a signal to the whole group is the trainer's to answer."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _naming_workers() -> Iterator[None]:
    """Turn what comes out of processes that prepare batches into one sentence."""
    try:
        yield
    except InputError as error:  # with the traceback of the worker, if it is from one
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from error
    except (RuntimeError, EOFError, ConnectionError) as error:  # a pipe to a dead worker ends or is reset
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a process that prepares batches has died, perhaps for want of memory: {error}"
        ) from error
