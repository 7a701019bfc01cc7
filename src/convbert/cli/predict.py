"""`convbert predict`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from convbert.cli.failures import say
from convbert.cli.lines import Line, answer_lines, read_blocks
from convbert.cli.progress import progress_line
from convbert.errors import InputError

if TYPE_CHECKING:
    from convbert.cli.embedding import Embedder
    from convbert.finetuning.prediction import Predictor


def run(
    model: Annotated[
        str | None, typer.Option(help="Folder of a fine-tuned model, or its name on the Hub.")
    ] = None,
    input_file: Annotated[
        str, typer.Option("--input", help='A text or a JSON object a line, UTF-8; "-" reads stdin.')
    ] = "-",
    output: Annotated[
        Path | None, typer.Option(help="File for the answers, JSON Lines; by default they go to stdout.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            metavar="POOLING",
            help='A vector for each text in place of an answer: "mean" or "max" of its tokens, or "first", [CLS]. '
            "Any model will do; by default the embedded English one.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run into --output ended.")
    ] = False,
    precision: Annotated[
        str,
        typer.Option(help='"auto", "fp32", "bf16" or "int8"; "convbert doctor" says what each gains here.'),
    ] = "auto",
    device: Annotated[str | None, typer.Option(help='"cpu", "cuda", "cuda:1", ...')] = None,
) -> int:
    """Answer every line of a file with a fine-tuned model, or turn it into a vector.

    The answers come in the order of the lines, with their numbers; memory does not grow with the file. A line that
    cannot be used is answered with its error, and does not stop the others. Until the end, --output has the
    ending .partial; --resume goes on there.

    \b
    Examples:
      convbert predict --model runs/sst2/model --input reviews.txt --output answers.jsonl
      convbert predict --model runs/squad/model --input questions.jsonl --output answers.jsonl --resume
      zcat tweets.gz | convbert predict --model runs/btc/model > tags.jsonl
      convbert predict --embeddings mean --input reviews.txt --output vectors.jsonl
    """
    if model is None and embeddings is None:
        raise InputError("give --model, a folder that convbert finetune wrote (or --embeddings, for vectors)")
    if resume and output is None:
        raise InputError("--resume goes on in a file: give --output")
    if resume and output is not None and output.exists():
        say(f"{output}: is finished; nothing to resume")
        return 0
    with _open(input_file) as (stream, size), _Answers(output, resume) as answers:
        answerer = _answerer(model, embeddings, precision, device)
        started, done = monotonic(), 0
        with progress_line(size, to_file=output is not None) as advance:
            for block in read_blocks(stream, "stdin" if input_file == "-" else input_file):
                lines = [line for line in block if line.number > answers.already]
                for line, record in answer_lines(lines, answerer.answer):
                    answers.write(line, record)
                answers.flush()
                done += len(lines)
                advance(len(lines), sum(line.size for line in block))
    seconds = monotonic() - started
    say(f"{done:,} texts in {seconds:.1f} s ({done / max(seconds, 1e-9):,.0f} texts/s)")
    if answerer.cut:
        say(f"texts that are longer than the model was trained for, and were cut: {answerer.cut:,}")
    answers.report()
    return 0


def _answerer(
    model: str | None, embeddings: str | None, precision: str, device: str | None
) -> Embedder | Predictor:
    """What turns lines into answers, in their order."""
    if embeddings is not None:
        from convbert.cli.embedding import Embedder

        return Embedder(model, embeddings, precision, device)
    from convbert.finetuning.evaluation import FinetunedModel
    from convbert.finetuning.prediction import Predictor

    return Predictor(FinetunedModel.load(model, device=device, precision=precision))


class _Answers:
    """Where answers go: stdout, or a file that gets its name when all of them are there.

    Attributes:
        already: lines that an interrupted run has answered.
    """

    def __init__(self, path: Path | None, resume: bool) -> None:
        self.path, self.already, self.failed, self.first_failure = path, 0, 0, ""
        self._partial = None if path is None else path.with_name(path.name + ".partial")
        if self.path is None or self._partial is None:
            self._stream: BinaryIO = sys.stdout.buffer
            return
        if self.path.exists():
            raise InputError(f"{self.path}: is there already; remove it, or choose another --output")
        if self._partial.exists() and not resume:
            raise InputError(
                f"{self._partial}: an interrupted run left it; go on with --resume, or remove it"
            )
        self._stream = self._partial.open("r+b" if self._partial.exists() else "wb")
        self.already = self._seek_to_the_end()

    def _seek_to_the_end(self) -> int:
        """Cut a line that was not written to its end; the number of those that were."""
        count = end = 0
        if self._stream.readable():
            for line in self._stream:
                if line.endswith(b"\n"):
                    count, end = count + 1, end + len(line)
            self._stream.seek(end)
            self._stream.truncate()
        return count

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self.path is None or self._partial is None:
            return
        self._stream.close()
        if kind is None:
            os.replace(self._partial, self.path)
        elif self._partial.stat().st_size == 0:
            self._partial.unlink()  # nothing was answered: the same command works once the input is mended

    def write(self, line: Line, record: dict[str, Any] | InputError) -> None:
        """One line of JSON: the line's number, and its answer or its error."""
        if isinstance(record, InputError):
            self.failed += 1
            self.first_failure = self.first_failure or f"{line.place}: {record}"
            record = {"error": str(record)}
        text = json.dumps({"line": line.number, **record}, ensure_ascii=False)
        self._stream.write(text.encode() + b"\n")

    def flush(self) -> None:
        """Hand over what has been written."""
        self._stream.flush()

    def report(self) -> None:
        """Say how many lines have no answer."""
        if self.failed:
            lines = "line has" if self.failed == 1 else "lines have"
            say(f"{self.failed} {lines} no answer; the first: {self.first_failure}")


@contextmanager
def _open(name: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """The stream, and how many bytes it has where that is known."""
    if name == "-":
        yield sys.stdin.buffer, None
        return
    with open(name, "rb") as stream:
        yield stream, os.fstat(stream.fileno()).st_size
