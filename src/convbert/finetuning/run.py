"""From a task, its data and a checkpoint to a fine-tuned model folder."""

from __future__ import annotations

import json
import math
import platform
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import set_seed

from convbert.configuration import ConvBertConfig
from convbert.errors import InputError
from convbert.finetuning.data import Example, Feature, Kind, Prediction
from convbert.finetuning.evaluation import write_pages
from convbert.finetuning.folder import RunFolder, read_json, write_json
from convbert.finetuning.inference import Split
from convbert.finetuning.kinds import kind_of
from convbert.finetuning.lora import add_adapters, merge_adapters
from convbert.finetuning.metrics import Scores
from convbert.finetuning.recipes import FinetuningPlan, recipe
from convbert.finetuning.sequence import Regression
from convbert.finetuning.start import (
    build_model,
    check_head,
    find_model,
    load_filled,
    read_config,
    read_tokenizer,
    write_task,
)
from convbert.finetuning.tasks import Task
from convbert.finetuning.trainer import (
    SCORE,
    EvaluateAtTheEnd,
    Features,
    FinetuningTrainer,
    TaskObjective,
    early_stopping,
)
from convbert.finetuning.writing import model_card, write_predictions
from convbert.model import ConvBertPreTrainedModel
from convbert.ops.backends import supports_bfloat16
from convbert.optional import require
from convbert.saving import whole_folder
from convbert.tokenization import ConvBertTokenizerFast
from convbert.training.batching import BalancedBatches
from convbert.training.callbacks import Clock, HistoryFile, ProgressLine, StopOnSignal
from convbert.training.optimizer import build_optimizer, warmup_then_decay
from convbert.training.trainer import last_complete_checkpoint, training_arguments

