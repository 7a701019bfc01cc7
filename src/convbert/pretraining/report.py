"""`report.html`: how a pre-training run goes, what its models say of a few sentences, what it costs, its plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from convbert.page import bars, figure_svg, page, section, table, tiles
from convbert.pretraining.samples import Filled, Judged, Samples

Entry = Mapping[str, Any]

_LABELS = {
    "loss": "loss",
    "masked_loss": "masked tokens: cross-entropy (nats)",
    "masked_accuracy": "masked tokens: accuracy",
    "sampled_accuracy": "generator: draws that are the true token",
    "replaced_loss": "discriminator: cross-entropy (nats)",
    "replaced_accuracy": "discriminator: accuracy",
    "replaced_auc": "discriminator: area under ROC",
    "replaced_recall": "discriminator: recall of replaced",
    "replaced_precision": "discriminator: precision of replaced",
    "learning_rate": "learning rate",
    "grad_norm": "norm of the gradient",
    "tokens_per_second": "tokens/s",
    "mfu": "model-FLOPs utilisation",
    "input_wait": "share of time waiting for data",
}
"""Figures of a log that are drawn, in this order. One that is not listed is drawn after them, under its own name."""
_SHARES = ("mfu", "input_wait")
_NOT_DRAWN = {"step", "epoch", "minutes", "minutes_left", "seconds_per_step"}
_HELDOUT = "heldout_"
_MOST_POINTS = 300
"""Of a curve: more could not be told apart. Each point is then a mean."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Everything that the page shows.

    Args:
        name: of the run, for the heading.
        status: how far it is, in words.
        fraction_done: in [0, 1].
        history: log entries.
        plan: every field of it.
        facts: what is known from the start, by name: parameters, FLOPs per step, device.
        flops: of a training step, by part.
        samples: what the models make of a few sentences.
        metrics: final figures, once there are any.
    """

    name: str
    status: str
    fraction_done: float
    history: Sequence[Entry]
    plan: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    flops: Mapping[str, float] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    metrics: Mapping[str, Any] = field(default_factory=dict)


def report_html(run: Watched) -> str:
    """The page, as a document that needs no other file. It takes whatever figures the log has."""
    return page(
        f"Pre-training: {run.name}",
        _progress(run),
        section("Curves", _curves(run)),
        section("Masked tokens", _fills(run.samples.filled)),
        section("Replaced tokens", _judgements(run.samples.judged)),
        section("Held-out figures by step", _heldout(run.history)),
        section("Final figures", _pairs(run.metrics)),
        section("Where the arithmetic goes", _flops(run.flops)),
        section("The run", _pairs(run.facts)),
        section("Plan", _plan(run.plan)),
    )


# ------------------------------------------------------------------------------------------- figures


def _progress(run: Watched) -> str:
    width = f"{100 * run.fraction_done:.1f}%"
    line = f"<div class='bar' style='background:var(--line)'><div style='width:{width}'></div></div>"
    return f"{line}<p>{escape(run.status)}</p>{tiles(_latest(run.history))}"


def _latest(history: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """The newest value of every figure, held-out ones first where there are any."""
    newest: dict[str, Any] = {}
    for entry in history:
        newest |= {name: value for name, value in entry.items() if value == value}
    for name in _drawn(history):
        held = newest.get(f"{_HELDOUT}{name}")
        if held is not None:
            yield f"{_label(name)}, held-out", shown(name, held)
        elif name in newest:
            yield _label(name), shown(name, newest[name])


def shown(name: str, value: float) -> str:
    """A figure for a reader."""
    if name in _SHARES:
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " "))


def _drawn(history: Sequence[Entry]) -> list[str]:
    """Names of the figures that the log has, held-out or not, each once."""
    found = {
        name.removeprefix(_HELDOUT)
        for entry in history
        for name, value in entry.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    if not any(entry.get("skipped_steps") for entry in history):
        found.discard("skipped_steps")
    known = [name for name in _LABELS if name in found]
    return known + sorted(found - set(known) - _NOT_DRAWN)


def _curves(run: Watched) -> str:
    names = _drawn(run.history)
    if not names:
        return ""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    columns = 3
    rows = math.ceil(len(names) / columns)
    width, height = 10.5, 2.3 * rows
    figure = Figure(figsize=(width, height))
    # Margins in inches. matplotlib would find its own, but takes twice as long, and this is drawn again and again.
    figure.subplots_adjust(
        left=0.5 / width,
        right=1 - 0.1 / width,
        bottom=0.3 / height,
        top=1 - 0.3 / height,
        wspace=0.2,
        hspace=0.3,
    )
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(grid, names, strict=False):
        for key, label, marker in ((name, "training", None), (f"{_HELDOUT}{name}", "held-out", ".")):
            steps, values = points(run.history, key)
            if len(steps):
                axes.plot(steps, values, label=label, marker=marker, linewidth=1.2)
        for which in ("bigram", "most_frequent"):
            baseline = run.metrics.get(f"baseline_{which}_accuracy")
            if name == "masked_accuracy" and baseline is not None:
                axes.axhline(baseline, label=which.replace("_", " "), linestyle=":", color="grey")
        axes.set_title(_label(name), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=6)
        axes.grid(alpha=0.3)
        if name in _SHARES:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(fontsize=7, framealpha=0.5)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    return figure_svg(figure)


def points(history: Sequence[Entry], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a figure where it is a number; means of neighbours beyond `_MOST_POINTS`."""
    found = [
        (entry["step"], entry[name])
        for entry in history
        if "step" in entry and name in entry and math.isfinite(entry[name])
    ]
    steps, values = np.array(found, dtype=float).reshape(-1, 2).T
    pieces = max(1, min(_MOST_POINTS, len(steps)))
    means = [[piece.mean() for piece in np.array_split(x, pieces)] for x in (steps, values) if len(steps)]
    return (np.array(means[0]), np.array(means[1])) if means else (steps, values)


