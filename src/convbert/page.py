"""The small pieces that the HTML pages are made of; a page needs no other file and no network."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2733; --faint: #5b6b7b; --line: #d5dde5;
--strong: #b9c4cf; --gold: #cdeccd; --answer: #ffd9b8; --both: #b5e3a0; --bar: #3478be; }
@media (prefers-color-scheme: dark) { :root { --paper: #14191f; --ink: #dfe6ec; --faint: #93a1ae; --line: #303a44;
--strong: #4a5763; --gold: #24502a; --answer: #6d4112; --both: #35631f; --bar: #5b9bdd; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: .6rem 0; } th, td { padding: .2rem .7rem; text-align: left; }
th { font-weight: 600; border-bottom: 1px solid var(--strong); } .number { text-align: right; }
td.number { font-variant-numeric: tabular-nums; }
.confusion td { text-align: center; min-width: 3rem; } .card { border: 1px solid var(--line); border-radius: 6px;
padding: .6rem .9rem; margin: .7rem 0; } .note { color: var(--faint); } mark { border-radius: 3px; padding: 0 .15em;
color: inherit; background: none; } mark.piece { padding: 0; border-radius: 0; }
mark.gold { background: var(--gold); } mark.answer { background: var(--answer); } mark.both { background: var(--both); }
sub { color: var(--faint); } svg { max-width: 100%; height: auto; } svg text { fill: currentColor; }
details { margin: .6rem 0; } .wide { overflow-x: auto; }
.many td { min-width: 0; } .many th, .many td { padding: .15rem .3rem; font-size: .72rem; }
canvas { image-rendering: pixelated; border: 1px solid var(--line); box-sizing: content-box; }
.grid { display: flex; flex-wrap: wrap; } figure { margin: 0 1.2rem .8rem 0; } figcaption { font-size: .8rem;
color: var(--faint); }
.map { display: grid; grid-template-columns: auto auto; justify-content: start; } .map span { grid-column: 1;
font-size: .7rem; text-align: right; padding-right: .4rem; white-space: nowrap; } .map canvas { grid-column: 2; }
.bars td { padding: 0 .5rem 0 0; font-size: .85rem; white-space: nowrap; } .bars .bar { width: 9rem; }
.bar div { height: .7rem; background: var(--bar); border-radius: 2px; }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .8rem; margin: 0 .6rem .6rem 0; }
.tile b { display: block; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
"""


_MANY = 8
"""Of more labels the matrix is set smaller."""


def page(title: str, *parts: str) -> str:
    """A whole document."""
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    body = f"<h1>{escape(title)}</h1>{''.join(parts)}"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>{body}</body></html>\n"


def section(title: str, *parts: str) -> str:
    """A heading with what stands under it; nothing where there is nothing."""
    return f"<h2>{escape(title)}</h2>{''.join(parts)}" if any(parts) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; numbers and their heads stand to the right."""
    rows = list(rows)
    numeric = [bool(rows) and any(_is_number(row[place]) for row in rows) for place in range(len(head))]
    cells = "".join(
        f"<th{' class=number' if right else ''}>{escape(name)}</th>"
        for name, right in zip(head, numeric, strict=True)
    )
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if not _is_number(value):
        return f"<td>{escape(str(value))}</td>"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f"<td class='number'>{shown}</td>"


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Gold labels down, answers across; the darker, the larger the share of the row."""
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    rows = ""
    for label, row in zip(labels, counts, strict=True):
        total = max(1, sum(row))
        shaded = "".join(
            f"<td style='background:rgba(52,120,190,{0.85 * count / total:.2f})'>{count:,}</td>"
            for count in row
        )
        rows += f"<tr><th>{escape(label)}</th>{shaded}</tr>"
    size = "confusion many" if len(labels) > _MANY else "confusion"
    return (
        f"<div class='wide'><table class='{size}'><tr><th>gold \\ answer</th>{head}</tr>{rows}</table></div>"
    )


def tokens(words: Sequence[str], influence: Sequence[float]) -> str:
    """Words with what speaks for the answer in orange, against it in blue."""
    shown = []
    for word, value in zip(words, influence, strict=True):
        color = "245,130,50" if value > 0 else "60,130,220"
        joined = word.startswith("##")
        text = escape(word.removeprefix("##"))
        space = "" if joined else " "
        shown.append(
            f"{space}<mark class='piece' style='background:rgba({color},{0.8 * abs(value):.2f})'>{text}</mark>"
        )
    return "".join(shown)


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: label, length (the longest fills the room), and what stands behind it."""
    longest = max((length for _, length, _ in rows), default=1.0) or 1.0
    shown = "".join(
        f"<tr><td>{escape(label)}</td><td class='bar'><div style='width:{100 * length / longest:.1f}%'></div></td>"
        f"<td class='note'>{escape(text)}</td></tr>"
        for label, length, text in rows
    )
    return f"<table class='bars'>{shown}</table>"


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """A few figures, large: what it is, and its value."""
    shown = "".join(
        f"<div class='tile'>{escape(name)}<b>{escape(value)}</b></div>" for name, value in figures
    )
    return f"<div class='grid'>{shown}</div>"


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
