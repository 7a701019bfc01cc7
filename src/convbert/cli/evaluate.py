"""`convbert evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from convbert.cli.failures import say
from convbert.cli.finetune import task_of
from convbert.cli.options import (
    Device,
    Explain,
    Long,
    OnBadRow,
    check_model_path,
    check_on_bad_row,
    with_columns,
)
from convbert.files.lines import check_file
from convbert.util.errors import InputError
from convbert.util.optional import require


@with_columns()
def run(
    model: Annotated[str, typer.Option(help="Folder of a fine-tuned model, or its name on the Hub.")],
    columns: dict[str, str | None],
    task: Annotated[
        str | None,
        typer.Option(help="Name in the table of tasks; by default the one the model was trained for."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of a data set; see --split.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="One file, in place of --data; its scores have its name.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which file of --data: dev, test or train.")] = "dev",
    output: Annotated[
        Path | None, typer.Option(help="Folder for predictions, metrics.json, report.html, GLUE submissions.")
    ] = None,
    on_bad_row: OnBadRow = "fail",
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Answer data that has no labels, without a score.")
    ] = False,
    explain: Explain = False,
    long: Long = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the scores as one JSON object.")] = False,
) -> None:
    """Score a fine-tuned model on labelled data, by the metrics of its task.

    The test sets of GLUE may have no labels: they are answered only, and the submission files are written to --output.
    For other data without labels say --unlabelled.

    \b
    Examples:
      convbert evaluate --model runs/sst2/model --data glue/SST-2
      convbert evaluate --model runs/mnli/model --task ax --data glue/AX --split test --output runs/ax
      convbert evaluate --model runs/reviews/model --file test.csv --output runs/reviews/test --explain
    """
    require("train", "convbert evaluate")
    if (data is None) == (file is None):
        raise InputError("give either --data, a folder, or --file")
    if explain and output is None:
        raise InputError("--explain writes a page: give --output, too")
    if file is not None:
        check_file(file)
    elif data is not None and not data.is_dir():
        raise InputError(f"{data}: there is no such folder")
    check_on_bad_row(on_bad_row)
    check_model_path(model)
    from convbert.inference.windows import check_long

    check_long(long or "windows", "--long")
    if task is None and any(columns.values()):
        raise InputError("columns belong to a task: give --task, too")
    chosen = None if task is None else task_of(task, columns)
    from convbert.finetuning.evaluation import FinetunedModel, evaluate

    finetuned = FinetunedModel.load(model, chosen, device, long=long)
    files = [file] if file is not None else finetuned.adapter.task.find_files(data or Path(), split)
    metrics = evaluate(
        finetuned,
        files,
        split if file is None else file.stem,
        output,
        unlabelled=unlabelled,
        explain=explain,
        on_bad_row=on_bad_row,
        report=say,
    )
    if as_json:
        print(json.dumps(metrics, allow_nan=False))
    else:
        _print_table(metrics)


def _print_table(metrics: dict[str, Any]) -> None:
    for split, count in metrics["examples"].items():
        scores = metrics["scores"].get(split)
        print(f"{split}: {count:,} examples" + ("" if scores else ", answered without a score"))
        for name, value in (scores or {}).items():
            print(f"  {name:<24}{value:.4f}")
