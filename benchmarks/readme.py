"""The README's speed table, from the newest committed results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cases import COMPILED, FLOOR, OURS, RIVAL, THEIRS
from benchmarks.pipeline import OURS_BEST, OURS_FLOAT32
from benchmarks.report import Row
from benchmarks.timing import ratio

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


def newest(results: Path, part: str) -> Path | None:
    """The latest result of a part on the CPU."""
    found = sorted(results.glob(f"{part}_cpu_*.json"))
    return found[-1] if found else None


def speed_table(results: Path) -> str:
    """What stands between the markers.

    Raises:
        FileNotFoundError: there is no result at all.
    """
    files = {part: path for part in PARTS if (path := newest(results, part))}
    if not files:
        raise FileNotFoundError(f"no results in {results}")
    lines = [
        "| fp32, CPU | transformers' ConvBERT takes | the same, compiled, takes | ELECTRA or BERT with SDPA takes "
        "| ours / floor |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    worlds = []
    for part, path in files.items():
        data = json.loads(path.read_text(encoding="utf-8"))
        worlds.append((data["date"], data["world"], path.name.removesuffix(".json")))
        lines += [line for row in data["rows"] for line in _lines(part, Row(**row))]
    return "\n".join(lines) + "\n\n" + _said(worlds)


def _lines(part: str, row: Row) -> Iterator[str]:
    heading, subjects, dtype = PARTS[part]
    if row.dtype != dtype or THEIRS not in row.values or LEFT_OUT.search(f"{heading} {row.case}"):
        return
    rival = next((name for name in RIVAL.values() if name in row.values), "")
    for number, ours in enumerate(subjects):
        best = row.notes.get(ours, "").rpartition(", ")[2]
        if ours not in row.values or (number and best == "float32"):
            continue  # the first line says it
        cells = [*(_times(row, other, ours) for other in (THEIRS, COMPILED, rival)), _times(row, ours, FLOOR)]
        yield f"| {heading} {row.case}{best and f', {best}'} | " + " | ".join(cells) + " |"


def _times(row: Row, above: str, below: str) -> str:
    if above not in row.values or below not in row.values:
        return ""
    return f"{ratio(row.values[above], row.values[below]).median:.2f}×"


def _said(worlds: list[tuple[str, dict[str, Any], str]]) -> str:
    dates = " and ".join(sorted({date for date, *_ in worlds}))
    machines = " and ".join(sorted({_machine(world) for _, world, _ in worlds}))
    pages = ", ".join(f"[{name.partition('_')[0]}](benchmarks/results/{name}.md)" for *_, name in worlds)
    return (
        f"Measured on {dates} ({machines}) by `make bench`, which measures it on your machine, too. The first three "
        "columns say how many times as long, or as much memory, the other takes. The floor is the network's matrix "
        "products alone, by PyTorch's best call each; our own products can be faster than that. "
        f"The whole results, more cases, bars met and missed: {pages}; [how](benchmarks/README.md)."
    )


def _machine(world: dict[str, Any]) -> str:
    return f"{world['processor']}, torch {world['torch'].partition('+')[0]}, transformers {world['transformers']}"


def rewrite(readme: Path, results: Path) -> None:
    """Replace what stands between the markers."""
    text = readme.read_text(encoding="utf-8")
    readme.write_text(between_markers().sub(lambda _: block(results), text, count=1), encoding="utf-8")


def block(results: Path) -> str:
    return f"{BEGIN}\n{speed_table(results)}\n{END}"


def between_markers() -> re.Pattern[str]:
    return re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
