"""`convbert pretrain`."""

from __future__ import annotations

import dataclasses
import signal
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convbert.cli.estimate import show_estimate
from convbert.cli.failures import INTERRUPTED, is_first_process, say
from convbert.cli.options import check_model_path, check_training_device
from convbert.cli.prepare import (
    DocumentPerLine,
    KeepAccents,
    Lowercase,
    SkipBadFiles,
    TextColumn,
    check_sources,
    check_tokenizer_options,
)
from convbert.util.errors import InputError
from convbert.util.optional import require
from convbert.util.schema import to_json
from convbert.util.settings import parse_settings
from convbert.util.signals import handling

if TYPE_CHECKING:
    from convbert.pretraining.recipes import PretrainingPlan


RECIPE_NAMES = ("smoke", "tiny", "embedded", "small", "medium_small", "base")


def run(
    corpus: Annotated[
        list[str],
        typer.Option(help="Text, JSON lines, Parquet, CSV, folder, quoted glob, or what prepare made."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; the model ends up in its model/, a generator in generator/."),
    ] = None,
    recipe: Annotated[str, typer.Option(help=f"Plan to start from: {', '.join(RECIPE_NAMES)}.")] = "small",
    objective: Annotated[
        str | None,
        typer.Option(
            help="What is learned: rtd, replaced token detection, or mlm, masked language modelling. "
            "By default the recipe's."
        ),
    ] = None,
    heldout: Annotated[
        list[str] | None, typer.Option(help="Text that is only evaluated on; may be repeated.")
    ] = None,
    text_column: TextColumn = "text",
    document_per_line: DocumentPerLine = False,
    skip_bad_files: SkipBadFiles = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a tokenizer; without it one is learned from the corpus.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            help="Begin with the weights of this model: a folder, a name on the Hub, or embedded. Its vocabulary is "
            "taken, too; recipe and settings must describe its architecture."
        ),
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Tokens in the vocabulary that is learned.")] = None,
    lowercase: Lowercase = None,
    keep_accents: KeepAccents = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens in a full sequence.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Length of the run in optimizer steps.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Length of the run in minutes instead.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences per micro-batch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The peak, after warm-up.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of initial weights, data order and masks.")] = None,
    bf16: Annotated[
        bool | None,
        typer.Option("--bf16/--no-bf16", help="Autocast to bfloat16; by default where it is fast."),
    ] = None,
    device: Annotated[str | None, typer.Option(help='"cpu" leaves a GPU unused.')] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any other field of plan or model; may be repeated."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what the run would take: memory, arithmetic, hours."),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Write the final figures, or those of --dry-run, as JSON to stdout."),
    ] = False,
) -> int:
    """Train a model on text: one paragraph a line, an empty line between documents.

    Progress goes to stderr, and to report.html in the output folder. Ctrl-C and SIGTERM save a checkpoint and end;
    killed or not, the same command goes on from the last checkpoint.

    \b
    Examples:
      convbert pretrain --recipe tiny --corpus corpus.txt --output runs/first
      convbert pretrain --recipe small --corpus "corpus/*.txt.gz" --heldout heldout.txt --output runs/small
      torchrun --nproc-per-node 8 -m convbert pretrain --recipe base --corpus corpus/ --output runs/base
      convbert pretrain --recipe embedded --corpus recipes.txt --start-from embedded --output runs/cook
      convbert pretrain --recipe base --corpus corpus/ --dry-run
      convbert pretrain --recipe base --corpus corpus/ --output runs/deep --set num_hidden_layers=24
    """
    require("train", "convbert pretrain")
    # What can be refused without torch, whose import takes seconds.
    check_training_device(device)
    if recipe not in RECIPE_NAMES:
        raise InputError(f"no recipe named {recipe!r}; there are {', '.join(RECIPE_NAMES)}")
    if output is None and not dry_run:
        raise InputError("--output is missing: name a folder for the run, or say --dry-run")
    is_over = output is not None and (output / "metrics.json").exists()  # and its texts may be gone
    for sources in () if is_over else (corpus, heldout):
        if sources:
            check_sources(sources)
    check_tokenizer_options(tokenizer, start_from, vocab_size, lowercase, keep_accents)
    check_model_path(start_from)
    from convbert.pretraining.corpus.reading import Reading
    from convbert.pretraining.recipes import recipe as find_recipe
    from convbert.pretraining.run import pretrain as train
    from convbert.pretraining.warm_start import stored_positions

    reading = Reading(text_column, document_per_line, skip_bad_files)
    plan = find_recipe(recipe)
    changes = {
        "objective": objective,
        "start_from": start_from,
        "vocab_size": vocab_size,
        "lowercase": lowercase,
        "keep_accents": keep_accents,
        "sequence_length": sequence_length,
        "max_steps": max_steps,
        "max_minutes": max_minutes,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "bf16": bf16,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    changes |= parse_settings(settings or (), settable_fields(plan), given=changes)
    if start_from is not None:
        changes.setdefault("max_position_embeddings", stored_positions(start_from))
    plan = plan.override(**changes)
    is_first = is_first_process()
    if is_first:
        show_plan(plan)
    if dry_run:
        show_estimate(plan, corpus, tokenizer, device, reading, as_json=as_json)
        return 0
    assert output is not None
    try:
        with ending_on_sigterm():
            result = train(
                plan,
                corpus,
                output,
                tokenizer=tokenizer,
                heldout=heldout or None,
                reading=reading,
                device=device,
                report=say,
            )
    except Terminated:
        say("stopped by SIGTERM; run the same command to go on")
        return 0
    if not result.finished:
        # A scheduler that ends a job by SIGTERM has got what it asked for.
        return 0 if result.stopped_by is signal.SIGTERM else INTERRUPTED
    if is_first:
        print(to_json(result.metrics) if as_json else result.model_dir)
    return 0


def show_plan(plan: PretrainingPlan) -> None:
    """Every field of the plan, and of the model what makes it up, on stderr."""
    config = plan.model_config(plan.vocab_size)
    model = {name: getattr(config, name) for name in type(config).__annotations__ if not name.endswith("_id")}
    for name, fields in (("recipe", plan.to_dict() | {"model": None}), ("model", model)):
        told = ", ".join(f"{field}={value}" for field, value in fields.items() if value is not None)
        for line in textwrap.wrap(told, 100):
            say(f"{name}: {line}")


class Terminated(BaseException):
    """SIGTERM came while there was nothing to save: before the first step, or after the last."""


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """`Terminated` is raised at the signal, wherever training does not handle it: see `StopOnSignal`."""

    def end(*_: Any) -> None:
        raise Terminated

    with handling((signal.SIGTERM,), end):
        yield


def settable_fields(plan: PretrainingPlan) -> dict[str, Any]:
    """What --set may change: every field of the plan and of its model, with its value."""
    config = plan.model_config(plan.vocab_size)
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)} | plan.to_dict()
