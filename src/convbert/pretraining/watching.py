"""What a run shows while it goes: its page, and how much of the device it uses."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic, strftime
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from convbert.files.atomic import atomic_write
from convbert.pretraining.cost import parameter_counts, step_cost
from convbert.pretraining.report import Watched, report_html
from convbert.pretraining.samples import Probe, Samples
from convbert.training.callbacks import TrainingBudget, duration
from convbert.training.utilisation import measure_peak

if TYPE_CHECKING:
    from convbert.pretraining.run import Run

_SHARE = 0.01
"""Of a run's time that may go into the page."""


class ReportPage(TrainerCallback):
    """Keeps `report.html` up to date: at log entries and evaluations, but in 1 % of the time at most; and at the end.

    A page that cannot be written does not end the run. The models of `objective` are asked, see `Probe`.
    """

    def __init__(
        self, run: Run, objective: nn.Module, budget: TrainingBudget, arguments: TrainingArguments
    ) -> None:
        plan, train = run.plan, run.train
        self.run, self.objective, self.budget = run, objective, budget
        self._next = 0.0
        cost = step_cost(
            objective,
            sequences=plan.batch_size * plan.gradient_accumulation_steps * arguments.world_size,
            length=train.count_tokens() / len(train),
            mask_prob=plan.mask_prob,
        )
        peak = measure_peak(arguments.device, torch.bfloat16 if arguments.bf16 else torch.float32)
        self.flops = cost.parts
        self._mfu_per_speed = cost.flops / cost.tokens / (peak * arguments.world_size)
        # Sharded models cannot be asked by one process alone.
        self.probe = (
            None if arguments.fsdp else Probe(run.heldout or train, run.tokenizer, mask_prob=plan.mask_prob)
        )
        objective_name = "replaced token detection" if plan.objective == "rtd" else "masked language model"
        self.facts = {
            "model": f"{plan.size}, {objective_name}",
            "begins with the weights of": plan.start_from,
            "training text": train.content(),
            "held-out text": "none" if run.heldout is None else run.heldout.content(),
            **{f"parameters, {name}": count for name, count in parameter_counts(objective).items()},
            "tokens in a step": round(cost.tokens),
            "FLOPs in a step": f"{cost.flops:.4g}",
            "processes": arguments.world_size,
            "device": str(arguments.device),
            "precision": "bfloat16 autocast" if arguments.bf16 else "float32",
            "peak of the device": f"{peak / 1e12:.4g} TFLOP/s, by a product of matrices at the start",
            "torch": torch.__version__,
            "started": strftime("%Y-%m-%d %H:%M"),
        }

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if monotonic() >= self._next:
            self.write(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.write(state)

    def utilisation(self, logs: Mapping[str, float]) -> dict[str, float]:
        """`mfu` for a log entry: operations per second that the model needs, as a share of the peak of all devices."""
        return {"mfu": self._mfu_per_speed * logs["tokens_per_second"]}

    def write(self, state: TrainerState, metrics: Mapping[str, Any] | None = None) -> None:
        """Write the page as things stand; final metrics say that the run is over."""
        if not state.is_world_process_zero:
            return
        started = monotonic()
        html = report_html(
            Watched(
                name=self.run.plan.name,
                status=self._status(state, finished=metrics is not None),
                fraction_done=self.budget.fraction_done(state.global_step),
                history=state.log_history,
                plan=self.run.plan.to_dict(),
                facts=self.facts,
                flops=self.flops,
                samples=Samples() if self.probe is None else self.probe(self.objective),
                metrics=metrics or {},
            )
        )
        path = self.run.folder.page
        try:
            atomic_write(path, html)
        except OSError as error:
            self.run.report(f"{path}: cannot be written: {error.strerror or error}")
        self._next = monotonic() + (monotonic() - started) / _SHARE

    def _status(self, state: TrainerState, finished: bool) -> str:
        budget, step = self.budget, state.global_step
        of = "" if budget.max_steps is None else f" of {budget.max_steps:,}"
        spent = f"step {step:,}{of}, {budget.fraction_done(step):.1%}, {duration(budget.seconds)} of training"
        left = next((e["minutes_left"] for e in reversed(state.log_history) if "minutes_left" in e), 0.0)
        end = "; finished" if finished else f"; about {duration(60 * left)} left" if left else ""
        return f"{spent}{end}. Written {strftime('%Y-%m-%d %H:%M:%S')}."
