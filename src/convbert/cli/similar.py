"""`convbert similar`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from heapq import heappush, heappushpop
from typing import Annotated, Any

import typer

from convbert.bulk.inputs import Item, open_lines
from convbert.cli.failures import WRONG_INPUT, say
from convbert.cli.options import Device, Precision, check_model_path
from convbert.cli.progress import progress_line
from convbert.util.errors import InputError


def run(
    query: Annotated[str | None, typer.Argument(help="The text to compare with.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", help='A text per line, UTF-8; "-" reads stdin.')
    ] = None,
    pairs: Annotated[
        str | None, typer.Option("--pairs", help="Two texts per line with a tab between them; no query then.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Lines shown, the most similar first.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON Lines: one object per text.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Model folder, or a name on the Hub; by default the embedded sentence model."),
    ] = None,
    device: Device = None,
    precision: Precision = "auto",
) -> int:
    """Find the lines of a file that are most like a text, or score pairs: cosines of their vectors, from -1 to 1.

    Lines are read as they come; a file may be of any size. Pairs are answered in their order.

    \b
    Examples:
      convbert similar "How do I reset my password?" --file faq.txt --top-k 3
      convbert similar --pairs pairs.tsv --json > scores.jsonl
    """
    if (query is None) == (pairs is None) or (file is None) != (pairs is not None):
        raise InputError("give a text and --file, or --pairs")
    if query is not None and not query.strip():
        raise InputError("the text to compare with is empty")
    check_model_path(model)
    blocks, size = open_lines(file or pairs or "-")
    import convbert

    pipe: Any = convbert.pipeline("sentence-similarity", model, device=device, precision=precision)
    done = failed = 0
    best: list[tuple[float, int, str]] = []
    vector = None if query is None else pipe.vectors([query])[0]
    with progress_line(size) as advance:
        for block in blocks:
            # Of pairs, an empty line has no answer and is said; among lines to choose from, it is none.
            lines = [
                line
                for line in block
                if pairs or isinstance(line.content, InputError) or line.content.strip()
            ]
            for line, cosine in _cosines(pipe, vector, lines):
                done += 1
                if isinstance(cosine, InputError):
                    failed += 1
                    say(f"{line.place}: {cosine}")
                    if as_json and vector is None:
                        print(json.dumps({"line": line.number, "error": str(cosine)}, ensure_ascii=False))
                elif vector is None:
                    _write(line, cosine, as_json)
                else:
                    found = (cosine, -line.number, line.content)
                    heappush(best, found) if len(best) < top_k else heappushpop(best, found)
            advance(len(block), sum(line.size for line in block))
    for cosine, number, text in sorted(best, reverse=True):
        _write(Item(-number, text, ""), cosine, as_json)
    if pipe.windowed:
        say(f"texts that are longer than the model reads, and were read in windows: {pipe.windowed:,}")
    return WRONG_INPUT if failed == done else 0


def _cosines(pipe: Any, query: Any, lines: list[Item]) -> Iterator[tuple[Item, float | InputError]]:
    """Each line with its cosine, to the query or, without one, of its two texts; or with what is wrong with it."""
    texts = [_texts(line.content, 2 if query is None else 1) for line in lines]
    vectors = pipe.vector_stream([text for own in texts if not isinstance(own, InputError) for text in own])
    for line, own in zip(lines, texts, strict=True):
        found: list[Any] = [own] if isinstance(own, InputError) else [next(vectors) for _ in own]
        error = next((each for each in found if isinstance(each, InputError)), None)
        yield line, error or float(found[0] @ (found[1] if query is None else query))


def _texts(content: Any, wanted: int) -> list[str] | InputError:
    if isinstance(content, InputError):
        return content
    texts = content.split("\t") if wanted > 1 else [content]
    if len(texts) != wanted or not all(map(str.strip, texts)):
        return InputError("two texts with a tab between them are wanted")
    return texts


def _write(line: Item, cosine: float, as_json: bool) -> None:
    if as_json:
        print(
            json.dumps(
                {"line": line.number, "score": round(cosine, 6), "text": line.content}, ensure_ascii=False
            )
        )
    else:
        print(f"{cosine:.3f}", line.number, line.content, sep="\t")
