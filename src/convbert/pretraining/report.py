"""`report.html`: how a pre-training run goes, what its models say of a few sentences, what it costs, its plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from convbert.pretraining.samples import Filled, Judged, Samples
from convbert.report.page import (
    Chart,
    Line,
    bars,
    by_step,
    cards,
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
    wilson,
    word,
)

Entry = Mapping[str, Any]

_LABELS = {
    "loss": ("training loss, all parts weighed", ""),
    "masked_loss": ("masked tokens: cross-entropy", "nats"),
    "masked_accuracy": ("masked tokens: accuracy", "share"),
    "sampled_accuracy": ("generator: draws that are the true token", "share"),
    "replaced_loss": ("discriminator: cross-entropy", "nats"),
    "replaced_accuracy": ("discriminator: accuracy", "share"),
    "replaced_auc": ("discriminator: area under ROC", "share"),
    "replaced_recall": ("discriminator: recall of replaced", "share"),
    "replaced_precision": ("discriminator: precision of replaced", "share"),
    "learning_rate": ("learning rate", ""),
    "grad_norm": ("norm of the gradient", ""),
    "tokens_per_second": ("speed", "tokens/s"),
    "mfu": ("model-FLOPs utilisation", "share"),
    "input_wait": ("time spent waiting for data", "share"),
}
"""Metrics of a log that are drawn, with their units, in this order. Others follow under their own names."""
_SHARES = ("mfu", "input_wait")
_NOT_DRAWN = {"step", "epoch", "minutes", "minutes_left", "seconds_per_step"}
_HELDOUT = "heldout_"
_CURVES_NOTE = (
    "Held-out text is not trained on: where its loss rises while the training loss falls, the model learns its corpus "
    "by heart. Losses fall from the start; the baselines tell what needs no model."
)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Everything that the page shows of a run."""

    name: str
    status: str
    """How far it is, in words."""
    fraction_done: float
    history: Sequence[Entry]
    """Log entries."""
    plan: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known from the start, by name: parameters, FLOPs per step, device."""
    flops: Mapping[str, float] = field(default_factory=dict)
    """Of a training step, by part."""
    samples: Samples = field(default_factory=Samples)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The final ones, once there are any."""


def report_html(run: Watched) -> str:
    """The page, as a document that needs no other file. It shows whatever metrics the log has."""
    return page(
        f"Pre-training: {run.name}",
        _progress(run),
        section("Curves", _curves(run)),
        section(
            "Masked tokens", cards(_FILLED, (_fill(each, not n) for n, each in enumerate(run.samples.filled)))
        ),
        section("Replaced tokens", cards(_JUDGED, map(_judge, run.samples.judged))),
        section("Held-out metrics by step", _heldout(run.history)),
        section("Final metrics", _final(run.metrics)),
        section("Where the arithmetic goes", _flops(run.flops)),
        section("Model and data", facts(run.facts)),
        section("Plan", plan_fields(run.plan)),
    )


# ------------------------------------------------------------------------------------------- metrics


def _progress(run: Watched) -> str:
    width = f"{100 * run.fraction_done:.1f}%"
    line = f"<div class='bar' style='background:var(--line)'><div style='width:{width}'></div></div>"
    return f"{line}<p>{escape(run.status)}</p>{tiles(_latest(run.history))}"


