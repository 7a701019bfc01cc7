"""`python -m benchmarks [PART ...]`: measure, print, and write benchmarks/results/; `readme`: the table of
docs/performance.md and the README's picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import (
    bandwidth,
    forward,
    int8,
    lengths,
    masked_lm,
    memory,
    neighbours,
    padding,
    pipeline,
    pretraining,
    readme,
    runtimes,
    training,
)
from benchmarks.report import RESULTS, ROOT
from benchmarks.run import Run, run_part

PARTS = {
    "forward": forward,
    "training": training,
    "memory": memory,
    "pipeline": pipeline,
    "masked_lm": masked_lm,
    "int8": int8,
    "padding": padding,
    "lengths": lengths,
    "neighbours": neighbours,
    "runtimes": runtimes,
    "bandwidth": bandwidth,
    "pretraining": pretraining,
}


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"of {', '.join(PARTS)}; default all. Or: readme")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    only: Annotated[str, typer.Option(help="regular expression: cases by name, precision and step")] = "",
    rounds: Annotated[int | None, typer.Option(min=1, help="at most so many; default by part")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="about so long for a case")] = 60.0,
    warmup: Annotated[int, typer.Option(min=1, help="uncounted rounds")] = 2,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    compile: Annotated[
        bool, typer.Option(help="transformers' ConvBERT compiled, too: minutes a case")
    ] = True,
    output: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure side by side. Run nothing else on the machine meanwhile."""
    if parts == ["readme"]:
        readme.rewrite(ROOT / "docs/performance.md", ROOT / "docs/speed.svg", output)
        return
    unknown = set(parts or []) - set(PARTS)
    if unknown:
        raise typer.BadParameter(
            f"no part named {', '.join(unknown)}; there are {', '.join(PARTS)} and readme"
        )
    try:
        re.compile(only)
        place = torch.empty(0, device=device).device
    except (re.error, RuntimeError, AssertionError) as error:
        raise typer.BadParameter(str(error).splitlines()[0]) from error
    torch.set_num_threads(threads)
    # The oracle's convolutions, whose float32 is to be float32 on a GPU.
    torch.backends.cudnn.allow_tf32 = False
    run = Run(place, threads, rounds, warmup, seconds, compile, only)
    refused = False
    for name in parts or PARTS:
        results = run_part(PARTS[name], run, output)
        print(results.text(), flush=True)
        refused |= any(row.was_refused for row in results.rows)
    raise typer.Exit(code=1 if refused else 0)


if __name__ == "__main__":
    typer.run(main)
