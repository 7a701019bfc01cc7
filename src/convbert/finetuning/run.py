"""From a task, its data and a checkpoint to a fine-tuned model folder."""

from __future__ import annotations

import dataclasses
import json
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

from convbert.errors import InputError
from convbert.finetuning.data import Example, Feature, Kind, Report, cut_note
from convbert.finetuning.evaluation import FinetunedModel, write_pages
from convbert.finetuning.folder import RunFolder, write_whole
from convbert.finetuning.inference import Split
from convbert.finetuning.kinds import kind_of
from convbert.finetuning.metrics import Scores
from convbert.finetuning.recipes import FinetuningPlan, recipe
from convbert.finetuning.seed import SeedTrainer
from convbert.finetuning.start import check_head, read_config, read_task, read_tokenizer
from convbert.finetuning.tasks import Task
from convbert.finetuning.writing import model_card, read_predictions
from convbert.loading import find_model
from convbert.optional import require
from convbert.saving import own_folder, read_json, whole_folder
from convbert.tokenization import ConvBertTokenizerFast
from convbert.training.processes import launched_processes, main_first, report_of


@dataclass(frozen=True)
class Files:
    """Where the labelled data lies; several dev files are scored separately, and the first chooses the model."""

    train: Path
    dev: tuple[Path, ...]


@dataclass(frozen=True)
class FinetuningResult:
    """What a run gave.

    Args:
        finished: False when a signal ended it early; the same call with `resume=True` goes on from there.
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
    report: Report = lambda message: print(message, file=sys.stderr, flush=True),
) -> FinetuningResult:
    """Train a model for a task and score it.

    Writes to `output_dir`: `run.json`, a folder for each seed with checkpoints and log, and at the end `model/`
    (weights, configuration, tokenizer, model card), `dev_predictions.jsonl` (of the dev data), `report.html` and
    `metrics.json`. SIGTERM and Ctrl-C save a checkpoint and end the run in good order.

    Args:
        model: a folder or a name on the Hub; None is the embedded English model.
        seeds: runs, with the seeds `plan.seed`, `plan.seed` + 1, ...; the best one's model is kept. A finished run can
            be resumed with more of them.
        new_head: start the head anew, whatever the checkpoint was fine-tuned for.
        resume: go on with the run in `output_dir`.
        device: "cpu" leaves a GPU unused.
        overrides: fields of the plan.
        explain: write `explain.html`, too: attention maps and dynamic kernels of a few dev examples.
        report: told what is being done, for a reader.

    Raises:
        InputError: unusable data, model or plan; `output_dir` is in use and `resume` was not given, or another process
            is training in it.
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
    kind = kind_of(task)
    train, dev = _read(kind, files, report)
    keep_head = check_head(config, source, kind, new_head)
    if keep_head and plan.head == "linear":
        raise InputError(f"head=linear is for a new head, and {source} has one to go on with: say --new-head")
    tokenizer = read_tokenizer(source)
    folder = RunFolder(output_dir)
    record = {
        "task": task.to_dict(),
        "model": source,
        "train": str(files.train),
        "dev": [str(path) for path in files.dev],
        "seeds": seeds,
        "plan": plan.to_dict(),
    }
    run = Run(
        task=task,
        plan=plan,
        kind=kind,
        base=model or "embedded",
        source=source,
        keep_head=keep_head,
        tokenizer=tokenizer,
        files=files,
        train=train,
        dev=dev,
        folder=folder,
        device=device,
        explain=explain,
        report=report,
    )
    with own_folder(folder.root, "training") if is_main else nullcontext():
        main_first(processes, lambda: folder.check(record, resume) if is_main else None)
        metrics = read_json(folder.metrics)
        if metrics is not None and len(metrics["seeds"]) >= seeds:
            report(f"{folder.root}: this run has finished; nothing to resume")
            return FinetuningResult(True, folder.model, metrics)
        if is_main:
            folder.note(record)
        report(f"recipe: {', '.join(f'{name}={value}' for name, value in plan.to_dict().items())}")
        return run.execute(seeds)


