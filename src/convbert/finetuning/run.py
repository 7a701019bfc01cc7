"""From a task, its data and a checkpoint to a fine-tuned model folder."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from convbert.files.atomic import atomic_folder, folder_lock, write_json
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.baseline import majority
from convbert.finetuning.cells import Report
from convbert.finetuning.data import Example, Split
from convbert.finetuning.evaluation import FinetunedModel, write_pages
from convbert.finetuning.folder import Files, RunFolder
from convbert.finetuning.notes import feature_notes, label_notes, split_off_dev
from convbert.finetuning.recipes import recipe
from convbert.finetuning.seed import SeedTrainer
from convbert.finetuning.tasks import Task
from convbert.finetuning.warm_start import check_head, read_config, read_task, read_tokenizer
from convbert.finetuning.writing import model_card, read_predictions
from convbert.inference.loading import find_model
from convbert.training.processes import launched_processes, main_first, report_of
from convbert.util.errors import InputError
from convbert.util.optional import require


class FinetuningResult(NamedTuple):
    """Whether a run came to its end (else the same call goes on from there), its best model, and what `metrics.json`
    holds.
    """

    finished: bool
    model_dir: Path | None
    metrics: dict[str, Any]


def finetune(
    task: Task,
    files: Files,
    output_dir: Path,
    *,
    model: str | None = None,
    seeds: int = 1,
    new_head: bool = False,
    resume: bool = False,
    device: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    explain: bool = False,
    on_bad_row: str = "fail",
    report: Report = lambda message: print(message, file=sys.stderr, flush=True),
) -> FinetuningResult:
    """Train a model for a task and score it.

    Writes to `output_dir`: `run.json`, a folder for each seed with checkpoints and log, and at the end `model/`, the
    predictions on the dev data, `report.html` and `metrics.json`. SIGTERM and Ctrl-C save a checkpoint and end the run
    in good order. However a run ended, the same call goes on with it, with or without `resume`.

    Args:
        model: a folder or a name on the Hub; None is the embedded English model.
        seeds: runs, with the seeds `plan.seed`, `plan.seed` + 1, ...; the best one's model is kept. A finished run can
            be resumed with more of them.
        new_head: start the head anew, whatever the checkpoint was fine-tuned for.
        device: "cpu" leaves a GPU unused.
        overrides: fields of the plan.
        explain: write `explain.html`, too.
        on_bad_row: "skip" leaves out rows that cannot be used, and counts them; "fail" refuses the file.

    Raises:
        InputError: unusable data, model or plan; `output_dir` holds something else, or another process trains in it.
    """
    require("train", "fine-tuning")
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    processes = launched_processes(device)
    is_main = processes.is_main_process
    report = report_of(processes, report)
    notes: list[str] = []

    def note(message: str) -> None:
        notes.append(message)
        report(message)

    source = find_model(model)
    config = read_config(source)
    plan = recipe(task, config, **(overrides or {}))
    adapter = adapter_of(task)
    train, dev = _read(adapter, files, on_bad_row, note)
    keep_head = check_head(config, source, adapter, new_head)
    if keep_head and plan.head == "linear":
        raise InputError(f"head=linear is for a new head, and {source} has one to go on with: say --new-head")
    folder = RunFolder(output_dir)
    with folder_lock(folder.root, "training") if is_main else nullcontext():
        record = {  # what makes a run the same run
            "task": task.to_dict(),
            "model": source,
            "train": str(files.train),
            "dev": [str(path) for path in files.dev],
            "contents": files.contents(),
            "labels": list(adapter.labels),
            "examples": {"train": len(train)} | {name: len(found) for name, found in dev.items()},
            "on_bad_row": on_bad_row,
            "seeds": seeds,
            "plan": plan.to_dict(),
        }
        main_first(processes, lambda: folder.check(record) if is_main else None)
        if (metrics := folder.finished(seeds)) is not None:
            report(f"{folder.root}: this run has finished; nothing to resume")
            return FinetuningResult(True, folder.model, metrics)
        if is_main:
            write_json(folder.record, record)
        report(f"recipe: {', '.join(f'{name}={value}' for name, value in plan.to_dict().items())}")
        for name, examples in {"train": train, **dev}.items():
            for line in label_notes(name, adapter, examples):
                report(line)
        tokenizer = read_tokenizer(source)

        def split_of(name: str, examples: list[Example], training: bool = False) -> Split:
            features = adapter.features(examples, tokenizer, plan, training=training)
            split = Split(name, adapter, examples, features, plan)
            for line in feature_notes(split, tokenizer, training):
                note(line)
            return split

        taught = split_of("train", train, training=True).features
        splits = [split_of(name, examples) for name, examples in dev.items()]
        trainer = SeedTrainer(
            plan, adapter, source, keep_head, tokenizer, taught, splits, folder, device, report
        )
        results: dict[int, dict[str, Any]] = {}
        for seed in range(plan.seed, plan.seed + seeds):
            done = folder.metrics_of_seed(seed) or trainer.train(seed)
            if done is None:
                return FinetuningResult(finished=False, model_dir=None, metrics={})
            results[seed] = done
        metrics = _metrics(trainer, results, files, train) | {"model": model or "embedded"}
        for line in (*notes, *_training_notes(results)):
            report(line)
        if is_main:
            _write(trainer, metrics, train, explain)
    report(f"model written to {folder.model}")
    return FinetuningResult(True, folder.model, metrics)


def _read(
    adapter: TaskAdapter, files: Files, on_bad_row: str, note: Report
) -> tuple[list[Example], dict[str, list[Example]]]:
    """Training and dev examples, checked against each other."""
    train = adapter.read(files.train, report=note, on_bad_row=on_bad_row, training=True)
    dev = {}
    if not files.dev:
        train, dev["dev"] = split_off_dev(adapter, train)
        note(
            f"{files.train}: no dev data is given: {len(dev['dev']):,} of "
            f"{len(train) + len(dev['dev']):,} examples are split off as such, and not trained on"
        )
    adapter.learn(train)
    adapter.check(train)
    for path in files.dev:
        name = "dev" if len(files.dev) == 1 else path.stem
        dev[name] = adapter.read(path, report=note, on_bad_row=on_bad_row)
    for examples in dev.values():
        adapter.check(examples)
    return train, dev


def _metrics(
    trainer: SeedTrainer, results: dict[int, dict[str, Any]], files: Files, train: Sequence[Example]
) -> dict[str, Any]:
    """What `metrics.json` holds: medians over the seeds, and each seed's own."""
    splits, names = trainer.splits, [split.name for split in trainer.splits]
    of_split = {name: [seed["scores"][name] for seed in results.values()] for name in names}
    dev = [str(path) for path in files.dev] or [f"{files.train} (split off)"]
    first = of_split[names[0]]
    metric = next(iter(first[0]))
    of_seed = {seed: scores[metric] for seed, scores in zip(results, first, strict=True)}
    baseline = majority(trainer.adapter, train, splits[0].examples)
    return {
        "task": trainer.adapter.task.name,
        "model": "",
        "files": {"train": str(files.train), **dict(zip(names, dev, strict=True))},
        "examples": {"train": len(train), **{split.name: len(split.examples) for split in splits}},
        "metric": metric,
        "scores": {
            split: {name: statistics.median(each[name] for each in scores) for name in scores[0]}
            for split, scores in of_split.items()
        },
        "spread": {"lowest": min(of_seed.values()), "highest": max(of_seed.values())},
        "best_seed": max(of_seed, key=of_seed.__getitem__),
        "collapsed_seeds": [seed for seed, result in results.items() if result["collapsed"]],
        "baseline": splits[0].score(baseline),
        "seeds": results,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _training_notes(results: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """What a reader should know of how training went."""
    for seed, result in results.items():
        if result["collapsed"]:
            yield f"seed {seed} has collapsed: it says the same of every dev example"
        if skipped := result.get("skipped_steps", 0):
            steps = f"{skipped:,} of {result['steps']:,} steps were skipped"
            yield f"seed {seed}: {steps}: loss or gradient was not finite"


def _write(trainer: SeedTrainer, metrics: dict[str, Any], train: Sequence[Example], explain: bool) -> None:
    """The best seed's model and predictions, the pages and, last, `metrics.json`."""
    folder, splits = trainer.folder, trainer.splits
    best = folder.of_seed(metrics["best_seed"])
    with atomic_folder(folder.model) as draft:
        for file in best.model.iterdir():
            shutil.copy2(file, draft)
        _, plan = read_task(str(best.model)) or (None, trainer.plan)
        (draft / "README.md").write_text(model_card(trainer.adapter, plan, metrics), encoding="utf-8")
    with atomic_folder(folder.root) as draft:
        for split in splits:
            for file in best.root.glob(f"{split.name}_*"):
                shutil.copy2(file, draft)
        found = FinetunedModel.load(str(folder.model), device=trainer.device)
        write_pages(
            draft,
            metrics,
            dataclasses.replace(splits[0], adapter=found.adapter, plan=found.plan),
            read_predictions(best.root, splits[0].name),
            found.model,
            trainer.tokenizer,
            explain=explain,
            histories={f"seed {seed}": folder.history(seed) for seed in metrics["seeds"]},
            train=train,
        )
    write_json(folder.metrics, metrics)  # where it is, the run is done
