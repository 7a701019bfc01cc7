"""From a plan and a corpus to a trained model folder."""

from __future__ import annotations

import platform
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from convbert.files.atomic import folder_lock
from convbert.pretraining import baselines
from convbert.pretraining.corpus.reading import PLAIN, Reading
from convbert.pretraining.corpus.shards import prepared_folder
from convbert.pretraining.corpus.sources import Corpus, PathLike, TextSource, find_sources, overview
from convbert.pretraining.data import (
    EpochSampler,
    SequenceDataset,
    open_corpus,
    prepare_sequences,
    tokenizer_fingerprint,
)
from convbert.pretraining.export import write_models
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.masking import MaskingCollator
from convbert.pretraining.objectives import Objective, build_objective
from convbert.pretraining.recipes import PretrainingPlan
from convbert.pretraining.warm_start import check_warm_start, resolve_tokenizer, warm_start
from convbert.pretraining.watching import ReportPage
from convbert.training.arguments import training_arguments, uses_bfloat16
from convbert.training.callbacks import HistoryFile, ProgressLine, StopOnSignal, TrainingBudget
from convbert.training.checkpoints import checkpoint_folder, load_weights, usable_checkpoint
from convbert.training.optimizer import build_optimizer, warmup_then_decay
from convbert.training.processes import launched_processes, main_first, report_of
from convbert.training.trainer import ObjectiveTrainer
from convbert.util.errors import InputError
from convbert.util.optional import require

Report = Callable[[str], None]


@dataclass(frozen=True)
class PretrainingResult:
    """What a run gave.

    Args:
        stopped_by: the signal that ended it early, or None for a run that came to its end; the same call goes on from
            there.
        model_dir: the trained model and its tokenizer, or None. Beside it lies `generator/`, if there was one.
        metrics: what `metrics.json` holds.
    """

    stopped_by: signal.Signals | None
    model_dir: Path | None
    metrics: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.stopped_by is None


def pretrain(
    plan: PretrainingPlan,
    corpus: Corpus,
    output_dir: PathLike,
    *,
    tokenizer: PathLike | PreTrainedTokenizerBase | None = None,
    heldout: Corpus | None = None,
    data_dir: PathLike | None = None,
    reading: Reading = PLAIN,
    device: str | None = None,
    report: Report = lambda message: print(message, file=sys.stderr, flush=True),
) -> PretrainingResult:
    """Train a model on text files, from scratch or from the weights of another (`start_from` in the plan).

    Writes to `output_dir`: `tokenizer/` (where none is given), `data/` (the tokenised corpus), `plan.json`,
    `checkpoint-*/`, `log.jsonl`, `report.html`, and at the end `model/` (weights, configuration, tokenizer, model card,
    loss curve), with replaced token detection `generator/` as well, and `metrics.json`. SIGTERM and Ctrl-C save a
    checkpoint and end the run in good order.

    However a run ended, the same call goes on with it, from the last checkpoint, to the very result of a run that never
    stopped. Under torchrun or accelerate launch, all processes train one model; see `docs/pretraining.md`.

    Args:
        corpus: files, globs, folders or data sets, see `find_sources`; or a folder that `prepare` made.
        tokenizer: a tokenizer or its folder; by default a vocabulary is learned from the corpus.
        heldout: text that is only evaluated on. Without it nothing is evaluated.
        data_dir: folder of the tokenised corpus, if not `output_dir/data`, so that runs can share it.
        reading: how text is taken from the files of both. Of a prepared corpus that is decided.
        device: "cpu" leaves a GPU unused.
        report: told what is being done, for a reader.

    Raises:
        InputError: unusable input, or `output_dir` holds something else, such as a run with another plan or corpus.
    """
    require("train", "pre-training")
    if plan.best_figure is not None and heldout is None:
        raise InputError(f"best_figure is {plan.best_figure}, and there is no held-out text to measure it on")
    folder = RunFolder(Path(output_dir))
    processes = launched_processes(device)
    is_main = processes.is_main_process
    report = report_of(processes, report)
    # What can be refused before any work.
    if not folder.metrics.exists():
        _check_sources(corpus, heldout, report)
    budget = TrainingBudget(plan.max_steps, plan.max_minutes)
    arguments_of(plan, folder.root, budget, device, evaluates=heldout is not None)
    with folder_lock(folder.root, "training") if is_main else nullcontext():
        is_new = main_first(processes, lambda: is_main and folder.claim(plan))
        if (metrics := folder.finished(plan, report)) is not None:
            report(f"{folder.root}: this run has finished")
            if told := metrics.get("data_notes"):
                report(told)
            return PretrainingResult(None, folder.model, metrics)
        cache = folder.data if data_dir is None else Path(data_dir)

        def begin_run() -> Run:
            resolved = resolve_tokenizer(plan, corpus, folder, tokenizer, report, reading)
            check_warm_start(plan, resolved)

            def prepare(source: Corpus, name: str) -> SequenceDataset:
                return prepare_sequences(
                    source, resolved, cache, plan.packing, name=name, reading=reading, report=report
                )

            held = None if heldout is None else prepare(heldout, "heldout")  # the smaller one first
            train = prepare(corpus, "train")
            check_enough(plan, train)
            sized = replace(plan, vocab_size=len(resolved))  # what it is, for the card
            run = Run(sized, folder, resolved, train, held, device, report)
            if is_main:
                folder.bind(run.data_record(processes.num_processes))
            return run

        try:
            run = main_first(processes, begin_run)  # the others find its work done
        except InputError:
            if is_new:
                folder.clear()  # so that the same command works once the input is fixed
            raise
        return run.execute()


