"""The speed table of docs/performance.md and the picture in the README, from the committed results: for each processor,
the newest page of each part, with what it lacks from older ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.cases import COMPILED, FLOOR, OURS, RIVAL, THEIRS
from benchmarks.pipeline import OURS_BEST, OURS_FLOAT32
from benchmarks.report import Row, processor_name
from benchmarks.timing import ratio, spread

BEGIN, END = "<!-- speed: written by `python -m benchmarks readme` -->", "<!-- end of speed -->"

# Heading of the lines, the subjects that stand for ours, a line each, and the rows' precision.
PARTS = {
    "forward": ("forward pass,", (OURS,), "float32"),
    "training": ("training step,", (OURS,), "float32"),
    "memory": ("peak memory,", (OURS,), "float32"),
    "pipeline": ("128 real sentences through the pipeline,", (OURS_FLOAT32, OURS_BEST), "any"),
}

LEFT_OUT = re.compile("2×512|, 32 real sentences|medium-small 1×32|training step, (small|medium-small) 8×128")
"""Cases of which others say as much; the pages have them."""

# What the picture shows: part, case, and what a reader calls it.
SHOWN = (
    ("forward", "small 1×32", "small, one text of 32 tokens"),
    ("forward", "small, 128 real sentences", "small, 128 real sentences"),
    ("forward", "base 1×32", "base, one text of 32 tokens"),
    ("forward", "base 8×128", "base, 8 texts of 128 tokens"),
    ("training", "small 32×128", "training step, small, 32×128"),
    ("training", "base 8×128", "training step, base, 8×128"),
)


@dataclass(frozen=True)
class Page:
    """The results of a part on a processor, on a day."""

    name: str
    part: str
    date: str
    world: dict[str, Any]
    rows: list[Row]


Dated = tuple[Row, Page]


def pages_by_processor(results: Path) -> dict[str, list[Page]]:
    """The pages of `PARTS` on CPUs, the newest first, by processor; the processor that was measured last first.

    Raises:
        FileNotFoundError: there is no result at all.
    """
    found: dict[str, list[Page]] = {}
    for path in sorted(
        results.glob("*_*_*.json"), key=lambda path: path.stem.rpartition("_")[2], reverse=True
    ):
        part = path.stem.rsplit("_", 2)[0]
        data = json.loads(path.read_text(encoding="utf-8"))
        if part in PARTS and data["world"]["device"] == "cpu":
            page = Page(path.stem, part, data["date"], data["world"], [Row(**row) for row in data["rows"]])
            found.setdefault(processor_name(page.world), []).append(page)
    if not found:
        raise FileNotFoundError(f"no results in {results}")
    return found


def rows_by_case(pages: list[Page], part: str) -> dict[str, list[Dated]]:
    """The rows of a case in all pages, the newest first, in the order of the fullest page."""
    pages = [page for page in pages if page.part == part]
    fullest = max(pages, key=lambda page: len(page.rows), default=None)
    found: dict[str, list[Dated]] = {row.case: [] for row in (fullest.rows if fullest else [])}
    for page in pages:
        for row in page.rows:
            if row.dtype == PARTS[part][2]:
                found.setdefault(row.case, []).append((row, page))
    return found


def speed_table(results: Path) -> str:
    """What stands between the markers: a table for each processor."""
    return "\n\n".join(
        f"### {processor}\n\n{_table(pages)}\n\n{_said(pages)}"
        for processor, pages in pages_by_processor(results).items()
    )


def _table(pages: list[Page]) -> str:
    lines = [
        "| fp32, CPU | transformers' ConvBERT takes | the same, compiled, takes | ELECTRA or BERT with SDPA takes "
        "| ours / floor | measured |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for part in PARTS:
        for case, rows in rows_by_case(pages, part).items():
            lines += _lines(part, case, rows)
    return "\n".join(lines)


def _lines(part: str, case: str, rows: list[Dated]) -> Iterator[str]:
    heading, subjects, _ = PARTS[part]
    rows = [(row, page) for row, page in rows if THEIRS in row.values]
    if not rows or LEFT_OUT.search(f"{heading} {case}"):
        return
    newest, day = rows[0][0], rows[0][1].date
    for number, ours in enumerate(subjects):
        best = newest.notes.get(ours, "").rpartition(", ")[2]
        if ours not in newest.values or (number and best == "float32"):
            continue  # the first line says it
        cells = [_times(rows, [other], [ours]) for other in (THEIRS, COMPILED)]
        cells += [_times(rows, [*RIVAL.values()], [ours]), _times(rows, [ours], [FLOOR])]
        yield f"| {heading} {case}{best and f', {best}'} | " + " | ".join(cells) + f" | {day} |"


def _times(rows: list[Dated], above: list[str], below: list[str]) -> str:
    """How many times as much the first takes, in the newest row that has both; an older one's date is said."""
    for row, page in rows:
        pairs = [(row.values[a], row.values[b]) for a in above for b in below if {a, b} <= set(row.values)]
        if pairs:
            older = "" if row is rows[0][0] else f" ({page.date})"
            return f"{ratio(*pairs[0]).median:.2f}×{older}"
    return ""


