"""`convbert predict`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convbert.cli.answers import Answers
from convbert.cli.failures import WRONG_INPUT, say
from convbert.cli.options import INPUTS, Device, Long, Precision, check_model_path, with_columns
from convbert.cli.progress import progress_line
from convbert.util.errors import InputError

if TYPE_CHECKING:
    from convbert.cli.inputs import Input
    from convbert.finetuning.prediction import RecordReader


@with_columns(*INPUTS)
def run(
    columns: dict[str, str | None],
    model: Annotated[
        str | None, typer.Option(help="Folder of a fine-tuned model, or its name on the Hub.")
    ] = None,
    input_file: Annotated[
        str,
        typer.Option(
            "--input",
            help='Lines of text, JSON Lines, or a table (CSV, TSV, Parquet, CoNLL, JSON), UTF-8; "-" reads stdin.',
        ),
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
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="text, jsonl, csv, tsv, parquet, conll, conllu or json; by default what the name ends with, else "
            "what the first lines look like.",
        ),
    ] = "auto",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with an interrupted run into --output, as the same command does anyway."
        ),
    ] = False,
    long: Long = None,
    precision: Precision = "auto",
    device: Device = None,
) -> int:
    """Answer every line or row of a file with a fine-tuned model, or turn it into a vector.

    Tables are read by the columns that the model was trained on. The answers come in the order of the lines, with
    their numbers; memory does not grow with the file. A line that cannot be used is answered with its error, and does
    not stop the others. Until the end, --output has the ending .partial; the same command goes on there.

    \b
    Examples:
      convbert predict --model runs/sst2/model --input reviews.csv --output answers.jsonl
      convbert predict --model runs/squad/model --input questions.jsonl --output answers.jsonl
      zcat tweets.gz | convbert predict --model runs/btc/model > tags.jsonl
      convbert predict --embeddings mean --input reviews.parquet --text-column review --output vectors.jsonl
    """
    if model is None and embeddings is None:
        raise InputError("give --model, a folder that convbert finetune wrote (or --embeddings, for vectors)")
    if resume and output is None:
        raise InputError("--resume goes on in a file: give --output")
    if resume and output is not None and output.exists():
        say(f"{output}: is finished; nothing to resume")
        return 0
    from convbert.cli.inputs import check_input, open_input
    from convbert.inference.windows import check_long

    check_long(long or "windows", "--long")
    check_input(input_file, format_)
    check_model_path(model)
    command = {
        "model": model,
        "embeddings": embeddings,
        "input": _identity(input_file),
        "format": format_,
        "columns": columns,
        "precision": precision,
        "long": long,
    }
    with Answers(output, resume, command) as answers:
        answerer = _answerer(model, embeddings, columns, precision, device, long)
        given = open_input(input_file, format_, **answerer.reading(), report=say)
        _answer_all(given, answerer, answers, to_file=output is not None)
        answers.report(given.unit)
    return WRONG_INPUT if answers.failed == answers.done > 0 else 0


def _answer_all(given: Input, answerer: RecordReader, answers: Answers, *, to_file: bool) -> None:
    if answers.unit not in ("", given.unit):
        raise InputError(f"{answers.path}.partial: was begun by the {answers.unit}, not by the {given.unit}")
    started, before, is_checked = monotonic(), answers.done, given.unit == "line"
    with progress_line(given.size, to_file=to_file) as advance:
        for block in given.blocks:
            rows = [item.content for item in block if not isinstance(item.content, InputError)]
            if not is_checked and rows:
                answerer.check_columns(rows[0])
                is_checked = True
            items = [item for item in block if item.number > answers.done]
            for item, record in zip(items, answerer.answer([item.content for item in items]), strict=True):
                answers.write(given.unit, item.number, item.place, record)
            answers.flush()
            advance(len(items), sum(item.size for item in block))
    seconds, done = monotonic() - started, answers.done - before
    say(f"{done:,} texts in {seconds:.1f} s ({done / max(seconds, 1e-9):,.0f} texts/s)")
    for note in answerer.notes():
        say(note)


def _answerer(
    model: str | None,
    embeddings: str | None,
    columns: dict[str, str | None],
    precision: str,
    device: str | None,
    long: str | None,
) -> RecordReader:
    """What turns lines into answers, in their order."""
    if embeddings is not None:
        if others := [role for role, name in columns.items() if name and role not in ("text", "id")]:
            raise InputError(f"vectors are of one text: there is no column for {others[0]}")
        from convbert.inference.pipelines.feature_extraction import POOLINGS

        if embeddings not in POOLINGS:
            raise InputError(f"--embeddings must be one of {', '.join(POOLINGS)}; got {embeddings}")
        import convbert
        from convbert.finetuning.prediction import Embedder
        from convbert.inference.windows import check_long

        pipe: Any = convbert.pipeline("feature-extraction", model, device=device, precision=precision)
        return Embedder(
            pipe,
            embeddings,
            {role: columns[role] or role for role in ("text", "id")},
            check_long(long or "windows"),
        )
    from convbert.finetuning.evaluation import FinetunedModel
    from convbert.finetuning.prediction import Predictor

    return Predictor(FinetunedModel.load(model, device=device, precision=precision, long=long), columns)


def _identity(name: str) -> Any:
    """What tells one input from another: its name, its size, and its beginning; of stdin nothing does."""
    if name == "-":
        return name
    with open(name, "rb") as stream:
        return [name, Path(name).stat().st_size, hashlib.sha256(stream.read(1 << 20)).hexdigest()[:16]]