Report = Callable[[str], None]


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
    (weights, configuration, tokenizer, model card), `predictions.jsonl` (of the dev data), `report.html` and
    `metrics.json`. SIGTERM and Ctrl-C save a checkpoint and end the run in good order.

    Args:
        model: a folder or a name on the Hub; None is the embedded English model.
        seeds: runs, with the seeds `plan.seed`, `plan.seed` + 1, ...; the best one's model is kept.
        new_head: start the head anew, whatever the checkpoint was fine-tuned for.
        resume: go on with the run in `output_dir`.
        device: "cpu" leaves a GPU unused.
        overrides: fields of the plan.
        explain: write `explain.html`, too: attention maps and dynamic kernels of a few dev examples.
        report: told what is being done, for a reader.

    Raises:
        InputError: unusable data, model or plan, or `output_dir` is in use and `resume` was not given.
    """
    require("train", "fine-tuning")
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    source = find_model(model)
    config = read_config(source)
    plan = recipe(task, config, **(overrides or {}))
    kind = kind_of(task)
    train, dev = _read(kind, files)
    keep_head = check_head(config, source, kind, new_head)
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
    folder.claim(record, resume)
    if (metrics := read_json(folder.metrics)) is not None:
        report(f"{folder.root}: this run has finished; nothing to resume")
        return FinetuningResult(True, folder.model, metrics)
    report(f"recipe: {', '.join(f'{name}={value}' for name, value in plan.to_dict().items())}")
    run = Run(task, plan, kind, source, keep_head, tokenizer, train, dev, folder, device, explain, report)
    return run.execute(seeds)


def _read(kind: Kind, files: Files) -> tuple[list[Example], dict[str, list[Example]]]:
    """Training and dev examples, checked against each other."""
    train = kind.read(files.train)
    kind.learn(train)
    kind.check(train)
    dev = {}
    for path in files.dev:
        name = "dev" if len(files.dev) == 1 else path.stem
        dev[name] = kind.read(path)
        kind.check(dev[name])
    return train, dev


@dataclass
class Run:
    """One run with everything at hand; see `finetune`."""

    task: Task
    plan: FinetuningPlan
    kind: Kind
    source: str
    keep_head: bool
    tokenizer: ConvBertTokenizerFast
    train: list[Example]
    dev: dict[str, list[Example]]
    folder: RunFolder
    device: str | None
    explain: bool
    report: Report

    def execute(self, seeds: int) -> FinetuningResult:
        """Train every seed, keep the best, and write what there is to see."""
        features = self.kind.features(self.train, self.tokenizer, self.plan, training=True)
        splits = [self._split(name, examples) for name, examples in self.dev.items()]
        if not features:
            raise InputError("no training example has its answer within a window: raise max_length")
        results: dict[int, dict[str, Any]] = {}
        for seed in range(self.plan.seed, self.plan.seed + seeds):
            done = read_json(self.folder.of_seed(seed) / "metrics.json")
            if done is None:
                done = self._train_seed(seed, features, splits)
            if done is None:
                return FinetuningResult(finished=False, model_dir=None, metrics={})
            results[seed] = done
        return self._finish(results, splits)

    def _split(self, name: str, examples: list[Example]) -> Split:
        features = self.kind.features(examples, self.tokenizer, self.plan)
        return Split(name, self.kind, examples, features, self.plan, self.tokenizer.pad_token_id)

    # -- one seed

    def _train_seed(self, seed: int, features: list[Feature], splits: list[Split]) -> dict[str, Any] | None:
        """Train with one seed and write its folder; None where a signal ended it."""
        set_seed(seed)
        kind, root = self.kind, self.folder.of_seed(seed)
        model = build_model(self.source, _fresh_config(self.source), kind, self.plan, self.keep_head)
        net = add_adapters(model, self.plan) if self.plan.lora_rank else model
        trainer, clock, stop = self._build_trainer(seed, net, model.config, features, splits)
        checkpoint = last_complete_checkpoint(root)
        if checkpoint is not None:
            clock.resume_from(checkpoint)
            self.report(f"resuming from {checkpoint}")
        self.report(self._summary(seed, net, features, trainer))
        with stop.listening():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        step = trainer.state.global_step
        if stop.received is not None and clock.fraction_done(step) < 1.0:
            self.report(f"stopped by {stop.received.name} at step {step}; resume to go on")
            return None
        trained = merge_adapters(net) if self.plan.lora_rank else model
        predictions = [split.predict(trained, trainer.accelerator.autocast()) for split in splits]
        result = {
            "scores": {
                split.name: split.score(found) for split, found in zip(splits, predictions, strict=True)
            },
            "collapsed": _says_one_thing(predictions[0]),
            "steps": step,
            "best_step": trainer.state.best_global_step or step,
            "minutes": round(clock.seconds / 60, 2),
            "device": str(trainer.args.device),
            "bf16": trainer.args.bf16,
        }
        if trainer.is_world_process_zero():
            self._write_seed(root, trained, predictions, splits, result)
            self.folder.clear_checkpoints(seed)
        return result

    def _build_trainer(
        self,
        seed: int,
        net: torch.nn.Module,
        config: ConvBertConfig,
        features: list[Feature],
        splits: list[Split],
    ) -> tuple[FinetuningTrainer, Clock, StopOnSignal]:
        plan, root = self.plan, self.folder.of_seed(seed)
        world_size = _world_size()
        per_process = max(1, plan.batch_size // world_size)
        steps_per_epoch = math.ceil(len(features) / (per_process * world_size))
        planned = max(1, math.ceil(plan.epochs * steps_per_epoch))
        clock, stop = Clock(min(planned, plan.max_steps or planned)), StopOnSignal()
        interval = max(1, steps_per_epoch // plan.evaluations_per_epoch)
        arguments = training_arguments(
            root,
            clock,
            batch_size=per_process,
            max_grad_norm=plan.max_grad_norm,
            bf16=self._use_bfloat16(),
            log_every=plan.log_every,
            evaluate_every=interval,
            save_every=interval,
            seed=seed,
            device=self.device,
            best_metric=SCORE,
        )
        counts_examples = self.kind.loss_counts_examples and plan.batching == "tokens"
        objective = TaskObjective(net, per_process if counts_examples else None).to(arguments.device)
        optimizer = build_optimizer(
            objective,
            learning_rate=plan.learning_rate,
            weight_decay=plan.weight_decay,
            betas=(plan.adam_beta1, plan.adam_beta2),
            epsilon=plan.adam_epsilon,
            layer_decay=plan.layer_decay,
            num_layers=config.num_hidden_layers,
        )
        lengths = [feature.length for feature in features]
        sampler = BalancedBatches(
            lengths if plan.batching == "tokens" else [1] * len(features),
            per_process,
            seed,
            rank=arguments.process_index,
            world_size=world_size,
        )
        trainer = FinetuningTrainer(
            objective,
            arguments,
            clock=clock,
            train_dataset=Features(features),
            dev=splits,
            sampler=sampler,
            data_collator=lambda chosen: self.kind.collate(chosen, self.tokenizer.pad_token_id),
            optimizer=optimizer,
            scheduler=warmup_then_decay(
                optimizer, round(plan.warmup_fraction * planned), lambda step: min(1.0, step / planned)
            ),
            callbacks=[
                stop,
                EvaluateAtTheEnd(clock),
                HistoryFile(root / "log.jsonl"),
                ProgressLine(clock),
                *early_stopping(plan.patience),
            ],
        )
        return trainer, clock, stop

    def _use_bfloat16(self) -> bool:
        if self.plan.bf16 != "auto":
            return bool(self.plan.bf16)
        on_gpu = torch.cuda.is_available() and self.device != "cpu"
        return supports_bfloat16(torch.device("cuda" if on_gpu else "cpu"))

    def _summary(
        self, seed: int, net: torch.nn.Module, features: list[Feature], trainer: FinetuningTrainer
    ) -> str:
        trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
        tokens = sum(feature.length for feature in features)
        precision = "bfloat16 autocast" if trainer.args.bf16 else "float32"
        cut = sum(
            max(map(_longest, features[n : n + 1])) >= self.plan.max_length for n in range(len(features))
        )
        return (
            f"seed {seed}: {trained / 1e6:.1f} M trained parameters; {len(self.train):,} examples, "
            f"{tokens / len(features):.0f} tokens each on average, {cut:,} of {self.plan.max_length} (the most); "
            f"{trainer.clock.max_steps} steps, {precision}, {trainer.args.device}"
        )

    def _write_seed(
        self,
        root: Path,
        model: ConvBertPreTrainedModel,
        predictions: list[list[Prediction]],
        splits: list[Split],
        result: dict[str, Any],
    ) -> None:
        with whole_folder(root / "model") as draft:
            if isinstance(self.kind, Regression):
                scale = self.kind.mean, self.kind.deviation
                self.kind.fold_scale(model)
                self.kind.mean, self.kind.deviation = scale  # for the next seed
            model.save_pretrained(draft)
            self.tokenizer.model_max_length = model.config.max_position_embeddings
            self.tokenizer.save_pretrained(draft)
            self.tokenizer.save_vocabulary(str(draft))
            write_task(draft, self.task, self.plan)
        with whole_folder(root) as draft:
            for split, found in zip(splits, predictions, strict=True):
                write_predictions(draft, split, found)
            write_json(draft / "metrics.json", result)

    # -- all of them

    def _finish(self, results: dict[int, dict[str, Any]], splits: list[Split]) -> FinetuningResult:
        first, metric = splits[0].name, next(iter(next(iter(results.values()))["scores"][splits[0].name]))
        of_seed = {seed: result["scores"][first][metric] for seed, result in results.items()}
        best = max(of_seed, key=of_seed.__getitem__)
        collapsed = [seed for seed, result in results.items() if result["collapsed"]]
        majority = self.kind.majority(self.train, splits[0].examples)
        metrics: dict[str, Any] = {
            "task": self.task.name,
            "model": self.source,
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
        }
        for seed in collapsed:
            self.report(f"seed {seed} has collapsed: it says the same of every dev example")
        if _is_first_process():
            self._write_run(best, metrics, splits)
        self.report(f"model written to {self.folder.model}")
        return FinetuningResult(True, self.folder.model, metrics)

    def _write_run(self, best: int, metrics: dict[str, Any], splits: list[Split]) -> None:
        chosen = self.folder.of_seed(best)
        with whole_folder(self.folder.model) as draft:
            for file in (chosen / "model").iterdir():
                shutil.copy2(file, draft)
            card = model_card(self.task, self.plan, metrics)
            (draft / "README.md").write_text(card, encoding="utf-8")
        with whole_folder(self.folder.root) as draft:
            for split in splits:
                for file in chosen.glob(f"{split.name}_*"):
                    shutil.copy2(file, draft)
            model = load_filled(self.kind.model_class, str(self.folder.model))
            if isinstance(self.kind, Regression):  # the scale is in the model now
                self.kind.mean, self.kind.deviation = 0.0, 1.0
            predictions = splits[0].predict(model)
            histories = {f"seed {seed}": self._history(seed) for seed in metrics["seeds"]}
            write_pages(
                draft,
                metrics,
                splits[0],
                predictions,
                model,
                self.tokenizer,
                explain=self.explain,
                histories=histories,
            )
            write_json(draft / self.folder.metrics.name, metrics)

    def _history(self, seed: int) -> list[dict[str, Any]]:
        lines = (self.folder.of_seed(seed) / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def _fresh_config(source: str) -> ConvBertConfig:
    return read_config(source)


def _longest(feature: Feature) -> int:
    rows = feature.input_ids if isinstance(feature.input_ids[0], list) else [feature.input_ids]
    return max(map(len, rows))


def _says_one_thing(predictions: Sequence[Prediction]) -> bool:
    """Whether all answers are the same: the model has learned nothing, or its weights are no numbers any more."""
    answers = {
        " ".join(sorted(set(p["answer"]))) if isinstance(p["answer"], list) else str(p["answer"])
        for p in predictions
    }
    return len(answers) == 1 and len(predictions) > 1


def _medians(scores: Sequence[Scores]) -> Scores:
    return {name: statistics.median(each[name] for each in scores) for name in scores[0]}


def _world_size() -> int:
    from accelerate import PartialState

    return PartialState().num_processes


def _is_first_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
