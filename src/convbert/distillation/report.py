"""What a finished distillation shows: the card of the student, and `report.html`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbert.distillation.plan import DistillationPlan
from convbert.files.atomic import atomic_write
from convbert.files.card import CARD, LOADING, head
from convbert.report.page import (
    Chart,
    Line,
    by_step,
    curves,
    facts,
    note,
    page,
    plan_fields,
    points,
    readable,
    section,
    table,
    tiles,
)

if TYPE_CHECKING:
    from convbert.distillation.base import Distillation
    from convbert.distillation.run import RunFolder

_USE_SENTENCES = """\
```python
import convbert

encode = convbert.pipeline("feature-extraction", "this/folder")
vector = encode("Plants make sugar from light.")  # of length 1
```
"""
_USE_TASK = "    convbert predict --model this/folder --input texts.txt --output answers.jsonl\n"
_NOTE = "Texts per second: the same texts, each model as a user runs it, on this machine."


def _rows(scores: Mapping[str, Mapping[str, float]]) -> list[tuple[str, Any, Any, Any]]:
    teacher, student = scores["teacher"], scores["student"]
    return [
        (readable(name), teacher[name], value, value / teacher[name] if teacher[name] else None)
        for name, value in student.items()
    ]


def write_card(
    folder: Path, run: Distillation, plan: DistillationPlan, teacher: str, metrics: Mapping[str, Any]
) -> None:
    """Write the student's README.md."""
    rows = [
        f"| {name} | {a:.4g} | {b:.4g} | {f'{c:.3f}' if c else ''} |"
        for name, a, b, c in _rows(metrics["scores"])
    ]
    parts = (
        head(run.pipeline, base=teacher),
        f"# ConvBERT distilled from `{_name_of(teacher)}`\n",
        f"A student of {metrics['parameters'] / 1e6:.1f} M parameters, trained by `convbert distill` on "
        f"{metrics['texts']:,} texts, {metrics['steps']:,} steps, {metrics['minutes']} minutes "
        f"({metrics['device']}).\n",
        _USE_SENTENCES if run.pipeline == "sentence-similarity" else _USE_TASK,
        LOADING,
        "## Teacher and student\n",
        "| | teacher | student | student / teacher |\n| --- | ---: | ---: | ---: |",
        *rows,
        f"\n{_NOTE}\n",
        f"## Plan\n\n```json\n{json.dumps(plan.to_dict(), indent=2)}\n```\n",
    )
    (folder / CARD).write_text("\n".join(parts), encoding="utf-8")


def _name_of(teacher: str) -> str:
    """The last parts of a folder's name, the whole name of one on the Hub."""
    return "/".join(Path(teacher).parts[-2:])


_CURVES = {
    "loss": "training loss, all parts weighed",
    "cosine": "cosine of student and teacher",
    "similarity_error": "squared error of the batch's similarities",
    "soft_loss": "divergence from the teacher's answers",
    "agreement": "same first answer as the teacher",
    "learning_rate": "learning rate",
    "tokens_per_second": "speed (tokens/s)",
}


def write_page(
    folder: RunFolder,
    plan: DistillationPlan,
    teacher: str,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Write `report.html`."""
    charts = [
        Chart(
            title=title,
            lines=[
                Line("training", *points(history, name)),
                Line("held-out", *points(history, f"heldout_{name}"), measured=True),
            ],
        )
        for name, title in _CURVES.items()
    ]
    scores = metrics["scores"]
    shown = [
        (f"{who}: {readable(name)}", f"{value:,.4g}")
        for who, values in scores.items()
        for name, value in values.items()
    ]
    heldout = {f"heldout_{name}": title for name, title in _CURVES.items()}
    measured = {name: title for name, title in heldout.items() if any(name in entry for entry in history)}
    html = page(
        f"Distillation from {_name_of(teacher)}",
        tiles(shown),
        section(
            "Teacher and student",
            table(("metric", "teacher", "student", "student / teacher"), _rows(scores)),
            note(_NOTE),
        ),
        section("Curves", curves(charts)),
        section("Held-out texts by step", by_step({"": history}, measured)),
        section("Run", facts({name: value for name, value in metrics.items() if name != "scores"})),
        section("Plan", plan_fields(plan.to_dict())),
    )
    atomic_write(folder.root / "report.html", html)
