"""What a reader finds beside a pre-trained model: its card, and its loss curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convbert.pretraining.recipes import PretrainingPlan

_FIGURES_NOTE = (
    "Model and baselines are measured on the same masked positions. Losses are in nats. The baselines: "
    "always the most frequent token; and the token that bigram counts of the training text make most likely "
    "between its neighbours."
)


def model_card(plan: PretrainingPlan, metrics: dict[str, Any]) -> str:
    """The README.md of a trained model: how it was made, and its figures."""
    held_out = {name: value for name, value in metrics.items() if name.startswith(("heldout_", "baseline_"))}
    cost = {name: value for name, value in metrics.items() if name not in held_out}
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: fill-mask\ntags: [convbert]\n---\n",
        f"# ConvBERT pre-trained with the recipe `{plan.name}`\n",
        "A ConvBERT encoder with its masked-language-model head, trained by `convbert pretrain`.\n",
        '```python\nimport convbert\n\nfill = convbert.pipeline("fill-mask", "this/folder")\n```\n',
    ]
    if held_out:
        sections.append(f"## Held-out figures\n\n{_table(held_out)}\n\n{_FIGURES_NOTE}\n")
    sections.append(f"## Cost\n\n{_table(cost)}\n\n![Loss by step](loss.png)\n")
    sections.append(f"## Recipe\n\n```json\n{json.dumps(plan.to_dict(), indent=2)}\n```\n")
    return "\n".join(sections)


def draw_curve(history: list[dict[str, Any]], path: Path) -> None:
    """Draw training and held-out loss by step, from log entries, to a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("masked_loss", "training"), ("heldout_masked_loss", "held-out")):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    axes.set(xlabel="step", ylabel="cross-entropy of masked tokens (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in values.items()]
    return "\n".join(("| | |", "| --- | --- |", *rows))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
