"""What a comparison of pre-training consists of, and the page that shows it; see `comparison.py`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy.stats

BUDGETS = ("tokens", "flops")
"""What a contender has as much of as ConvBERT."""

FIGURES = {
    "masked_accuracy": "masked accuracy",
    "replaced_auc": "replaced: AUC",
    "replaced_recall": "replaced: recall",
}
"""Held-out figures of the table. With replaced token detection, masked accuracy is the generator's."""

PAIRS = {
    ("convbert", "electra"): "replaced_auc",
    ("convbert-mlm", "bert"): "masked_accuracy",
    ("convbert", "bert"): None,
}
"""Who is set against whom, and by which held-out figure beside the tasks: those of one objective have one in common."""


@dataclass(frozen=True)
class Settings:
    """What a comparison is, beyond its seeds; fixed by its first call."""

    corpus: str
    heldout: str
    tasks_folder: str
    tasks: tuple[str, ...]
    scale: str
    tokens: int
    finetuning: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One pre-training with its fine-tunings."""

    contender: str
    budget: str
    seed: int

    def folder(self, runs: Path) -> Path:
        return runs / f"{self.contender}-{self.budget}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """What a finished cell gave."""

    cell: Cell
    plan: dict[str, Any]
    metrics: dict[str, Any]
    scores: dict[str, float]
    history: list[dict[str, Any]]


def read_results(runs: Path, settings: Settings, contenders: Collection[str]) -> list[Result]:
    """Of all finished cells; ConvBERT's count for both budgets."""
    results = []
    for folder in sorted(runs.glob("*-*-*")):
        contender, budget, seed = folder.name.rsplit("-", 2)
        files = [folder / "metrics.json", *(folder / "tasks" / t / "metrics.json" for t in settings.tasks)]
        if contender not in contenders or not all(file.exists() for file in files):
            continue
        metrics, *tuned = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        scores = {
            name: next(iter(found["scores"].values()))[found["metric"]]
            for name, found in zip(settings.tasks, tuned, strict=True)
        }
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        history = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for each in BUDGETS if contender == "convbert" else (budget,):
            results.append(Result(Cell(contender, each, int(seed)), plan, metrics, scores, history))
    return results


def render(settings: Settings, results: Sequence[Result], shape: str, picture: str) -> str:
    """The page."""
    text = (
        "# ConvBERT, ELECTRA and BERT at small scale\n\n"
        "Made by `python scripts/comparison.py run`. *convbert*: replaced token detection; *electra*: the same with "
        "attention\nalone, as many heads as wide; *bert*: that encoder, masked language modelling; *convbert-mlm*: "
        "ConvBERT's encoder, masked\nlanguage modelling. Same text, same vocabulary, same width; ConvBERT saw "
        f"{settings.tokens / 1e6:.1f} million tokens. Means ± standard\ndeviations over seeds of everything.\n\n"
        f"The models ({settings.scale}): {shape}.\n\n![Scores]({picture})\n"
    )
    for budget in BUDGETS:
        text += (
            f"\n## The same {'tokens' if budget == 'tokens' else 'floating-point operations'} as ConvBERT\n\n"
        )
        found = of_budget(results, budget)
        if not found:
            text += "Not run yet.\n"
            continue
        text += as_table(settings, found)
        text += verdict(found)
    device = results[0].metrics
    return text + (
        "\n*Masked accuracy* is that of the model that fills masks: the small generator where there is one, which is "
        "no measure of the discriminator. Scores are those of the best epoch on the dev data. "
        f"\n\ntorch {device['torch']}, transformers {device['transformers']}, {device['device']}.\n"
    )


