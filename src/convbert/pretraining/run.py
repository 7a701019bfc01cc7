"""From a plan and a corpus to a trained model folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from convbert.errors import InputError
from convbert.ops.backends import supports_bfloat16
from convbert.optional import require
from convbert.pretraining import baselines
from convbert.pretraining.data import (
    EpochSampler,
    PathLike,
    SequenceDataset,
    Source,
    prepare_sequences,
    write_atomically,
)
from convbert.pretraining.masking import MaskingCollator
from convbert.pretraining.model_card import draw_curve, model_card
from convbert.pretraining.objective import Objective, build_objective
from convbert.pretraining.recipes import PretrainingPlan
from convbert.pretraining.vocabulary import check_tokenizer, load_tokenizer, train_wordpiece
from convbert.pretraining.watching import ReportPage, watch
from convbert.training.callbacks import Clock, HistoryFile, ProgressLine, StopOnSignal
from convbert.training.optimizer import build_optimizer, warmup_then_decay
from convbert.training.trainer import (
    ObjectiveTrainer,
    last_complete_checkpoint,
    training_arguments,
)

Report = Callable[[str], None]

# What may change when a run goes on; a change of anything else would make it another run.
_MAY_CHANGE = frozenset(
    (
        *("name", "max_steps", "max_minutes", "bf16", "gradient_checkpointing"),
        *("log_every", "evaluate_every", "save_every", "keep_checkpoints"),
    )
)


@dataclass(frozen=True)
class PretrainingResult:
    """What a run gave.

    Args:
        finished: False when a signal ended it early; the same call with `resume=True` goes on from there.
        model_dir: the trained model and its tokenizer, or None. Beside it lies `generator/`, if there was one.
        metrics: what `metrics.json` holds.
    """

    finished: bool
    model_dir: Path | None
    metrics: dict[str, Any]


def pretrain(
    plan: PretrainingPlan,
    corpus: Source,
    output_dir: PathLike,
    *,
    tokenizer: PathLike | PreTrainedTokenizerBase | None = None,
    heldout: Source | None = None,
    data_dir: PathLike | None = None,
    resume: bool = False,
    device: str | None = None,
    report: Report = lambda message: print(message, file=sys.stderr, flush=True),
) -> PretrainingResult:
    """Train a model from scratch on text files.

    Writes to `output_dir`: `tokenizer/` (where none is given), `data/` (the tokenised corpus), `plan.json`,
    `checkpoint-*/`, `log.jsonl`, `report.html`, and at the end `model/` (weights, configuration, tokenizer, model card,
    loss curve), with replaced token detection `generator/` as well, and `metrics.json`. SIGTERM and Ctrl-C save a
    checkpoint and end the run in good order.

    Args:
        corpus: text files, globs or folders; see `find_text_files`.
        tokenizer: a tokenizer or its folder; by default a vocabulary is learned from the corpus.
        heldout: text that is only evaluated on. Without it nothing is evaluated.
        data_dir: folder of the tokenised corpus, if not `output_dir/data`, so that runs can share it.
        resume: go on from the last complete checkpoint in `output_dir`, or start there if it has none.
        device: "cpu" leaves a GPU unused.
        report: told what is being done, for a reader.

    Raises:
        InputError: unusable input, or `output_dir` is in use and `resume` was not given.
    """
    require("train", "pre-training")
    folder = RunFolder(Path(output_dir))
    if resume and (finished := folder.finished_result()) is not None:
        report(f"{folder.root}: this run has finished; nothing to resume")
        return finished
    folder.claim(plan, resume)
    cache = folder.data if data_dir is None else Path(data_dir)

    def prepare(source: Source, name: str) -> SequenceDataset:
        return prepare_sequences(source, resolved, cache, plan.packing, name=name, report=report)

    try:
        resolved = resolve_tokenizer(plan, corpus, folder, tokenizer, report)
        train = prepare(corpus, "train")
        held = None if heldout is None else prepare(heldout, "heldout")
        _check_enough(plan, train)
    except InputError:
        if not resume:
            folder.clear()  # so that the same command works once the input is mended
        raise
    return Run(plan, folder, resolved, train, held, device, report).execute(resume)


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one run lies."""

    root: Path

    @property
    def data(self) -> Path:
        """The tokenised corpus."""
        return self.root / "data"

    @property
    def tokenizer(self) -> Path:
        """The vocabulary that this run learned."""
        return self.root / "tokenizer"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.root / "model"

    @property
    def plan(self) -> Path:
        """What is being run."""
        return self.root / "plan.json"

    @property
    def history(self) -> Path:
        """One JSON object a line for every log entry."""
        return self.root / "log.jsonl"

    @property
    def page(self) -> Path:
        """How the run goes, for people."""
        return self.root / "report.html"

    @property
    def metrics(self) -> Path:
        """The figures of a finished run; written last."""
        return self.root / "metrics.json"

    def claim(self, plan: PretrainingPlan, resume: bool) -> None:
        """Note the plan in an empty or new folder, or in that of the same run when it goes on.

        Raises:
            InputError: the folder is in use, holds a run with another plan, or cannot be written.
        """
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root}: is a file; the output must be a folder")
        if resume:
            self._check_same_plan(plan)
        elif self.root.exists() and any(self.root.iterdir()):
            raise InputError(f"{self.root}: not empty; resume the run in it, or choose another folder")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self.plan, json.dumps(plan.to_dict(), indent=2) + "\n")
        except OSError as error:
            raise InputError(f"{self.root}: cannot be written: {error.strerror or error}") from error

    def clear(self) -> None:
        """Remove what was written since a `claim` that found the folder empty."""
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def finished_result(self) -> PretrainingResult | None:
        """What the run in this folder gave, if it came to its end."""
        metrics = _read_json(self.metrics)
        return None if metrics is None else PretrainingResult(True, self.model, metrics)

    def _check_same_plan(self, plan: PretrainingPlan) -> None:
        stored = _read_json(self.plan)
        if stored is None:
            return
        wanted = json.loads(json.dumps(plan.to_dict()))
        changes = [
            f"{name} was {stored.get(name)}, now {value}"
            for name, value in wanted.items()
            if name not in _MAY_CHANGE and stored.get(name) != value
        ]
        if changes:
            raise InputError(f"{self.root}: this run was started with another plan: {'; '.join(changes)}")


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

    def execute(self, resume: bool) -> PretrainingResult:
        """Train, evaluate and write the model, or stop early on a signal.

        Raises:
            InputError: a checkpoint or the model cannot be written.
        """
        set_seed(self.plan.seed)
        config = self.plan.model_config(len(self.tokenizer), pad_token_id=self.tokenizer.pad_token_id)
        objective = build_objective(self.plan, config)
        clock, stop = Clock(self.plan.max_steps, self.plan.max_minutes), StopOnSignal()
        trainer = self.build_trainer(objective, clock, stop)
        checkpoint = last_complete_checkpoint(self.folder.root) if resume else None
        if checkpoint is not None:
            clock.resume_from(checkpoint)
            self.report(f"resuming from {checkpoint}")
        self.report(self._summary(objective, trainer))
        with stop.listening():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        step = trainer.state.global_step
        if stop.received is not None and clock.fraction_done(step) < 1.0:
            self.report(f"stopped by {stop.received.name} at step {step}; resume to go on")
            return PretrainingResult(finished=False, model_dir=None, metrics={})
        metrics = self._final_metrics(trainer, clock)
        trainer.pop_callback(ReportPage).write(trainer.state, metrics)
        self._write_models(objective, metrics, trainer.state.log_history)
        self.report(f"model written to {self.folder.model}")
        return PretrainingResult(finished=True, model_dir=self.folder.model, metrics=metrics)

    def build_trainer(self, objective: Objective, clock: Clock, stop: StopOnSignal) -> ObjectiveTrainer:
        """Everything but the objective: the optimizer, the engine, and what watches it."""
        plan = self.plan
        arguments = training_arguments(
            self.folder.root,
            clock,
            batch_size=plan.batch_size,
            gradient_accumulation_steps=plan.gradient_accumulation_steps,
            max_grad_norm=plan.max_grad_norm,
            bf16=self.use_bfloat16(),
            log_every=plan.log_every,
            evaluate_every=None if self.heldout is None else plan.evaluate_every,
            save_every=plan.save_every,
            keep_checkpoints=plan.keep_checkpoints,
            seed=plan.seed,
            device=self.device,
        )
        if plan.max_minutes is not None and arguments.world_size > 1:
            raise InputError("max_minutes works in a single process; give max_steps for a distributed run")
        page, utilisation = watch(
            self.folder.page,
            plan,
            objective,
            clock,
            self.train,
            self.heldout,
            self.tokenizer,
            arguments,
            self.report,
        )
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
            clock=clock,
            train_dataset=self.train,
            eval_dataset=self.heldout,
            sampler=EpochSampler(len(self.train), plan.seed),
            data_collator=self.collator(plan.seed),
            heldout_collator=self.collator(plan.heldout_seed),
            optimizer=optimizer,
            # The original's rate in a step is that of its schedule after the step, warm-up and decay alike.
            scheduler=warmup_then_decay(
                optimizer, plan.warmup_steps, lambda taken: clock.fraction_done(taken + 1)
            ),
            callbacks=[stop, HistoryFile(self.folder.history), ProgressLine(clock), page],
            more_figures=utilisation,
        )

    def collator(self, seed: int) -> MaskingCollator:
        """What makes batches of sequences; the seed decides the masks."""
        return MaskingCollator(self.tokenizer, self.plan.masking, seed, sampling=self.plan.objective == "rtd")

    def use_bfloat16(self) -> bool:
        """Whether the model runs under bfloat16 autocast."""
        if self.plan.bf16 != "auto":
            return bool(self.plan.bf16)
        on_gpu = torch.cuda.is_available() and self.device != "cpu"
        return supports_bfloat16(torch.device("cuda" if on_gpu else "cpu"))

    def _summary(self, objective: Objective, trainer: ObjectiveTrainer) -> str:
        plan = self.plan
        parameters = sum(parameter.numel() for parameter in objective.parameters())
        length = f"{plan.max_steps} steps" if plan.max_steps else f"{plan.max_minutes:g} minutes"
        precision = "bfloat16 autocast" if trainer.args.bf16 else "float32"
        return (
            f"{parameters / 1e6:.1f} M parameters; {len(self.train):,} sequences of up to "
            f"{plan.sequence_length} tokens, {plan.batch_size * plan.gradient_accumulation_steps} a step; "
            f"{length}, {precision}, {trainer.args.device}"
        )

    def _final_metrics(self, trainer: ObjectiveTrainer, clock: Clock) -> dict[str, Any]:
        steps, arguments = trainer.state.global_step, trainer.args
        batch = self.plan.batch_size * self.plan.gradient_accumulation_steps * arguments.world_size
        epochs = steps * batch / len(self.train)
        metrics: dict[str, Any] = {
            "steps": steps,
            "epochs": round(epochs, 3),
            "tokens_seen": round(epochs * self.train.count_tokens()),
            "minutes": round(clock.seconds / 60, 2),
            "device": str(arguments.device),
            "bf16": arguments.bf16,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        }
        if self.heldout is not None:
            metrics |= _last_evaluation(trainer) or trainer.evaluate()
            self.report("measuring the baselines")
            metrics |= baselines.measure(self.train, self.heldout, self.collator(self.plan.heldout_seed))
        return metrics

    def _write_models(
        self, objective: Objective, metrics: dict[str, Any], history: list[dict[str, Any]]
    ) -> None:
        """Write all model folders beside their final places and move them there; `metrics.json` comes last."""
        root, models = self.folder.root, objective.models()
        drafts = {name: root / f".{name}-{os.getpid()}" for name in models}
        try:
            for name, model in models.items():
                self._write_draft(model, drafts[name])
                draw_curve(history, drafts[name] / "loss.png")
                card = model_card(self.plan, metrics, type(model).__name__)
                (drafts[name] / "README.md").write_text(card, encoding="utf-8")
            for name, draft in drafts.items():
                shutil.rmtree(
                    root / name, ignore_errors=True
                )  # left by an end that did not get to the metrics
                os.replace(draft, root / name)
            write_atomically(self.folder.metrics, json.dumps(metrics, indent=2) + "\n")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{root}: the models cannot be written: {error}") from error
        finally:
            for draft in drafts.values():
                shutil.rmtree(draft, ignore_errors=True)

    def _write_draft(self, model: PreTrainedModel, draft: Path) -> None:
        model.save_pretrained(draft)
        self.tokenizer.model_max_length = model.config.max_position_embeddings
        self.tokenizer.save_pretrained(draft)
        self.tokenizer.save_vocabulary(str(draft))