def _check_sources(corpus: Corpus, heldout: Corpus | None, report: Report) -> None:
    """Refuse what is not there, tell what is, and of held-out text that is trained on."""
    found: list[set[TextSource]] = [set(), set()]
    for name, source, own in zip(("train", "heldout"), (corpus, heldout), found, strict=True):
        if source is None:
            continue
        if (prepared := prepared_folder(source)) is not None:
            report(f"{name}: {prepared}, prepared: {open_corpus(prepared).content()}")
            continue
        own.update(find_sources(source))
        for line in overview(source):
            report(f"{name}: {line}")
    if shared := sorted(map(str, set.intersection(*found))):
        report(f"warning: {shared[0]} is held out and trained on: its figures say nothing about unseen text")


def arguments_of(
    plan: PretrainingPlan, root: Path, budget: TrainingBudget, device: str | None, *, evaluates: bool
) -> TrainingArguments:
    """What the Trainer is told of a plan; `evaluates` says whether there is held-out text.

    Raises:
        InputError: the plan cannot be run by these processes.
    """
    has_best = evaluates and plan.best_figure is not None
    arguments = training_arguments(
        root,
        budget,
        batch_size=plan.batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        max_grad_norm=plan.max_grad_norm,
        bf16=uses_bfloat16(plan.bf16, device),
        log_every=plan.log_every,
        evaluate_every=plan.evaluate_every if evaluates else None,
        save_every=plan.save_every,
        keep_checkpoints=plan.keep_checkpoints,
        seed=plan.seed,
        device=device,
        best_metric=f"heldout_{plan.best_figure}" if has_best else None,
        greater_is_better=not (plan.best_figure or "").endswith("loss"),
        load_best_at_end=False,
        dataloader_workers=plan.dataloader_workers,
        compile=plan.compile,
        fsdp=plan.fsdp,
        report_to=plan.report_to,
    )
    if plan.max_minutes is not None and arguments.world_size > 1:
        raise InputError("max_minutes works in a single process; give max_steps for a distributed run")
    return arguments