def as_table(settings: Settings, results: Sequence[Result]) -> str:
    """A row for each contender."""
    figures = [name for name in FIGURES if any(f"heldout_{name}" in r.metrics for r in results)]
    head = ["", "seeds", "steps", "M tokens", *(FIGURES[name] for name in figures), *settings.tasks, "mean"]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for contender in contenders_of(results):
        rows = [result for result in results if result.cell.contender == contender]
        if not rows:
            continue
        cells = [contender, str(len(rows)), f"{rows[0].metrics['steps']:,}"]
        cells.append(f"{rows[0].metrics['tokens_seen'] / 1e6:.1f}")
        for name in figures:
            cells.append(spread([r.metrics[k] for r in rows if (k := f"heldout_{name}") in r.metrics]))
        cells += [spread([row.scores[task] for row in rows]) for task in settings.tasks]
        cells.append(spread([mean_score(row) for row in rows]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def of_budget(results: Sequence[Result], budget: str) -> list[Result]:
    """Those of a budget, if there are at least two contenders to compare."""
    found = [result for result in results if result.cell.budget == budget]
    return found if len(contenders_of(found)) > 1 else []


def contenders_of(results: Sequence[Result]) -> list[str]:
    """ConvBERT, then the others."""
    return sorted({result.cell.contender for result in results}, key=lambda name: (name != "convbert", name))


def mean_score(result: Result) -> float:
    """Over all tasks."""
    return statistics.mean(result.scores.values())


def spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    shown = f"{statistics.mean(values):.3f}"
    return shown if len(values) == 1 else f"{shown} ± {statistics.stdev(values):.3f}"


def verdict(results: Sequence[Result]) -> str:
    """How the two of each pair stand to each other."""
    lines = []
    for (ours, theirs), figure in PAIRS.items():
        of = {(r.cell.contender, r.cell.seed): r for r in results if r.cell.contender in (ours, theirs)}
        seeds = [seed for name, seed in of if name == ours and (theirs, seed) in of]
        pairs = [(of[ours, seed], of[theirs, seed]) for seed in seeds]
        if not pairs:
            continue
        name = f"{ours} against {theirs}"
        lines.append(
            difference(f"{name}, mean of the tasks", [mean_score(a) - mean_score(b) for a, b in pairs])
        )
        if figure is not None:
            key = f"heldout_{figure}"
            found = [a.metrics[key] - b.metrics[key] for a, b in pairs]
            lines.append(difference(f"{name}, held-out {FIGURES[figure]}", found))
    return "".join(f"\n{line}\n" for line in lines)


def difference(of: str, values: Sequence[float]) -> str:
    """A mean over seeds with its 95 % interval (Student's t), in words; clear where that does not hold 0."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{of}: {mean:+.3f}, on one seed, which says little."
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * error
    word = "no clear difference" if abs(mean) <= reach else "better" if mean > 0 else "worse"
    return f"{of}: {mean:+.3f} ± {reach:.3f} (95 % interval, {len(values)} seeds): {word}."


def draw(settings: Settings, results: Sequence[Result], path: Path) -> None:
    """Every seed's scores as points; and what the discriminators tell apart on held-out text, by arithmetic spent."""
    from matplotlib.figure import Figure

    budgets = [budget for budget in BUDGETS if of_budget(results, budget)]
    lines = 2 if len(budgets) == 2 else 1
    figure = Figure(figsize=(11, 7.5) if lines == 2 else (14, 4), layout="constrained")
    panels = list(figure.subplots(lines, (len(budgets) + 2) // lines).flat)
    colors = {name: f"C{number}" for number, name in enumerate(contenders_of(results))}
    for axes, budget in zip(panels, budgets, strict=False):
        columns = [*settings.tasks, "mean"]
        for number, (name, color) in enumerate(colors.items()):
            rows = [r for r in results if r.cell.budget == budget and r.cell.contender == name]
            for place, task in enumerate(columns):
                values = [mean_score(row) if task == "mean" else row.scores[task] for row in rows]
                x = place + 0.15 * (number - 1)
                axes.scatter(
                    [x] * len(values), values, s=14, color=color, label=name if values and not place else None
                )
                if values:
                    axes.hlines(statistics.mean(values), x - 0.06, x + 0.06, color=color)
        axes.set_xticks(range(len(columns)), columns)
        axes.set(title=f"fine-tuned, same {budget}", ylabel="score")
        axes.legend(fontsize=8)
    for axes, name in zip(panels[-2:], ("replaced_auc", "masked_accuracy"), strict=True):
        for result in results:
            if result.cell.budget != "tokens":
                continue
            points = [(e["step"], e[k]) for e in result.history if (k := f"heldout_{name}") in e]
            contender = result.cell.contender
            if points:
                label = contender if result.cell.seed == 0 else None
                axes.plot(*zip(*points, strict=True), color=colors[contender], alpha=0.8, label=label)
        axes.set(title=f"held-out, by step, same tokens: {FIGURES[name]}", xlabel="step")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
