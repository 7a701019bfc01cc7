"""How far a long job is: one line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convbert.pretraining.corpus.prepare import Progress

Advance = Callable[[int, int], None]
"""Told how many texts and how many bytes have been done since the last call."""


@contextmanager
def progress_line(total_bytes: int | None = None, *, to_file: bool = False) -> Iterator[Advance]:
    """Show texts per second, and the time left where the total is known.

    Only where someone looks: stderr is a terminal, and the results go elsewhere (`to_file`, or stdout is none).
    """
    if not sys.stderr.isatty() or (sys.stdout.isatty() and not to_file):
        yield lambda texts, size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[texts]:,} texts"),
        BarColumn(),
        TextColumn("{task.fields[rate]:,.0f} texts/s"),
        TimeElapsedColumn() if total_bytes is None else TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total_bytes, texts=0, rate=0.0)

        def advance(texts: int, size: int) -> None:
            done = bar.tasks[task].fields["texts"] + texts
            elapsed = bar.tasks[task].elapsed or 0.0
            bar.update(task, advance=size, texts=done, rate=done / elapsed if elapsed else 0.0)

        yield advance


@contextmanager
def prepare_line(say: Callable[[str], None]) -> Iterator[Callable[[Progress], None]]:
    """Show how far the preparation of a corpus is: a line that moves where stderr is a terminal, else one
    now and then."""
    if not sys.stderr.isatty():
        from convbert.pretraining.corpus.prepare import tell_now_and_then

        yield tell_now_and_then(say)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as ProgressBar

    with ProgressBar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda progress: bar.update(
            task,
            completed=progress.bytes_done,
            total=progress.bytes_total or None,
            description=str(progress),
        )
