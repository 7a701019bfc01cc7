"""`convbert predict`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convbert.cli.failures import WRONG_INPUT, say
from convbert.cli.options import INPUTS, Device, Long, Precision, check_model_path, with_columns
from convbert.cli.progress import progress_line
from convbert.util.errors import InputError
from convbert.util.optional import require
from convbert.util.workers import check_engine

if TYPE_CHECKING:
    from convbert.bulk.answering import Answered, Answering
    from convbert.bulk.answers import Answers
    from convbert.bulk.blocks import Inputs


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
            help="Lines of text, JSON Lines, or a table (CSV, TSV, Parquet, CoNLL, JSON), UTF-8; a pattern in quotes, "
            '"texts/*.jsonl", for many files; "-" reads stdin.',
        ),
    ] = "-",
    output: Annotated[
        Path | None,
        typer.Option(
            help="File for the answers: JSON Lines, or with the ending .parquet a table that keeps all columns of the "
            "input; by default JSON Lines to stdout."
        ),
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            metavar="POOLING",
            help='A vector for each text in place of an answer: "mean" or "max" of its tokens, or "first", [CLS]. '
            "Any model will do; by default the embedded sentence model.",
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
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes, each with the model and a share of the cores; by default one, with all cores. With Ray: "
            "actors at most, by default one a GPU, or one a CPU.",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help='"local", or "ray": the Ray cluster that runs here or at RAY_ADDRESS.')
    ] = "local",
    long: Long = None,
    precision: Precision = "auto",
    device: Device = None,
) -> int:
    """Answer every line or row of a file with a fine-tuned model, or turn it into a vector.

    Tables are read by the columns that the model was trained on. The answers come in the order of the lines, with
    their numbers; memory does not grow with the file. A line that cannot be used is answered with its error, and does
    not stop the others, nor does a damaged file among many. Until the end, --output has the ending .partial; the same
    command goes on there.

    \b
    Examples:
      convbert predict --model runs/sst2/model --input reviews.csv --output answers.jsonl
      convbert predict --model runs/squad/model --input questions.jsonl --output answers.jsonl
      zcat tweets.gz | convbert predict --model runs/btc/model > tags.jsonl
      convbert predict --embeddings mean --input reviews.parquet --text-column review --output vectors.parquet
      convbert predict --model runs/sst2/model --input "reviews/*.csv" --output answers.parquet --workers 8
      convbert predict --model /shared/model --input "/shared/*.jsonl" --output answers.parquet --engine ray
    """
    if model is None and embeddings is None:
        raise InputError("give --model, a folder that convbert finetune wrote (or --embeddings, for vectors)")
    if resume and output is None:
        raise InputError("--resume goes on in a file: give --output")
    if resume and output is not None and output.exists():
        say(f"{output}: is finished; nothing to resume")
        return 0
    from convbert.bulk.blocks import Inputs

    check_engine(engine)
    inputs = Inputs.find(input_file, format_)
    if engine == "ray" and input_file == "-":
        raise InputError("--engine ray reads files: name them by --input")
    check_model_path(model)
    from convbert.inference.windows import check_long  # brings numpy

    check_long(long or "windows", "--long")
    if output is not None and output.suffix.lower() == ".parquet":
        require("table", f"writing {output}")
    command = {
        "model": model,
        "embeddings": embeddings,
        "input": _identity(inputs, input_file),
        "format": format_,
        "columns": columns,
        "precision": precision,
        "long": long,
    }
    from convbert.bulk.answering import Answering
    from convbert.bulk.answers import open_answers

    answering = Answering(model, embeddings, columns, precision, device, long)
    if model is None:
        say("the embedded sentence model makes the vectors; --model names another")
    with open_answers(output, resume, command) as answers:
        _answer_all(inputs, answering, answers, engine, workers, to_file=output is not None)
    if said := answers.report():
        say(said)
    return WRONG_INPUT if answers.failed == answers.done > 0 else 0


def _answer_all(
    inputs: Inputs,
    answering: Answering,
    answers: Answers,
    engine: str,
    workers: int | None,
    *,
    to_file: bool,
) -> None:
    from convbert.finetuning.prediction import Counts

    found = _answered(inputs, answering, answers, engine, workers)
    started, texts, counts = monotonic(), 0, Counts()
    with progress_line(inputs.size(), to_file=to_file) as advance:
        for answered in found:
            answers.write(answered)
            texts += answered.texts
            counts = counts.plus(answered.counts)
            advance(answered.texts, answered.size)
    seconds = monotonic() - started
    say(f"{texts:,} texts in {seconds:.1f} s ({texts / max(seconds, 1e-9):,.0f} texts/s)")
    for note in counts.notes():
        say(note)


def _answered(
    inputs: Inputs, answering: Answering, answers: Answers, engine: str, workers: int | None
) -> Iterator[Answered]:
    from convbert.bulk.answering import answer_by_processes, answer_here

    reader = answering.load()  # in every case: what is wrong with the model is said here
    inputs = replace(inputs, reading=reader.reading())
    start, write = answers.position, answers.write_as
    if inputs.names != ["-"] and (row := inputs.first_row(say if engine == "ray" else lambda _: None)):
        reader.check_columns(row)
    if engine == "ray":
        from convbert.bulk.ray import answer_by_ray

        return answer_by_ray(inputs, start, answering, write, workers)
    blocks = (block for file in inputs.after(start) for block in inputs.read(**file, report=say))
    if workers in (None, 1):
        return answer_here(blocks, reader, write)
    return answer_by_processes(blocks, answering, write, workers)


def _identity(inputs: Inputs, name: str) -> Any:
    """What tells one input from another: its name, its size, and its beginning, or those of all files that the name
    matches; of stdin nothing does."""
    if name == "-":
        return name
    size, digest = 0, hashlib.sha256()
    for file in inputs.names:
        with open(file, "rb") as stream:
            own = os.fstat(stream.fileno()).st_size
            digest.update(f"{file}\0{own}\0".encode(errors="surrogateescape") + stream.read(1 << 16))
        size += own
    return [name, len(inputs.names), size, digest.hexdigest()[:16]]
