"""What the HTML pages are made of: skeleton, tables, curves, marked text. A page needs no other file and no network.

Every text that comes from outside is escaped, may be of any length, and stands in its own direction (`dir='auto'`).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")

_MANY = 8
"""Of more labels the matrix is set smaller."""
_LONG = 8
"""A table of more rows is folded."""
_MOST_POINTS = 300
"""Of a curve: more could not be told apart. Each point is then a mean."""


def page(title: str, *parts: str) -> str:
    """A whole document."""
    head = (
        "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    body = f"<h1 dir='auto'>{escape(title)}</h1>{''.join(parts)}"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>{body}</body></html>\n"


def section(title: str, *parts: str) -> str:
    """A heading with what stands under it; nothing where there is nothing."""
    return f"<h2>{escape(title)}</h2>{''.join(parts)}" if any(parts) else ""


def note(text: str) -> str:
    """A line of explanation; nothing where there is nothing."""
    return f"<p class='note'>{escape(text)}</p>" if text else ""


def folded(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>" if content else ""


def readable(name: str) -> str:
    """The name of a metric, for a reader."""
    return name.replace("_", " ")


def facts(values: Mapping[str, Any]) -> str:
    """Names with their values, of which None is left out."""
    rows = [(readable(name), value) for name, value in values.items() if value is not None]
    body = "".join(f"<tr><td>{escape(name)}</td>{_cell(value)}</tr>" for name, value in rows)
    return f"<table class='facts'>{body}</table>" if rows else ""


def plan_fields(plan: Mapping[str, Any]) -> str:
    """Every field of a plan, folded."""
    return folded(f"all {len(plan)} fields", facts({name: str(value) for name, value in plan.items()}))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns of numbers stand to the right. None is shown as a dash."""
    rows = list(rows)
    columns = list(zip(*rows, strict=True)) or [("",)] * len(head)
    numeric = [all(value is None or _is_number(value) for value in column) for column in columns]
    cells = "".join(
        f"<th{' class=number' if right else ''} dir='auto'>{escape(name)}</th>"
        for name, right in zip(head, numeric, strict=True)
    )
    body = "".join("<tr>" + "".join(map(_cell, row, numeric)) + "</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any, right: bool = False) -> str:
    text = "–" if value is None else str(value)
    if _is_number(value):
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f"<td{' class=number' if right else ''} dir='auto'>{escape(text)}</td>"


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of independent yes-or-no answers."""
    from scipy.stats import binomtest

    low, high = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(low), float(high)


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Right labels down, the model's across; the darker, the larger the share of the row."""
    head = "".join(f"<th dir='auto'>{escape(label)}</th>" for label in labels)
    rows = ""
    for label, row in zip(labels, counts, strict=True):
        total = max(1, sum(row))
        shaded = "".join(
            f"<td style='background:rgba(52,120,190,{0.85 * count / total:.2f})'>{count:,}</td>"
            for count in row
        )
        rows += f"<tr><th dir='auto'>{escape(label)}</th>{shaded}</tr>"
    size = "confusion many" if len(labels) > _MANY else "confusion"
    return (
        "<p class='note'>How often which right label (rows) got which answer of the model (columns); "
        "the diagonal is right.</p>"
        f"<div class='wide'><table class='{size}'><tr><th>right ↓ model →</th>{head}</tr>{rows}</table></div>"
    )


def cards(head: str, contents: Iterable[str]) -> str:
    """A frame for each of `contents`, under an explanation; nothing where there are none."""
    shown = "".join(f"<div class='card'>{content}</div>" for content in contents)
    return head + shown if shown else ""


def word(token: str, before: str = "", after: str = "") -> str:
    """A token between two tags, with a space before it unless it continues a word."""
    return f"{'' if token.startswith('##') else ' '}{before}{escape(token.removeprefix('##'))}{after}"


def tokens(words: Sequence[str], influence: Sequence[float]) -> str:
    """Words with what speaks for the answer in orange, against it in blue."""
    colors = ("245,130,50" if value > 0 else "60,130,220" for value in influence)
    return "".join(
        word(
            token, f"<mark class='piece' style='background:rgba({color},{0.8 * abs(value):.2f})'>", "</mark>"
        )
        for token, value, color in zip(words, influence, colors, strict=True)
    )


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: label, share in [0, 1] of the full width, and what stands behind it."""
    shown = "".join(
        f"<tr><td dir='auto'>{escape(label)}</td><td class='bar'><div style='width:{100 * share:.1f}%'></div></td>"
        f"<td class='note'>{escape(text)}</td></tr>"
        for label, share, text in rows
    )
    return f"<table class='bars'>{shown}</table>"


def tiles(metrics: Iterable[tuple[str, str]]) -> str:
    """A few metrics, large: what it is, and its value."""
    shown = "".join(
        f"<div class='tile'>{escape(name)}<b>{escape(value)}</b></div>" for name, value in metrics
    )
    return f"<div class='grid'>{shown}</div>" if shown else ""


# -------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Line:
    """One metric of one run by step; `measured` on data that is not trained on: dashed, with its points."""

    label: str
    steps: Sequence[float] | np.ndarray
    values: Sequence[float] | np.ndarray
    measured: bool = False
    color: str | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves in one frame. It begins at 0, or below where values are.

    Args:
        unit: of the values, for the axis.
        top: where the axis ends, at least; None: where the values do.
        levels: horizontal lines to compare with, by name.
    """

    title: str
    lines: Sequence[Line]
    unit: str = ""
    top: float | None = None
    levels: Mapping[str, float] = field(default_factory=dict)


def points(history: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric where it is a number; means of neighbours beyond `_MOST_POINTS`."""
    found = [
        (entry["step"], entry[name])
        for entry in history
        if "step" in entry and _is_number(entry.get(name)) and math.isfinite(entry[name])
    ]
    steps, values = np.array(found, dtype=float).reshape(-1, 2).T
    if len(steps) <= _MOST_POINTS:
        return steps, values
    means = [[piece.mean() for piece in np.array_split(x, _MOST_POINTS)] for x in (steps, values)]
    return np.array(means[0]), np.array(means[1])


def by_step(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], names: Mapping[str, str], beside: str = ""
) -> str:
    """Every step at which one of the metrics was measured, as a table; folded where it is long.

    Args:
        histories: name of each run to its log.
        names: metric to heading.
        beside: a metric that makes no row: its newest value is shown.
    """
    rows = []
    for run, history in histories.items():
        newest: Any = None
        for entry in history:
            newest = entry.get(beside, newest)
            if any(name in entry for name in names if name != beside):
                values = (newest if name == beside else entry.get(name) for name in names)
                rows.append((run, entry.get("step"), *values))
    first = int(len(histories) < 2)  # a single run needs no column for its name
    shown = table(("run", "step", *names.values())[first:], [row[first:] for row in rows])
    return shown if 0 < len(rows) <= _LONG else folded(f"{len(rows)} evaluations", shown if rows else "")


def curves(charts: Iterable[Chart]) -> str:
    """A frame for each chart that has a curve: a single point is none. All show the same steps."""
    drawn = [chart for chart in charts if any(len(line.steps) > 1 for line in chart.lines)]
    steps = [float(step) for chart in drawn for line in chart.lines for step in line.steps]
    shown = (
        f"<figure><figcaption>{escape(chart.title)}</figcaption>{_frame(chart, max(steps))}</figure>"
        for chart in drawn
    )
    return f"<div class='grid'>{''.join(shown)}</div>" if drawn else ""


def _frame(chart: Chart, last: float) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.05, 2.0))
    # matplotlib would find margins of its own, but takes twice as long, and this is drawn again and again.
    figure.subplots_adjust(left=0.17, right=0.97, bottom=0.2, top=0.96)
    axes = figure.subplots()
    lines = [line for line in chart.lines if len(line.steps)]
    for line in lines:
        (curve,) = axes.plot(line.steps, line.values, label=line.label, color=line.color, linewidth=1.2)
        if line.measured:
            curve.set(linestyle="--", marker=".")
    for name, level in chart.levels.items():
        axes.axhline(level, label=name, linestyle=":", color="grey")
    values = [float(value) for line in lines for value in line.values] + list(chart.levels.values())
    lowest, highest = min(values), max(values)
    axes.set_ylim(1.05 * min(0.0, lowest), max(chart.top or 0.0, 1.05 * highest) or 1.0)
    axes.set_xlim(0, 1.03 * last)
    axes.set_xlabel("step", fontsize=7, labelpad=1)
    axes.set_ylabel(chart.unit, fontsize=7)
    axes.tick_params(labelsize=7, pad=2)
    axes.locator_params(nbins=5)
    axes.grid(alpha=0.3)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize=6, framealpha=0.5)
    return figure_svg(figure)


def figure_svg(figure: Any) -> str:
    """A matplotlib figure as inline SVG, in the colours of the page; the same bytes for the same figure."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "convbert", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", stream.getvalue(), flags=re.DOTALL)
    for drawn, on_page in (("#000000", "currentColor"), ("#ffffff", "var(--paper)")):
        text = text.replace(drawn, on_page)
    return text[text.index("<svg") :]
