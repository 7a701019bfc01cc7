"""`convbert distill`."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convbert.cli.failures import INTERRUPTED, say
from convbert.cli.options import check_model_path, check_training_device
from convbert.cli.prepare import DocumentPerLine, SkipBadFiles, TextColumn
from convbert.files.lines import check_file
from convbert.util.errors import InputError
from convbert.util.optional import require
from convbert.util.settings import parse_settings

if TYPE_CHECKING:
    from convbert.distillation.plan import DistillationPlan
    from convbert.pretraining.corpus.reading import Reading


def run(
    teacher: Annotated[
        str,
        typer.Option(
            help="A folder that convbert finetune made, whose answers are learned; or any encoder of "
            "sentence-transformers or transformers, whose sentence vectors are."
        ),
    ],
    corpus: Annotated[
        list[str],
        typer.Option(
            help="Text, JSON lines, Parquet, CSV, folder or quoted glob; for a fine-tuned teacher also files in its "
            "task's format, whose labels are not used. May be repeated."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; the student ends up in its model/.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="A new student: small, medium_small or base. By default a ConvBERT teacher's own layers."
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            help="Layers that the student takes over from a ConvBERT teacher; by default half of them."
        ),
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(help='The student itself, for sentence vectors: a folder, or "embedded".')
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Folder of a vocabulary of the student's own; by default the teacher's."),
    ] = None,
    dev: Annotated[
        Path | None,
        typer.Option(
            help="Labelled data by which both are compared: the task's, or pairs with a similarity as in STS-B."
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the texts.", show_default="3")] = None,
    text_column: TextColumn = "text",
    document_per_line: DocumentPerLine = False,
    skip_bad_files: SkipBadFiles = False,
    device: Annotated[str | None, typer.Option(help='"cpu" leaves a GPU unused.')] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any other field of plan or student; may be repeated."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the run would take: texts, parameters, hours.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the final metrics as JSON to stdout.")
    ] = False,
) -> int:
    """Train a smaller, faster model to answer as a larger one does, on text without labels.

    The teacher's sentence vectors are computed once and kept. Progress goes to stderr; report.html compares both.
    Ctrl-C and SIGTERM save a checkpoint; killed or not, the same command goes on from the last one.

    \b
    Examples:
      convbert distill --teacher runs/sst2/model --corpus reviews.txt --dev dev.tsv --output runs/sst2-small
      convbert distill --teacher all-MiniLM-L6-v2/ --corpus "text/*.txt" --size small --output runs/embedder
      convbert distill --teacher runs/embedder/model --corpus text/ --layers 2 --output runs/faster
    """
    require("train", "convbert distill")
    check_training_device(device)
    if output is None and not dry_run:
        raise InputError("--output is missing: name a folder for the run, or say --dry-run")
    check_model_path(teacher)
    check_model_path(start_from)
    if dev is not None:
        check_file(dev)
    from convbert.configuration import ConvBertConfig
    from convbert.distillation.plan import DistillationPlan
    from convbert.distillation.run import distill
    from convbert.pretraining.corpus.reading import Reading

    options = {"size": size, "layers": layers, "start_from": start_from, "epochs": epochs}
    changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    of_plan = DistillationPlan().to_dict()
    example = ConvBertConfig.small()
    of_model = {field.name: getattr(example, field.name) for field in dataclasses.fields(example)}
    found = parse_settings(settings or (), {**of_model, **dict.fromkeys(of_plan)}, given=changes)
    model = {name: found.pop(name) for name in list(found) if name not in of_plan}
    if model and size is None:
        raise InputError(f"--set {next(iter(model))}: is a field of a new student: give its --size")
    if model:
        changes["model"] = {**found.pop("model", {}), **model}
    plan = DistillationPlan(**changes, **found)
    reading = Reading(text_column, document_per_line, skip_bad_files)
    if dry_run:
        _show_estimate(plan, teacher, corpus, tokenizer, dev, reading, device)
        return 0
    assert output is not None
    result = distill(
        plan,
        teacher,
        corpus,
        output,
        tokenizer=tokenizer,
        dev=dev,
        reading=reading,
        device=device,
        report=say,
    )
    if result.stopped_by is not None:
        return 0 if result.stopped_by is signal.SIGTERM else INTERRUPTED
    print(json.dumps(result.metrics) if as_json else result.model_dir)
    return 0


def _show_estimate(
    plan: DistillationPlan,
    teacher: str,
    corpus: list[str],
    tokenizer: str | None,
    dev: Path | None,
    reading: Reading,
    device: str | None,
) -> None:
    """Texts, parameters and hours, measured on a few texts."""
    from convbert.distillation.run import build, steps_of
    from convbert.inference.loading import find_model

    run, _ = build(
        plan,
        find_model(teacher),
        corpus,
        tokenizer=tokenizer,
        dev=dev,
        reading=reading,
        device=device,
        report=say,
    )
    steps = steps_of(plan, run.count)
    parameters = sum(weight.numel() for weight in run.model.parameters())
    print(
        f"student: {parameters / 1e6:.1f} M parameters; {run.count:,} texts, {steps:,} steps of {plan.batch_size}"
    )
    for name, seconds in run.seconds_per_text():
        texts = run.count if name == "teacher" else steps * plan.batch_size
        print(f"{name}: {1 / seconds:,.0f} texts/s, {seconds * texts / 3600:.2g} hours for {texts:,}")