@dataclass(frozen=True)
class Run:
    """One run, with its data at hand; see `pretrain`."""

    plan: PretrainingPlan
    folder: RunFolder
    tokenizer: PreTrainedTokenizerBase
    train: SequenceDataset
    heldout: SequenceDataset | None
    device: str | None
    report: Report

    def data_record(self, processes: int) -> dict[str, Any]:
        """What must stay the same for a run to be the same run, beside its plan."""
        return {
            "train": _identity(self.train),
            "heldout": None if self.heldout is None else _identity(self.heldout),
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "sequences a step": self.plan.batch_size * self.plan.gradient_accumulation_steps * processes,
        }

    def execute(self) -> PretrainingResult:
        """Train, evaluate and write the model, or stop early on a signal."""
        set_seed(self.plan.seed)
        config = self.plan.model_config(len(self.tokenizer), pad_token_id=self.tokenizer.pad_token_id)
        objective = build_objective(self.plan, config)
        budget, stop = TrainingBudget(self.plan.max_steps, self.plan.max_minutes), StopOnSignal()
        trainer = self.build_trainer(objective, budget, stop)
        checkpoint = usable_checkpoint(self.folder.root, self.report)
        if checkpoint is not None:
            self.report(f"going on from {checkpoint}")
        else:
            for name, source in warm_start(objective, self.plan).items():
                self.report(f"{name}: begins with the weights of {source}")
        self.report(self._summary(objective, trainer))
        if (steps := self.plan.max_steps) is not None and self.plan.warmup_steps > steps / 2:
            self.report(
                f"warning: {self.plan.warmup_steps:,} of {steps:,} steps warm up, so the learning rate never comes "
                f"near its peak: give --set warmup_steps={steps // 10}, or take the recipe tiny for little text"
            )
        with stop.listening():
            trainer.train(resume_from_checkpoint=checkpoint)
        step = trainer.state.global_step
        notes = self._data_notes()
        if stop.received is not None and budget.fraction_done(step) < 1.0:
            for note in notes:
                self.report(note)
            self.report(f"stopped by {stop.received.name} at step {step}; run the same command to go on")
            return PretrainingResult(stop.received, model_dir=None, metrics={})
        best = trainer.state.best_global_step if self.plan.best_figure is not None else None
        metrics = self._final_metrics(trainer, budget, best)
        if notes:
            metrics["data_notes"] = "; ".join(notes)
        if trainer.is_fsdp_enabled or best not in (None, step):
            # Of sharded weights no process has all; the checkpoint that ends every run does.
            objective = build_objective(self.plan, config)
            load_weights(objective, checkpoint_folder(self.folder.root, best or step))
        if trainer.is_world_process_zero():
            trainer.pop_callback(ReportPage).write(trainer.state, metrics)
            write_models(
                self.folder, objective.models(), self.tokenizer, self.plan, metrics, trainer.state.log_history
            )
            for note in notes:
                self.report(note)
            self.report(f"model written to {self.folder.model}")
        trainer.accelerator.wait_for_everyone()
        return PretrainingResult(None, model_dir=self.folder.model, metrics=metrics)

    def build_trainer(
        self, objective: Objective, budget: TrainingBudget, stop: StopOnSignal
    ) -> ObjectiveTrainer:
        """Everything but the objective: the optimizer, the engine, and what watches it."""
        plan = self.plan
        arguments = arguments_of(
            plan, self.folder.root, budget, self.device, evaluates=self.heldout is not None
        )
        page = ReportPage(self, objective, budget, arguments)
        optimizer = build_optimizer(
            objective.to(arguments.device),
            learning_rate=plan.learning_rate,
            weight_decay=plan.weight_decay,
            betas=(plan.adam_beta1, plan.adam_beta2),
            epsilon=plan.adam_epsilon,
            bias_correction=plan.bias_correction,
        )
        return ObjectiveTrainer(
            objective,
            arguments,
            budget=budget,
            train_dataset=self.train,
            eval_dataset=self.heldout,
            sampler=EpochSampler(len(self.train), plan.seed),
            data_collator=self.collator(plan.seed),
            eval_collator=self.collator(plan.heldout_seed),
            optimizer=optimizer,
            # The original's rate in a step is that of its schedule after the step, warm-up and decay alike.
            scheduler=warmup_then_decay(
                optimizer, plan.warmup_steps, lambda taken: budget.fraction_done(taken + 1)
            ),
            callbacks=[stop, HistoryFile(self.folder.log), ProgressLine(budget), page],
            more_metrics=page.utilisation,
            max_skipped_steps=plan.max_skipped_steps,
        )

    def collator(self, seed: int) -> MaskingCollator:
        """What makes batches of sequences; the seed decides the masks."""
        return MaskingCollator(self.tokenizer, self.plan.masking, seed, sampling=self.plan.objective == "rtd")

    def _summary(self, objective: Objective, trainer: ObjectiveTrainer) -> str:
        plan = self.plan
        parameters = sum(parameter.numel() for parameter in objective.parameters())
        length = f"{plan.max_steps} steps" if plan.max_steps else f"{plan.max_minutes:g} minutes"
        precision = "bfloat16 autocast" if trainer.args.bf16 else "float32"
        per_step = plan.batch_size * plan.gradient_accumulation_steps * trainer.args.world_size
        return (
            f"{parameters / 1e6:.1f} M parameters; {len(self.train):,} sequences of up to "
            f"{plan.sequence_length} tokens, {per_step} a step; "
            f"{length}, {precision}, {trainer.args.device}"
        )

    def _data_notes(self) -> list[str]:
        """What of the texts was not trained on, or not known."""
        data = {"train": self.train, "heldout": self.heldout}
        return [f"{name}: {note}" for name, each in data.items() if each for note in each.notes()]

    def _final_metrics(
        self, trainer: ObjectiveTrainer, budget: TrainingBudget, best: int | None
    ) -> dict[str, Any]:
        steps, arguments = trainer.state.global_step, trainer.args
        batch = self.plan.batch_size * self.plan.gradient_accumulation_steps * arguments.world_size
        epochs = steps * batch / len(self.train)
        metrics: dict[str, Any] = {
            "steps": steps,
            "epochs": round(epochs, 3),
            "tokens_seen": round(epochs * self.train.count_tokens()),
            "minutes": round(budget.seconds / 60, 2),
            "device": str(arguments.device),
            "bf16": arguments.bf16,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        }
        if best is not None:
            metrics["best_step"] = best
        if self.heldout is not None:
            metrics |= _evaluation_at(best or steps, trainer) or trainer.evaluate()
            if trainer.is_world_process_zero():
                self.report("measuring the baselines")
                metrics |= baselines.measure(self.train, self.heldout, self.collator(self.plan.heldout_seed))
        return metrics


def _identity(dataset: SequenceDataset) -> str:
    """Another corpus has another."""
    return f"{len(dataset)} sequences, {dataset.count_tokens()} tokens, {dataset.fingerprint[:16]}"


def check_enough(plan: PretrainingPlan, train: SequenceDataset) -> None:
    """Refuse a corpus that does not fill a batch."""
    if len(train) < plan.batch_size:
        raise InputError(
            f"the corpus gives {len(train)} sequences, less than one batch (batch_size={plan.batch_size})"
        )


def _evaluation_at(step: int, trainer: ObjectiveTrainer) -> dict[str, float]:
    """The held-out metrics of that step, if there was an evaluation."""
    found: dict[str, float] = {}
    for entry in trainer.state.log_history:
        if entry["step"] == step:
            found |= {name: value for name, value in entry.items() if name.startswith("heldout_")}
    return found