def _said(pages: list[Page]) -> str:
    versions = dict.fromkeys(_versions(page.world) for page in pages)
    links = ", ".join(f"[{page.part} {page.date}](../benchmarks/results/{page.name}.md)" for page in pages)
    return f"{'; '.join(versions)}. Whole results: {links}."


def _versions(world: dict[str, Any]) -> str:
    torch, threads = world["torch"].partition("+")[0], world.get("threads")
    return f"torch {torch}, transformers {world['transformers']}" + (
        f", {threads} threads" if threads else ""
    )


# -- the picture

_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.page{fill:#fff}.muted{fill:#59636e}.head{font-weight:600}"
    ".ours{fill:#0969da}.theirs{fill:#8c959f}.rival{fill:#c9d1d9}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#161b22}.muted{fill:#9198a1}.ours{fill:#4493f8}"
    ".theirs{fill:#768390}.rival{fill:#444c56}}"
)
BAR_HEIGHT = 13
_LABELS, _WIDTH, _GROUP, _TOP, _MOST = 215, 800, 58, 66, 2
_KINDS = (("ours", "convbert"), ("theirs", "transformers' ConvBERT"), ("rival", "ELECTRA or BERT, SDPA"))


def picture(results: Path) -> str:
    """Time of each case, ours being 1, as SVG: a panel for each of the processors that were measured last."""
    found = list(pages_by_processor(results).items())[:_MOST]
    panels = [(name, [_bars(pages, part, case) for part, case, _ in SHOWN]) for name, pages in found]
    shown = [at for at in range(len(SHOWN)) if any(groups[at] for _, groups in panels)]
    longest = max(
        (times for _, groups in panels for group in groups for times, _ in group.values()), default=1
    )
    panel = (_WIDTH - _LABELS) / len(panels)
    scale = (panel - 100) / longest
    height = _TOP + _GROUP * len(shown) + 8
    summary = f"Time of convbert and others on {' and '.join(name for name, _ in panels)}; shorter is faster"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(summary)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>',
    ]
    for left, (kind, name) in zip((_LABELS, _LABELS + 110, _LABELS + 310), _KINDS, strict=True):
        lines.append(f'<rect class="{kind}" x="{left}" y="14" width="12" height="12" rx="2"/>')
        lines.append(f'<text x="{left + 18}" y="25">{escape(name)}</text>')
    lines.append('<text class="muted" x="14" y="25">time, shorter is faster</text>')
    for number, (name, _) in enumerate(panels):
        title = f"{name}, fp32"
        lines.append(f'<text class="head" x="{_LABELS + panel * number:g}" y="54">{escape(title)}</text>')
    for place, at in enumerate(shown):
        top = _TOP + _GROUP * place
        lines.append(f'<text x="14" y="{top + 28}">{escape(SHOWN[at][2])}</text>')
        for number, (_, groups) in enumerate(panels):
            left = _LABELS + panel * number
            for line, (kind, _) in enumerate(_KINDS):
                if kind in groups[at]:
                    times, said = groups[at][kind]
                    y = top + 4 + (BAR_HEIGHT + 2) * line
                    lines.append(
                        f'<rect class="{kind}" x="{left:g}" y="{y}" width="{times * scale:.1f}" '
                        f'height="{BAR_HEIGHT}" rx="2"/>'
                    )
                    lines.append(
                        f'<text class="muted" x="{left + times * scale + 6:.1f}" y="{y + 11}">{said}</text>'
                    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _bars(pages: list[Page], part: str, case: str) -> dict[str, tuple[float, str]]:
    """By kind of bar, its length in times of ours, and what stands beside it."""
    for row, _ in rows_by_case(pages, part).get(case, []):
        rival = next((name for name in RIVAL.values() if name in row.values), "")
        if OURS in row.values and THEIRS in row.values:
            ours = row.values[OURS]
            found = {"ours": (1.0, f"{spread(ours).median * 1e3:.0f} ms")}
            for kind, name in (("theirs", THEIRS), ("rival", rival)):
                if name in row.values:
                    times = ratio(row.values[name], ours).median
                    found[kind] = times, f"{times:.1f}×"
            return found
    return {}


def rewrite(page: Path, drawing: Path, results: Path) -> None:
    """Replace what stands between the markers of a page, and draw the picture anew."""
    text = page.read_text(encoding="utf-8")
    page.write_text(between_markers().sub(lambda _: block(results), text, count=1), encoding="utf-8")
    drawing.write_text(picture(results), encoding="utf-8")


def block(results: Path) -> str:
    return f"{BEGIN}\n{speed_table(results)}\n{END}"


def between_markers() -> re.Pattern[str]:
    return re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