def resolve_tokenizer(
    plan: PretrainingPlan,
    corpus: Source,
    folder: RunFolder,
    tokenizer: PathLike | PreTrainedTokenizerBase | None,
    report: Report,
) -> PreTrainedTokenizerBase:
    """The given tokenizer; or that of the run in `folder`, learned from the corpus the first time."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return check_tokenizer(tokenizer, "the given tokenizer")
    if tokenizer is not None:
        return load_tokenizer(tokenizer)
    if (folder.tokenizer / "tokenizer.json").exists():
        return load_tokenizer(folder.tokenizer)
    report(f"learning a vocabulary of {plan.vocab_size}")
    return train_wordpiece(
        corpus,
        plan.vocab_size,
        folder.tokenizer,
        lowercase=plan.lowercase,
        min_frequency=plan.min_frequency,
        limit_alphabet=plan.limit_alphabet,
    )


def _check_enough(plan: PretrainingPlan, train: SequenceDataset) -> None:
    if len(train) < plan.batch_size:
        raise InputError(
            f"the corpus gives {len(train)} sequences, less than one batch (batch_size={plan.batch_size})"
        )


def _last_evaluation(trainer: ObjectiveTrainer) -> dict[str, float]:
    """The held-out figures of the final weights, if training ended on an evaluation."""
    found = [
        entry for entry in trainer.state.log_history if any(name.startswith("heldout_") for name in entry)
    ]
    if not found or found[-1]["step"] != trainer.state.global_step:
        return {}
    return {name: value for name, value in found[-1].items() if name.startswith("heldout_")}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