def _latest(history: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """The newest value of every metric, held-out ones first where there are any."""
    newest: dict[str, Any] = {}
    for entry in history:
        newest |= {name: value for name, value in entry.items() if value == value}
    for name in _drawn(history):
        held = newest.get(f"{_HELDOUT}{name}")
        if held is not None:
            yield _label(f"{_HELDOUT}{name}"), _shown(name, held)
        elif name in newest:
            yield _label(name), _shown(name, newest[name])


def _shown(name: str, value: float) -> str:
    """A metric for a reader."""
    if name in _SHARES:
        return f"{value:.1%}"
    unit = _LABELS.get(name, ("", ""))[1]
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{number} {unit}" if unit not in ("", "share") else number


def _label(name: str) -> str:
    plain = name.removeprefix(_HELDOUT)
    return _LABELS.get(plain, (readable(plain), ""))[0] + (", held-out" if plain != name else "")


def _drawn(history: Sequence[Entry]) -> list[str]:
    """Names of the metrics that the log has, held-out or not, each once."""
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
    drawn = curves(_charts(run))
    return drawn + note(_CURVES_NOTE if _HELDOUT in " ".join(map(" ".join, run.history)) else "")


def _charts(run: Watched) -> Iterator[Chart]:
    levels = {
        f"{which} token": run.metrics[f"baseline_{name}_accuracy"]
        for name, which in (("bigram", "bigram's"), ("most_frequent", "commonest"))
        if f"baseline_{name}_accuracy" in run.metrics
    }
    for name in _drawn(run.history):
        keys = ((name, "training", False), (f"{_HELDOUT}{name}", "held-out", True))
        yield Chart(
            title=_label(name),
            lines=[Line(label, *points(run.history, key), measured=held) for key, label, held in keys],
            unit=_LABELS.get(name, ("", ""))[1],
            # How good a model is, is told on one scale; a share of the machine's time may be far below it.
            top=1.0 if name.endswith(("accuracy", "auc", "recall", "precision")) else None,
            levels=levels if name == "masked_accuracy" else {},
        )


def _heldout(history: Sequence[Entry]) -> str:
    names = [f"{_HELDOUT}{name}" for name in _drawn(history)]
    measured = [name for name in names if any(name in entry for entry in history)]
    return by_step({"": history}, {name: _label(name) for name in measured})


def _final(metrics: Mapping[str, Any]) -> str:
    """Held-out metrics, of shares of masked positions with an interval; then what the run took."""
    rows = []
    for name, value in metrics.items():
        if not name.startswith((_HELDOUT, "baseline_")):
            continue
        is_share = name.endswith(("masked_accuracy", "sampled_accuracy")) or name.startswith("baseline_")
        count = metrics.get("heldout_masked_positions")
        low, high = wilson(value, count) if is_share and count else (None, None)
        rows.append((_label(name), value, low, high))
    others = {name: value for name, value in metrics.items() if not name.startswith((_HELDOUT, "baseline_"))}
    if not rows:
        return facts(others)
    explained = (
        "Baselines have not read the text: the commonest token, and what counts of neighbouring tokens make likeliest. "
        "95 %: the interval for other masked positions like these."
    )
    return table(("metric", "value", "95 % from", "to"), rows) + note(explained) + facts(others)


# ------------------------------------------------------------------------------------------- samples

_FILLED = (
    "<p class='note'>The masked places with the model's first answer: <mark class='both'>right</mark>, or "
    "<mark class='answer'>wrong</mark> with the right token beside it. Below, its likeliest answers to each.</p>"
)
_JUDGED = (
    "<p class='note'>The redder, the surer the discriminator is that a token was replaced. Replaced ones are "
    "underlined, with the right token beside them; point at one for its probability.</p>"
)


def _fill(sentence: Filled, is_open: bool) -> str:
    answers = {answer.place: answer for answer in sentence.answers}
    words, charts = [], []
    for place, token in enumerate(sentence.tokens):
        if (answer := answers.get(place)) is None:
            words.append(word(token))
            continue
        best, _ = answer.best[0]
        is_right = best == answer.truth
        truth = "" if is_right else f"<sub>{escape(answer.truth)}</sub>"
        words.append(word(best, f"<mark class='{'both' if is_right else 'answer'}'>", f"{truth}</mark>"))
        rows = [(text, share, f"{share:.0%}") for text, share in answer.best]
        truth_line = f"{answer.truth}: {answer.truth_probability:.1%}"
        charts.append(f"<figure>{bars(rows)}<figcaption>right: {escape(truth_line)}</figcaption></figure>")
    below = f"<details{' open' * is_open}><summary>answers</summary><div class='grid'>{''.join(charts)}</div></details>"
    return f"<p dir='auto'>{''.join(words)}</p>{below}"


def _judge(sentence: Judged) -> str:
    words = []
    for token, truth, share in zip(sentence.tokens, sentence.truth, sentence.replaced, strict=True):
        style, beside = f"background:rgba(225,60,50,{0.8 * share:.2f})", ""
        if token != truth:
            style, beside = f"{style};text-decoration:underline", f"<sub>{escape(truth)}</sub>"
        words.append(word(token, f"<mark style='{style}' title='{share:.1%}'>", f"</mark>{beside}"))
    return f"<p dir='auto'>{''.join(words)}</p>"


def _flops(parts: Mapping[str, float]) -> str:
    total = sum(parts.values())
    if not total:
        return ""
    rows = [(name, value / total, f"{value / total:.1%}") for name, value in parts.items() if value]
    return f"<p>{total:.3g} FLOPs in a step, by part:</p>{bars(rows)}"