def _read(kind: Kind, files: Files, report: Report) -> tuple[list[Example], dict[str, list[Example]]]:
    """Training and dev examples, checked against each other."""
    train = kind.read(files.train, report=report)
    kind.learn(train)
    kind.check(train)
    dev = {}
    for path in files.dev:
        name = "dev" if len(files.dev) == 1 else path.stem
        dev[name] = kind.read(path, report=report)
        kind.check(dev[name])
    return train, dev


@dataclass
class Run:
    """One run with everything at hand; see `finetune`. `base` is the model as it was named, `source` where it lies."""

    task: Task
    plan: FinetuningPlan
    kind: Kind
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

    def execute(self, seeds: int) -> FinetuningResult:
        """Train every seed, keep the best, and write what there is to see."""
        features = self.kind.features(self.train, self.tokenizer, self.plan, training=True)
        self._say_cuts("train", self.train, features)
        splits = [self._split(name, examples) for name, examples in self.dev.items()]
        if not features:
            raise InputError("no training example has its answer within a window: raise max_length")
        trainer = SeedTrainer(
            self.plan,
            self.kind,
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
            done = read_json(self.folder.of_seed(seed) / "metrics.json")
            if done is None:
                done = trainer.train(seed)
            if done is None:
                return FinetuningResult(finished=False, model_dir=None, metrics={})
            results[seed] = done
        return self._finish(results, splits)

    def _split(self, name: str, examples: list[Example]) -> Split:
        features = self.kind.features(examples, self.tokenizer, self.plan)
        self._say_cuts(name, examples, features)
        return Split(name, self.kind, examples, features, self.plan, self.tokenizer.pad_token_id)

    def _say_cuts(self, name: str, examples: list[Example], features: list[Feature]) -> None:
        for note in cut_note(name, self.kind, examples, features, self.plan):
            self.report(note)

    def _finish(self, results: dict[int, dict[str, Any]], splits: list[Split]) -> FinetuningResult:
        first, metric = splits[0].name, next(iter(next(iter(results.values()))["scores"][splits[0].name]))
        of_seed = {seed: result["scores"][first][metric] for seed, result in results.items()}
        best = max(of_seed, key=of_seed.__getitem__)
        collapsed = [seed for seed, result in results.items() if result["collapsed"]]
        majority = self.kind.majority(self.train, splits[0].examples)
        metrics: dict[str, Any] = {
            "task": self.task.name,
            "model": self.base,
            "files": {"train": str(self.files.train), "dev": [str(path) for path in self.files.dev]},
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
            "baseline": None if majority is None else splits[0].score(majority),
            "seeds": results,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
        }
        for seed in collapsed:
            self.report(f"seed {seed} has collapsed: it says the same of every dev example")
        if launched_processes(self.device).is_main_process:
            self._write_run(best, metrics, splits)
        self.report(f"model written to {self.folder.model}")
        return FinetuningResult(True, self.folder.model, metrics)

    def _write_run(self, best: int, metrics: dict[str, Any], splits: list[Split]) -> None:
        chosen = self.folder.of_seed(best)
        with whole_folder(self.folder.model) as draft:
            for file in (chosen / "model").iterdir():
                shutil.copy2(file, draft)
            _, plan = read_task(str(chosen / "model")) or (self.task, self.plan)
            (draft / "README.md").write_text(model_card(self.kind, plan, metrics), encoding="utf-8")
        with whole_folder(self.folder.root) as draft:
            for split in splits:
                for file in chosen.glob(f"{split.name}_*"):
                    shutil.copy2(file, draft)
            found = FinetunedModel.load(str(self.folder.model), device=self.device)
            split = dataclasses.replace(splits[0], kind=found.kind, plan=found.plan)
            write_pages(
                draft,
                metrics,
                split,
                read_predictions(chosen, split.name),
                found.model,
                self.tokenizer,
                explain=self.explain,
                histories={f"seed {seed}": self._history(seed) for seed in metrics["seeds"]},
            )
        write_whole(self.folder.metrics, metrics)  # the last: where it is, the run is done

    def _history(self, seed: int) -> list[dict[str, Any]]:
        lines = (self.folder.of_seed(seed) / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def _medians(scores: Sequence[Scores]) -> Scores:
    return {name: statistics.median(each[name] for each in scores) for name in scores[0]}
