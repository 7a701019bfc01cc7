"""`python -m benchmarks [forward] [--rounds N] [--threads N]`: measure, print, and write benchmarks/results/."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer

import convbert
from benchmarks import forward

PARTS = {"forward": forward}
RESULTS = Path(__file__).parent / "results"


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(PARTS)}; default all")] = None,
    rounds: Annotated[int, typer.Option(min=4, help="counted rounds of A B A B")] = 20,
    warmup: Annotated[int, typer.Option(min=1, help="uncounted rounds")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Measure speed side by side. Run nothing else on the machine meanwhile."""
    unknown = set(parts or []) - set(PARTS)
    if unknown:
        raise typer.BadParameter(f"no part named {', '.join(unknown)}; there are {', '.join(PARTS)}")
    torch.set_num_threads(threads)
    for name in parts or PARTS:
        rows = PARTS[name].run(rounds, warmup)
        write(name, rows, {"rounds": rounds, "warmup": warmup, "threads": threads})


def write(name: str, rows: list[dict], settings: dict) -> None:
    """Print the table, and store it with everything needed to read it later."""
    day = datetime.date.today().isoformat()
    world = {
        "date": day,
        "processor": processor(),
        "convbert": convbert.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        **settings,
    }
    text = "\n\n".join(
        [
            f"# {name}, CPU, {day}",
            PARTS[name].__doc__.strip(),
            PARTS[name].table(rows),
            ", ".join(f"{key} {value}" for key, value in world.items()),
            f"Command: `python -m benchmarks {name} --rounds {settings['rounds']} --threads {settings['threads']}`",
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{name}_cpu_{day}"
    stem.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps({"world": world, "rows": rows}) + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    typer.run(main)
