"""From a teacher and texts to a trained student folder, with its report."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch.utils.data import Dataset
from transformers import AutoConfig, set_seed

from convbert.distillation.base import Distillation, Report, digest_of
from convbert.distillation.plan import DistillationPlan
from convbert.distillation.report import write_card, write_page
from convbert.distillation.sentence_distillation import SentenceDistillation
from convbert.distillation.task_distillation import TaskDistillation, load_teacher
from convbert.distillation.texts import read_texts
from convbert.files.atomic import atomic_folder, folder_lock, write_json
from convbert.finetuning.readers import ENDINGS, ending_of
from convbert.inference.loading import find_model
from convbert.pretraining.corpus.reading import PLAIN, Reading
from convbert.training import run_folder
from convbert.training.arguments import training_arguments, uses_bfloat16
from convbert.training.batching import BalancedBatches
from convbert.training.callbacks import HistoryFile, ProgressLine, StopOnSignal, TrainingBudget
from convbert.training.checkpoints import usable_checkpoint
from convbert.training.optimizer import build_optimizer, warmup_then_decay
from convbert.training.run_folder import differences, holds_model, read_record
from convbert.training.trainer import ObjectiveTrainer
from convbert.util.errors import InputError
from convbert.util.optional import require
from convbert.util.schema import Schema


class DistillationResult(NamedTuple):
    """The signal that ended the run early, or None (the same call goes on from there); the student's folder; and what
    `metrics.json` holds.
    """

    stopped_by: signal.Signals | None
    model_dir: Path | None
    metrics: dict[str, Any]


class _Record(Schema):
    teacher: str
    texts: str
    plan: dict[str, Any]


class _Metrics(Schema):
    steps: int


@dataclass(frozen=True)
class RunFolder(run_folder.RunFolder):
    """The folder of a distillation: `teacher/`, its vectors; checkpoints, `log.jsonl`, `report.html`, `model/`."""

    @property
    def record(self) -> Path:
        """What is being run."""
        return self.root / "run.json"

    @property
    def vectors(self) -> Path:
        """The teacher's vectors, and the axes on which the student learns them."""
        return self.root / "teacher"

    def check(self, record: dict[str, Any]) -> None:
        """Refuse a folder that holds another run or something else."""
        stored = read_record(_Record, self.record)
        if stored is None:
            if any(
                not path.name.startswith(".") and path.suffix != ".partial" for path in self.root.iterdir()
            ):
                raise InputError(
                    f"{self.root}: not empty, and holds no run to go on with; choose another folder"
                )
        elif changes := differences(
            {**stored["plan"], **stored}, {**record["plan"], **record, "plan": stored["plan"]}
        ):
            raise InputError(f"{self.root}: this run was started otherwise: {changes}; choose another folder")


def distill(
    plan: DistillationPlan,
    teacher: str,
    corpus: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    tokenizer: str | None = None,
    dev: Path | None = None,
    reading: Reading = PLAIN,
    device: str | None = None,
    report: Report = lambda message: print(message, file=sys.stderr, flush=True),
) -> DistillationResult:
    """Train a smaller model to answer as the teacher does.

    A teacher that `convbert finetune` made teaches its task; any other encoder, of sentence-transformers or of
    transformers, its sentence vectors. However a run ended, the same call goes on with it.

    Args:
        corpus: text files, see `find_sources`; for a teacher of a task also files in its own format.
        tokenizer: folder of a new student's own vocabulary, with a teacher of sentence vectors.
        dev: labelled data by which teacher and student are compared: in the task's format; or pairs of sentences with
            their similarity, as STS-B has them.
        device: "cpu" leaves a GPU unused.

    Raises:
        InputError: an unusable teacher, corpus or plan; `output_dir` holds something else.
    """
    source = find_model(teacher)
    folder = RunFolder(Path(output_dir))
    with folder_lock(folder.root, "training"):
        run, digest = build(
            plan, source, corpus, tokenizer=tokenizer, dev=dev, reading=reading, device=device, report=report
        )
        record = {
            "teacher": source,
            "weights": digest_of(source),
            "tokenizer": tokenizer,
            "texts": digest,
            "plan": json.loads(json.dumps(plan.to_dict())),
        }
        folder.check(record)
        metrics = read_record(_Metrics, folder.metrics)
        if metrics is not None and holds_model(folder.model):
            report(f"{folder.root}: this run has finished")
            return DistillationResult(None, folder.model, metrics)
        write_json(folder.record, record)
        checkpoint = usable_checkpoint(folder.root, report)
        run.prepare(folder.vectors, is_resumed=checkpoint is not None)
        return _train(run, plan, folder, source, checkpoint, device, report)