def _heldout(history: Sequence[Entry]) -> str:
    entries = [entry for entry in history if any(name.startswith(_HELDOUT) for name in entry)]
    names = [name for name in _drawn(entries) if any(f"{_HELDOUT}{name}" in entry for entry in entries)]
    if not entries:
        return ""
    rows = [
        (entry.get("step", ""), *(entry.get(f"{_HELDOUT}{name}", "") for name in names)) for entry in entries
    ]
    whole = table(("step", *map(_label, names)), rows)
    return f"<details><summary>{len(rows)} evaluations</summary>{whole}</details>"


# ------------------------------------------------------------------------------------------- samples


def _fills(filled: Sequence[Filled]) -> str:
    if not filled:
        return ""
    head = (
        "<p class='note'>The masked places with the model's first answer: <mark class='both'>right</mark>, or "
        "<mark class='answer'>wrong</mark> with the truth beside it. Below, its likeliest answers to each.</p>"
    )
    return head + "".join(f"<div class='card'>{_fill(sentence)}</div>" for sentence in filled)


def _fill(sentence: Filled) -> str:
    answers = {answer.place: answer for answer in sentence.answers}
    words, charts = [], []
    for place, token in enumerate(sentence.tokens):
        if (answer := answers.get(place)) is None:
            words.append(_word(token, escape))
            continue
        best, _ = answer.best[0]
        truth = "" if best == answer.truth else f"<sub>{escape(answer.truth)}</sub>"
        kind = "both" if best == answer.truth else "answer"
        words.append(_word(best, lambda text, k=kind, t=truth: f"<mark class='{k}'>{escape(text)}{t}</mark>"))
        rows = [(word, share, f"{share:.0%}") for word, share in answer.best]
        truth_line = f"{answer.truth}: {answer.truth_probability:.1%}"
        charts.append(f"<figure>{bars(rows)}<figcaption>truth {escape(truth_line)}</figcaption></figure>")
    below = f"<details open><summary>answers</summary><div class='grid'>{''.join(charts)}</div></details>"
    return f"<p>{''.join(words)}</p>{below}"


def _judgements(judged: Sequence[Judged]) -> str:
    if not judged:
        return ""
    head = (
        "<p class='note'>The redder, the surer the discriminator is that a token was replaced. Replaced ones are "
        "underlined, with the truth beside them; hover for probabilities.</p>"
    )
    return head + "".join(f"<div class='card'>{_judge(sentence)}</div>" for sentence in judged)


def _judge(sentence: Judged) -> str:
    words = []
    for token, truth, share in zip(sentence.tokens, sentence.truth, sentence.replaced, strict=True):
        style = f"background:rgba(225,60,50,{0.8 * share:.2f})"
        beside = ""
        if token != truth:
            style += ";text-decoration:underline"
            beside = f"<sub>{escape(truth)}</sub>"

        def mark(text: str, style: str = style, share: float = share, beside: str = beside) -> str:
            return f"<mark style='{style}' title='{share:.1%}'>{escape(text)}</mark>{beside}"

        words.append(_word(token, mark))
    return f"<p>{''.join(words)}</p>"


def _word(token: str, draw: Any) -> str:
    """A token with the space before it; a piece of a word without."""
    return draw(token[2:]) if token.startswith("##") else f" {draw(token)}"


# ----------------------------------------------------------------------------------- cost and set-up


def _flops(parts: Mapping[str, float]) -> str:
    total = sum(parts.values())
    if not total:
        return ""
    rows = [(name, value / total, f"{value / total:.1%}") for name, value in parts.items() if value]
    return f"<p>{total:.3g} FLOPs in a step, by part:</p>{bars(rows)}"


def _pairs(values: Mapping[str, Any]) -> str:
    return (
        table(("", ""), [(name.replace("_", " "), value) for name, value in values.items()]) if values else ""
    )


def _plan(plan: Mapping[str, Any]) -> str:
    rows = [(name, str(value)) for name, value in plan.items()]
    return f"<details><summary>every field</summary>{table(('field', 'value'), rows)}</details>"
