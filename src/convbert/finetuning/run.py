"""From a task, its data and a checkpoint to a fine-tuned model folder."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from convbert.files.atomic import atomic_folder, folder_lock
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.baseline import majority
from convbert.finetuning.data import Example, Feature, Report
from convbert.finetuning.evaluation import FinetunedModel, write_pages
from convbert.finetuning.folder import Files, RunFolder, write_whole
from convbert.finetuning.inference import Split
from convbert.finetuning.metrics import Scores
from convbert.finetuning.notes import feature_notes, label_notes, split_off_dev
from convbert.finetuning.recipes import FinetuningPlan, recipe
from convbert.finetuning.seed import SeedTrainer
from convbert.finetuning.start import check_head, read_config, read_task, read_tokenizer
from convbert.finetuning.tasks import Task
from convbert.finetuning.writing import model_card, read_predictions
from convbert.inference.loading import find_model
from convbert.tokenization import ConvBertTokenizerFast
from convbert.training.processes import launched_processes, main_first, report_of
from convbert.util.errors import InputError
from convbert.util.optional import require


@dataclass(frozen=True)
class FinetuningResult:
    """What a run gave.

    Args:
        finished: False when a signal ended it early; the same call goes on from there.
        model_dir: the best seed's model, or None.
        metrics: what `metrics.json` holds.
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

    Writes to `output_dir`: `run.json`, a folder for each seed with checkpoints and log, and at the end `model/`
    (weights, configuration, tokenizer, model card), `dev_predictions.jsonl` (of the dev data), `report.html` and
    `metrics.json`. SIGTERM and Ctrl-C save a checkpoint and end the run in good order. However a run ended, the
    same call goes on with it.

    Args:
        model: a folder or a name on the Hub; None is the embedded English model.
        seeds: runs, with the seeds `plan.seed`, `plan.seed` + 1, ...; the best one's model is kept. A finished run can
            be resumed with more of them.
        new_head: start the head anew, whatever the checkpoint was fine-tuned for.
        resume: go on with the run in `output_dir`, as the same call does anyway.
        device: "cpu" leaves a GPU unused.
        overrides: fields of the plan.
        explain: write `explain.html`, too: attention maps and dynamic kernels of a few dev examples.
        on_bad_row: "skip" leaves out rows that cannot be used, and counts them; "fail" refuses the file.
        report: told what is being done, for a reader.

    Raises:
        InputError: unusable data, model or plan; `output_dir` holds something else, or another process trains in it.
    """
    require("train", "fine-tuning")
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    processes = launched_processes(device)
    is_main = processes.is_main_process
    report = report_of(processes, report)
    source = find_model(model)
    config = read_config(source)
    plan = recipe(task, config, **(overrides or {}))
    adapter = adapter_of(task)
    notes: list[str] = []

    def note(message: str) -> None:
        notes.append(message)
        report(message)

    train, dev = _read(adapter, files, on_bad_row, note)
    keep_head = check_head(config, source, adapter, new_head)
    if keep_head and plan.head == "linear":
        raise InputError(f"head=linear is for a new head, and {source} has one to go on with: say --new-head")
    folder = RunFolder(output_dir)
    run = Run(
        task=task,
        plan=plan,
        adapter=adapter,
        base=model or "embedded",
        source=source,
        keep_head=keep_head,
        tokenizer=read_tokenizer(source),
        files=files,
        train=train,
        dev=dev,
        folder=folder,
        device=device,
        explain=explain,
        report=report,
        notes=notes,
    )
    with folder_lock(folder.root, "training") if is_main else nullcontext():
        record = run.record(seeds, on_bad_row)
        main_first(processes, lambda: folder.check(record) if is_main else None)
        if (metrics := folder.finished(seeds)) is not None:
            report(f"{folder.root}: this run has finished; nothing to resume")
            return FinetuningResult(True, folder.model, metrics)
        if is_main:
            folder.note(record)
        report(f"recipe: {', '.join(f'{name}={value}' for name, value in plan.to_dict().items())}")
        return run.execute(seeds)


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


@dataclass
class Run:
    """One run with everything at hand; see `finetune`.

    `base` is the model as it was named, `source` where it lies; `notes` are what a reader should know of the data.
    """

    task: Task
    plan: FinetuningPlan
    adapter: TaskAdapter
    base: str
    source: str
    keep_head: bool
    tokenizer: ConvBertTokenizerFast
    files: Files
    train: list[Example]
    dev: dict[str, list[Example]]
    folder: RunFolder
    device: str | None
    explain: bool
    report: Report
    notes: list[str]

    def record(self, seeds: int, on_bad_row: str) -> dict[str, Any]:
        """What makes a run the same run: what it trains on, by content, and how."""
        return {
            "task": self.task.to_dict(),
            "model": self.source,
            "train": str(self.files.train),
            "dev": [str(path) for path in self.files.dev],
            "contents": self.files.contents(),
            "labels": list(self.adapter.labels),
            "examples": {"train": len(self.train)} | {name: len(found) for name, found in self.dev.items()},
            "on_bad_row": on_bad_row,
            "seeds": seeds,
            "plan": self.plan.to_dict(),
        }

    def execute(self, seeds: int) -> FinetuningResult:
        """Train every seed, keep the best, and write what there is to see."""
        for name, examples in {"train": self.train, **self.dev}.items():
            for line in label_notes(name, self.adapter, examples):
                self.report(line)
        features = self._features("train", self.train, training=True)
        splits = [
            Split(
                name,
                self.adapter,
                examples,
                self._features(name, examples),
                self.plan,
            )
            for name, examples in self.dev.items()
        ]
        trainer = SeedTrainer(
            self.plan,
            self.adapter,
            self.source,
            self.keep_head,
            self.tokenizer,
            features,
            splits,
            self.folder,
            self.device,
            self.report,
        )
        results: dict[int, dict[str, Any]] = {}
        for seed in range(self.plan.seed, self.plan.seed + seeds):
            done = self.folder.figures_of_seed(seed)
            if done is None:
                done = trainer.train(seed)
            if done is None:
                return FinetuningResult(finished=False, model_dir=None, metrics={})
            results[seed] = done
        return self._finish(results, splits)

    def _features(self, name: str, examples: list[Example], training: bool = False) -> list[Feature]:
        features = self.adapter.features(examples, self.tokenizer, self.plan, training=training)
        for line in feature_notes(
            name, self.adapter, examples, features, self.tokenizer, self.plan, training=training
        ):
            self.notes.append(line)
            self.report(line)
        return features

    def _finish(self, results: dict[int, dict[str, Any]], splits: list[Split]) -> FinetuningResult:
        first, metric = splits[0].name, next(iter(next(iter(results.values()))["scores"][splits[0].name]))
        of_seed = {seed: result["scores"][first][metric] for seed, result in results.items()}
        best = max(of_seed, key=of_seed.__getitem__)
        collapsed = [seed for seed, result in results.items() if result["collapsed"]]
        baseline = majority(self.adapter, self.train, splits[0].examples)
        metrics: dict[str, Any] = {
            "task": self.task.name,
            "model": self.base,
            "files": {
                "train": str(self.files.train),
                "dev": [str(path) for path in self.files.dev] or [f"{self.files.train} (split off)"],
            },
            "train_examples": len(self.train),
            "dev_examples": {split.name: len(split.examples) for split in splits},
            "metric": metric,
            "scores": {
                split.name: _medians([result["scores"][split.name] for result in results.values()])
                for split in splits
            },
            "spread": {"lowest": min(of_seed.values()), "highest": max(of_seed.values())},
            "best_seed": best,
            "collapsed_seeds": collapsed,
            "baseline": splits[0].score(baseline),
            "seeds": results,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
        }
        for line in (*self.notes, *_outcome_notes(results)):
            self.report(line)
        if launched_processes(self.device).is_main_process:
            self._write_run(best, metrics, splits)
        self.report(f"model written to {self.folder.model}")
        return FinetuningResult(True, self.folder.model, metrics)

    def _write_run(self, best: int, metrics: dict[str, Any], splits: list[Split]) -> None:
        chosen = self.folder.of_seed(best)
        with atomic_folder(self.folder.model) as draft:
            for file in (chosen / "model").iterdir():
                shutil.copy2(file, draft)
            _, plan = read_task(str(chosen / "model")) or (self.task, self.plan)
            (draft / "README.md").write_text(model_card(self.adapter, plan, metrics), encoding="utf-8")
        with atomic_folder(self.folder.root) as draft:
            for split in splits:
                for file in chosen.glob(f"{split.name}_*"):
                    shutil.copy2(file, draft)
            found = FinetunedModel.load(str(self.folder.model), device=self.device)
            split = dataclasses.replace(splits[0], adapter=found.adapter, plan=found.plan)
            write_pages(
                draft,
                metrics,
                split,
                read_predictions(chosen, split.name),
                found.model,
                self.tokenizer,
                explain=self.explain,
                histories={f"seed {seed}": self.folder.history(seed) for seed in metrics["seeds"]},
                train=self.train,
            )
        write_whole(self.folder.metrics, metrics)  # the last: where it is, the run is done


def _outcome_notes(results: dict[int, dict[str, Any]]) -> list[str]:
    """What a reader should know of how training went."""
    notes = [
        f"seed {seed} has collapsed: it says the same of every dev example"
        for seed, result in results.items()
        if result["collapsed"]
    ]
    return notes + [
        f"seed {seed}: {skipped:,} of {result['steps']:,} steps were skipped: loss or gradient was not finite"
        for seed, result in results.items()
        if (skipped := result.get("skipped_steps", 0))
    ]


def _medians(scores: Sequence[Scores]) -> Scores:
    return {name: statistics.median(each[name] for each in scores) for name in scores[0]}