def build(
    plan: DistillationPlan,
    source: str,
    corpus: str | Path | Sequence[str | Path],
    *,
    tokenizer: str | None = None,
    dev: Path | None = None,
    reading: Reading = PLAIN,
    device: str | None = None,
    report: Report = lambda message: None,
) -> tuple[Distillation, str]:
    """What would be run, before its long work, and a hash of the texts; see `distill`."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("distillation runs in a single process")
    architecture, is_convbert = _look_at(source)
    teaches_task = architecture.endswith(_HEADS)
    if teaches_task and not is_convbert:
        raise InputError(
            f"{source}: is a {architecture}; of fine-tuned models only those of ConvBERT teach their task"
        )
    require("train" if teaches_task else "distill", "distillation")
    report(f"{source}: teaches {'its task' if teaches_task else 'its sentence vectors'}")
    set_seed(plan.seed)
    names = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    if not teaches_task:
        texts = read_texts(names, plan, reading)
        run: Distillation = SentenceDistillation(
            plan, source, is_convbert, texts, tokenizer=tokenizer, dev=dev, device=device, report=report
        )
        return run, _digest(texts, [])
    if tokenizer is not None:
        raise InputError("the student of a task has the teacher's vocabulary: leave the tokenizer out")
    loaded = load_teacher(source, device)
    tables = [path for name in names for path in _tables(str(name))]
    plain = [name for name in names if not _tables(str(name))]
    texts = (
        read_texts(plain, plan, reading, cuts_sentences=loaded.adapter.task.kind == "tagging")
        if plain
        else []
    )
    return TaskDistillation(plan, loaded, texts, tables, dev=dev, report=report), _digest(texts, tables)


_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def _look_at(source: str) -> tuple[str, bool]:
    """The class that a teacher's configuration names, and whether it is a ConvBERT."""
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: holds no model: {str(error).splitlines()[0]}") from error
    return (getattr(config, "architectures", None) or [""])[0], config.model_type == "convbert"


def _tables(name: str) -> list[Path]:
    """The files of that name, or glob, which a task's own readers read; none for text."""
    found = [Path(path) for path in sorted(glob(name))] or [Path(name)]
    return [path for path in found if ending_of(path) in ENDINGS and ending_of(path) != ".txt"]


def steps_of(plan: DistillationPlan, texts: int) -> int:
    """Optimizer steps of a run on so many texts."""
    planned = max(1, math.ceil(plan.epochs * math.ceil(texts / plan.batch_size)))
    return min(planned, plan.max_steps or planned)


def _train(
    run: Distillation,
    plan: DistillationPlan,
    folder: RunFolder,
    source: str,
    checkpoint: Path | None,
    device: str | None,
    report: Report,
) -> DistillationResult:
    steps = steps_of(plan, len(run.train))
    budget, stop = TrainingBudget(steps), StopOnSignal()
    arguments = training_arguments(
        folder.root,
        budget,
        batch_size=plan.batch_size,
        max_grad_norm=plan.max_grad_norm,
        bf16=uses_bfloat16(plan.bf16, device),
        log_every=plan.log_every,
        evaluate_every=plan.evaluate_every,
        save_every=plan.save_every,
        seed=plan.seed,
        device=device,
    )
    objective = run.objective().to(arguments.device)
    optimizer = build_optimizer(objective, learning_rate=plan.learning_rate, weight_decay=plan.weight_decay)
    trainer = ObjectiveTrainer(
        objective,
        arguments,
        budget=budget,
        train_dataset=cast("Dataset", run.train),
        eval_dataset=cast("Dataset", run.heldout),
        sampler=BalancedBatches([item.length for item in run.train], plan.batch_size, plan.seed),
        data_collator=run.collate,
        optimizer=optimizer,
        scheduler=warmup_then_decay(
            optimizer, round(plan.warmup_fraction * steps), lambda step: step / steps
        ),
        callbacks=[stop, HistoryFile(folder.log), ProgressLine(budget)],
    )
    parameters = sum(weight.numel() for weight in run.model.parameters())
    start = "" if checkpoint is None else f"; going on from {checkpoint}"
    report(
        f"student: {parameters / 1e6:.1f} M parameters; {len(run.train):,} texts, {steps:,} steps of "
        f"{plan.batch_size}{start}"
    )
    with stop.listening():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    step = trainer.state.global_step
    if stop.received is not None and step < steps:
        report(f"stopped by {stop.received.name} at step {step}; run the same command to go on")
        return DistillationResult(stop.received, None, {})
    heldout = trainer.evaluate()
    scores = run.scores()
    metrics = {
        "steps": step,
        "texts": len(run.train),
        "minutes": round(budget.seconds / 60, 1),
        "parameters": parameters,
        "device": str(trainer.args.device),
        **heldout,
        "scores": scores,
    }
    with atomic_folder(folder.model) as draft:
        run.write(draft)
        write_card(draft, run, plan, source, metrics)
    write_page(folder, plan, source, metrics, trainer.state.log_history)
    write_json(folder.metrics, metrics)  # where it is, the run is done
    for name, values in scores.items():
        report(f"{name}: {', '.join(f'{metric} {value:.4g}' for metric, value in values.items())}")
    report(f"model written to {folder.model}")
    return DistillationResult(None, folder.model, metrics)


def _digest(texts: Sequence[str], tables: Sequence[Path]) -> str:
    digest = hashlib.sha256("\n".join(texts).encode())
    for path in tables:
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
