"""`convbert fill-mask`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from convbert.bulk.inputs import Item, open_lines
from convbert.cli.failures import WRONG_INPUT, say
from convbert.cli.options import Device, Long, Model, Precision
from convbert.cli.progress import Advance, progress_line
from convbert.util.errors import InputError

Masks = list[list[dict[str, Any]]]
"""For each [MASK] of a text, the best tokens: `token` (id), `token_str`, `score`, `sequence`."""


def run(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help='Texts with [MASK]; "-" reads stdin.')
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", help='A text per line, UTF-8; "-" reads stdin.')
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Tokens shown for each [MASK].")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON Lines: one object per text.")] = False,
    model: Model = None,
    device: Device = None,
    long: Long = None,
    precision: Precision = "auto",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over lines that cannot be used, and say how many.")
    ] = False,
) -> int:
    """Say which tokens fit in place of [MASK].

    Results come in the order of the texts, while they are read; a file may be of any size.
    A text given as an argument is answered with a table. A line of a file is answered with a line: the text,
    then for each [MASK] a tab and its tokens.

    \b
    Examples:
      convbert fill-mask "Plants create [MASK] through a process known as photosynthesis."
      convbert fill-mask "The [MASK] of France is [MASK]." --top-k 3 --json
      convbert fill-mask --file sentences.txt --json > answers.jsonl
      convbert fill-mask --file sentences.txt --model YituTech/conv-bert-base --precision int8 > answers.tsv
      zcat sentences.gz | convbert fill-mask - --model runs/small/model --skip-bad > answers.tsv
    """
    source = _source(texts or [], file)
    write = _write_json if as_json else _write_table if isinstance(source, list) else _write_row
    with _open(source) as (blocks, advance):
        import convbert

        fill = convbert.pipeline(
            "fill-mask", model=model, device=device, precision=precision, top_k=top_k, long=long
        )
        skipped, answered, first = 0, 0, ""
        for lines in blocks:
            answers = fill.stream([line.content for line in lines], on_error="return")
            for line, masks in zip(lines, answers, strict=True):
                if not isinstance(masks, InputError):
                    # A text with one mask comes without the list of masks around it.
                    write(line, [masks] if isinstance(masks[0], dict) else masks)
                    answered += 1
                    continue
                first = first or f"{line.place}: {masks}"
                skipped += 1
                if not skip_bad:
                    sys.stdout.flush()
                    raise InputError(first) from masks
            sys.stdout.flush()
            advance(len(lines), sum(line.size for line in lines))
    if skipped:
        say(f"{skipped} {'line' if skipped == 1 else 'lines'} skipped; the first: {first}")
    for count, how in ((fill.windowed, "read around [MASK] alone"), (fill.cut, "cut")):
        if count:
            say(f"texts that are longer than the model reads at once, and were {how}: {count:,}")
    return WRONG_INPUT if skipped and not answered else 0


def _source(texts: list[str], file: str | None) -> list[str] | str:
    """The texts themselves, or the name of what to read; "-" is stdin."""
    for text in texts:
        if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"a text is not UTF-8: {text!r:.60}")
    if bool(texts) == (file is not None):
        raise InputError("give either texts or --file")
    if file is not None:
        return file
    if "-" in texts and len(texts) > 1:
        raise InputError('"-" reads the texts from stdin; it cannot stand beside other texts')
    return "-" if texts == ["-"] else texts


@contextmanager
def _open(source: list[str] | str) -> Iterator[tuple[Iterator[list[Item]], Advance]]:
    """Blocks of lines, and whom to tell how far they are."""
    if isinstance(source, list):
        texts = [Item(number, text, f"text {number}") for number, text in enumerate(source, start=1)]
        yield iter([texts]), lambda texts, size: None
    else:
        blocks, size = open_lines(source)
        with progress_line(size) as advance:
            yield blocks, advance


def _write_json(line: Item, masks: Masks) -> None:
    record = {"line": line.number, "text": line.content, "masks": masks}
    print(json.dumps(record, ensure_ascii=False, allow_nan=False))


def _write_row(line: Item, masks: Masks) -> None:
    print(line.content, *(" ".join(found["token_str"] for found in mask) for mask in masks), sep="\t")


def _write_table(line: Item, masks: Masks) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(line.content), title_justify="left", title_style="bold")
    for number in range(1, len(masks) + 1):
        table.add_column("[MASK]" if len(masks) == 1 else f"[MASK] {number}")
        table.add_column("score", justify="right")
    for best in zip(*masks, strict=True):
        table.add_row(
            *(Text(cell) for found in best for cell in (found["token_str"], f"{found['score']:.3f}"))
        )
    Console().print(table)
