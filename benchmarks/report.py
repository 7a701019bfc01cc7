"""What was measured, as rows; their tables; the files under results/."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers

import convbert
from benchmarks.cases import BARS, Bar
from benchmarks.timing import ratio, spread
from convbert.ops.backends import supports_bfloat16

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent


@dataclass
class Row:
    """One case.

    Attributes:
        case, dtype: what and in which precision.
        values: by subject, one number a round (or a fresh process), in `unit`.
        unit: "s", "B", or "%" and "points" for shares.
        notes: by subject, why it has no number, or what is to know about it.
        details: anything else worth keeping.
        commit: of the measured code.
    """

    case: str
    dtype: str
    values: dict[str, list[float]] = field(default_factory=dict)
    unit: str = "s"
    notes: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    commit: str = ""

    @property
    def was_refused(self) -> bool:
        return any(note.startswith("refused") for note in self.notes.values())


_AMOUNTS = ("s", "B")  # of what a ratio says something; shares are compared by their difference
Ratios = tuple[tuple[str, str], ...]  # heading and subject of what each line is divided by


def table(part: str, device: str, rows: list[Row], ratios: Ratios) -> str:
    """Markdown: a line per case and subject, with its ratios to others and the bar it has to reach."""
    headings = ["case", "precision", "subject", "rounds", "median", *(name for name, _ in ratios), "bar"]
    lines = [
        "| " + " | ".join(headings) + " |",
        "| --- | --- | --- |" + " ---: |" * (2 + len(ratios)) + " --- |",
    ]
    for row in rows:
        for subject in [*row.values, *(name for name in row.notes if name not in row.values)]:
            cells = [
                row.case,
                row.dtype,
                _with_note(row, subject),
                _rounds(row, subject),
                _amount(row, subject),
            ]
            cells += [_ratio(row, subject, other) for _, other in ratios]
            cells.append(_bars(part, device, row, subject))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_note(row: Row, subject: str) -> str:
    note = row.notes.get(subject)
    return f"{subject} ({note})" if note else subject


def _rounds(row: Row, subject: str) -> str:
    return str(len(row.values[subject])) if row.values.get(subject) else ""


def _amount(row: Row, subject: str) -> str:
    if not row.values.get(subject):
        return ""
    middle = spread(row.values[subject]).median
    if row.unit == "s":
        return f"{_digits(middle * 1e3)} ms"
    return f"{middle / 2**20:.0f} MiB" if row.unit == "B" else f"{middle:.2f} {row.unit}"


def _digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _ratio(row: Row, subject: str, other: str) -> str:
    above, below = row.values.get(subject), row.values.get(other)
    if not above or not below or subject == other or row.unit not in _AMOUNTS:
        return ""
    of = ratio(above, below)
    return f"{of.median:.2f} ({of.low:.2f} to {of.high:.2f})"


def figure(bar: Bar, row: Row) -> float | None:
    """What `bar` is about, as measured; None where it was not."""
    values = row.values.get(bar.subject)
    if bar.over is None:
        return spread(values).median if values else None
    below = row.values.get(bar.over)
    return ratio(values, below).median if values and below else None


def bars_of(part: str, device: str, row: Row) -> list[Bar]:
    return [
        bar
        for bar in BARS
        if (bar.part, bar.device, bar.case, bar.dtype) == (part, device, row.case, row.dtype)
    ]


def _bars(part: str, device: str, row: Row, subject: str) -> str:
    said = []
    for bar in bars_of(part, device, row):
        if bar.subject != subject:
            continue
        measured = figure(bar, row)
        verdict = "not measured" if measured is None else "met" if bar.is_met(measured) else "missed"
        what = "" if bar.over is None else f" × {bar.over}"
        said.append(f"{bar}{what}: {verdict}" + ("" if measured is None else f" ({measured:.2f})"))
    return "; ".join(said)


def world(device: torch.device, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything needed to read a result later."""
    found = {"device": device.type, "processor": processor(), "cores": os.cpu_count()}
    if device.type == "cuda":
        found |= {"card": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        found |= {name: _version(name) for name in ("triton", "flash-attn")}
    return {
        **found,
        "convbert": convbert.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "bfloat16 instructions": "yes" if supports_bfloat16(device) else "none, so bfloat16 was left out",
        **settings,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def processor_name(world: dict[str, Any]) -> str:
    """What computed, as people call it: "Intel Xeon" of "Intel(R) Xeon(R) Processor"."""
    name = re.sub(r"\(\w+\)|\b(Processor|CPU)\b|@.*", " ", world.get("card", world["processor"]))
    return " ".join(name.split())


def slug(world: dict[str, Any]) -> str:
    """The same for a file's name."""
    return "-".join(re.findall("[a-z0-9.]+", processor_name(world).lower()))


def commit() -> str:
    """The commit that is checked out, with a plus where what is measured was changed; "" outside a repository."""
    measured = ("src", "benchmarks", ":!benchmarks/results")
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", *measured) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


class Results:
    """The two files of one part, processor and day: written anew after every case, so that an interruption costs one.

    Rows of the same day and the same world are kept; a case measured again replaces its row.
    """

    def __init__(self, folder: Path, part: str, about: str, ratios: Ratios, world: dict[str, Any]) -> None:
        day = datetime.date.today().isoformat()
        self.stem = folder / f"{part}_{slug(world)}_{day}"
        self.part, self.about, self.ratios, self.day = part, about, ratios, day
        self.world = world
        self.rows = self._earlier_rows()

    def add(self, row: Row) -> None:
        row.commit = commit()
        places = [at for at, old in enumerate(self.rows) if (old.case, old.dtype) == (row.case, row.dtype)]
        self.rows[places[0] if places else len(self.rows) : (places[0] + 1) if places else None] = [row]
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        _replace(self.stem.with_suffix(".json"), json.dumps(self._data(), ensure_ascii=False) + "\n")
        _replace(self.stem.with_suffix(".md"), self.text() + "\n")

    def text(self) -> str:
        """The page in Markdown."""
        return "\n\n".join(
            [
                f"# {self.part}, {processor_name(self.world)}, {self.day}",
                self.about,
                table(self.part, self.world["device"], self.rows, self.ratios),
                "\n".join(f"- {name}: {value}" for name, value in self._facts().items()),
            ]
        )

    def _facts(self) -> dict[str, Any]:
        commits = dict.fromkeys(row.commit for row in self.rows if row.commit)
        return self.world | ({"commits": ", ".join(commits)} if commits else {})

    def _data(self) -> dict[str, Any]:
        return {"date": self.day, "world": self.world, "rows": [asdict(row) for row in self.rows]}

    def _earlier_rows(self) -> list[Row]:
        path = self.stem.with_suffix(".json")
        if not path.is_file():
            return []
        data = json.loads(path.read_text(encoding="utf-8"))
        return [Row(**row) for row in data["rows"]] if data["world"] == self.world else []


def _replace(path: Path, text: str) -> None:
    """Write a file in one piece."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
