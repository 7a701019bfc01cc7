"""`convbert pretrain --dry-run`: the estimate as a table for people, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from convbert.cli.failures import say
from convbert.util.schema import to_json

if TYPE_CHECKING:
    from convbert.pretraining.corpus.reading import Reading
    from convbert.pretraining.dry_run import Estimate
    from convbert.pretraining.recipes import PretrainingPlan


def show_estimate(
    plan: PretrainingPlan,
    corpus: Sequence[str],
    tokenizer: Path | None,
    device: str | None,
    reading: Reading,
    *,
    as_json: bool,
) -> None:
    """Estimate a run and print what it will take."""
    from convbert.pretraining.dry_run import dry_run

    estimate = dry_run(plan, list(corpus), tokenizer=tokenizer, device=device, reading=reading, report=say)
    if as_json:
        print(to_json({"plan": plan.to_dict(), **asdict(estimate)}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{plan.name}: what a run takes", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in rows_of(estimate, plan):
        table.add_row(*row)
    Console().print(table)


def rows_of(estimate: Estimate, plan: PretrainingPlan) -> Iterator[tuple[str, str, str]]:
    """What it is, the value, and how it was found."""
    for name, count in estimate.parameters.items():
        if name != "shared" or count:
            yield f"parameters, {name}", f"{count:,}", "counted once" if name == "together" else ""
    yield "FLOPs per step", f"{estimate.flops_per_step:.3g}", "products of matrices and convolutions, × 3"
    how = {
        "weights": "fp32",
        "gradients": "fp32",
        "optimizer": "two numbers a parameter",
        "measured_peak": f"on {estimate.device}, {estimate.timed_sequences} sequences at a time",
    }
    for name, size in estimate.memory.items():
        yield f"memory, {name.replace('_', ' ')}", f"{size / 2**30:.2f} GiB", how.get(name, "")
    counted = "counted" if estimate.sampled == 1 else f"from {estimate.sampled:.2%} of the corpus"
    yield "tokens per epoch", f"{estimate.tokens_per_epoch:,}", counted
    yield "tokens per step", f"{estimate.tokens_per_step:,}", ""
    whole = estimate.timed_sequences == plan.batch_size * plan.gradient_accumulation_steps
    timed = "timed" if whole else f"projected from {estimate.timed_sequences} sequences at a time"
    yield "seconds per step", f"{estimate.seconds_per_step:.3g}", f"{timed}, {estimate.device}"
    yield "tokens per second", f"{estimate.tokens_per_second:,.0f}", ""
    peak = f"of {estimate.peak / 1e12:.4g} TFLOP/s"
    yield "model-FLOPs utilisation", f"{estimate.mfu:.1%}", peak
    yield "steps", f"{estimate.steps:,}", f"{estimate.epochs:.3g} epochs"
    yield "hours", f"{estimate.hours:,.1f}", "without evaluations and checkpoints"
