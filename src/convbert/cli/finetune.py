"""`convbert finetune`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convbert.cli.failures import INTERRUPTED, is_first_process, say
from convbert.cli.options import (
    Explain,
    Model,
    OnBadRow,
    check_model_path,
    check_on_bad_row,
    check_training_device,
    with_columns,
)
from convbert.files.lines import check_file
from convbert.util.errors import InputError
from convbert.util.optional import require

if TYPE_CHECKING:
    from convbert.finetuning.folder import Files
    from convbert.finetuning.tasks import Task


@with_columns()
def run(
    task: Annotated[
        str, typer.Option(help="Name in the table of tasks, such as sst2; see docs/finetuning.md.")
    ],
    columns: dict[str, str | None],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with train.* and dev.* (or valid.*, val.*), in the formats of the task."),
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Training file, in place of --data.")] = None,
    dev: Annotated[
        Path | None,
        typer.Option(help="Dev file; without one, a tenth of the training data is split off."),
    ] = None,
    model: Model = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; the model ends up in its model/. By default runs/TASK."),
    ] = None,
    on_bad_row: OnBadRow = "fail",
    seeds: Annotated[int, typer.Option(min=1, help="Runs with different seeds; the best model is kept.")] = 1,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train low-rank adapters in place of the encoder (rank 8).")
    ] = False,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Replace the head of a model that was fine-tuned before.")
    ] = False,
    explain: Explain = False,
    device: Annotated[str | None, typer.Option(help='"cpu" leaves a GPU unused.')] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any field of the recipe, see below; may be repeated."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --output, as the same command does anyway."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the final metrics as JSON to stdout.")
    ] = False,
) -> int:
    """Train a model for a task on labelled data, and score it.

    The recipe is the original's; it is printed, and any field can be changed with --set. Progress goes to stderr.
    Ctrl-C and SIGTERM save a checkpoint; killed or not, the same command goes on from the last one. The folder
    ends up with model/, metrics.json, predictions and report.html.

    \b
    Examples:
      convbert finetune --task sst2 --data glue/SST-2 --output runs/sst2
      convbert finetune --task rte --data glue/RTE --model YituTech/conv-bert-base --seeds 5
      convbert finetune --task text-classification --train a.csv --text-column review --label-column stars
      convbert finetune --task entities --train train.conll --dev dev.conll --set epochs=10 --set patience=2
      convbert finetune --task multiple-choice --train a.jsonl --dev b.jsonl --choice-columns one,two,three
    """
    require("train", "convbert finetune")
    chosen = task_of(task, columns)
    files = _files_of(chosen, data, train, dev)
    overrides = _plan_changes(settings or (), lora=lora)
    check_on_bad_row(on_bad_row)
    check_training_device(device)
    check_model_path(model)
    from convbert.finetuning.run import finetune

    result = finetune(
        chosen,
        files,
        output or Path("runs", task),
        model=model,
        seeds=seeds,
        new_head=new_head,
        resume=resume,
        device=device,
        overrides=overrides,
        explain=explain,
        on_bad_row=on_bad_row,
        report=say,
    )
    if not result.finished:
        return INTERRUPTED
    if is_first_process():
        print(json.dumps(result.metrics, allow_nan=False) if as_json else result.model_dir)
    return 0


def task_of(name: str, columns: dict[str, str | None]) -> Task:
    """The row of the table, with the columns that were named, by role; `label` are the tags of tagging."""
    from convbert.finetuning.tasks import TASKS, find_task

    if name in TASKS and TASKS[name].kind == "tagging":
        columns = {"tags" if role == "label" else role: column for role, column in columns.items()}
    return find_task(name, columns)


def _files_of(task: Task, data: Path | None, train: Path | None, dev: Path | None) -> Files:
    from convbert.finetuning.folder import Files

    if data is not None:
        if train is not None or dev is not None:
            raise InputError("give either --data, a folder, or --train and --dev, two files")
        return Files(task.find_files(data, "train")[0], tuple(task.find_files(data, "dev")))
    if train is None:
        raise InputError("give --data, a folder, or --train, a file (and --dev, another)")
    found = Files(train, () if dev is None else (dev,))
    for path in (found.train, *found.dev):
        check_file(path)
    return found


def _plan_changes(words: Iterable[str], *, lora: bool) -> dict[str, Any]:
    """Fields of the plan that the command changes, checked."""
    from convbert.finetuning.recipes import FinetuningPlan
    from convbert.util.settings import parse_settings

    changes = parse_settings(words, dict.fromkeys(FinetuningPlan().to_dict()))
    if lora:
        require("lora", "--lora")
        changes = {"lora_rank": 8, "learning_rate": 1e-3, "layer_decay": 1.0, **changes}
    FinetuningPlan(**changes)
    return changes
