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
from transformers import PreTrainedTokenizerBase, set_seed

from convbert.errors import InputError
from convbert.heads.masked_lm import ConvBertForMaskedLM
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
from convbert.pretraining.objective import MaskedLanguageModel
from convbert.pretraining.recipes import PretrainingPlan
from convbert.pretraining.vocabulary import check_tokenizer, load_tokenizer, train_wordpiece
from convbert.training.optimizer import build_optimizer, warmup_then_decay
from convbert.training.trainer import (
    Clock,
    HistoryFile,
    ObjectiveTrainer,
    ProgressLine,
    StopOnSignal,
    last_complete_checkpoint,
    supports_bfloat16,
    training_arguments,
)


@dataclass(frozen=True)
class PretrainingResult:
    """What a run gave.

    Args:
        finished: False when a signal ended it early; the same call with `resume=True` goes on from there.
        model_dir: the trained model and its tokenizer, or None.
        metrics: what `metrics.json` holds.
    """

    finished: bool
    model_dir: Path | None
    metrics: dict[str, Any]


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
        """The vocabulary this run learned."""
        return self.root / "tokenizer"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.root / "model"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def history(self) -> Path:
        """One JSON object a line for every log entry."""
        return self.root / "log.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"


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
    report: Callable[[str], None] = lambda message: print(message, file=sys.stderr, flush=True),
) -> PretrainingResult:
    """Train a model from scratch on text files.

    Writes to `output_dir`: `tokenizer/` (where none is given), `data/` (the tokenised corpus),
    `checkpoint-*/`, `log.jsonl`, `plan.json`, and at the end `model/` (weights, configuration, tokenizer,
    model card, loss curve) and `metrics.json`. SIGTERM and Ctrl-C save a checkpoint and end the run in good
    order.

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
    folder = RunFolder(Path(output_dir))
    if resume and (finished := _finished_result(folder)) is not None:
        report(f"{folder.root}: this run has finished; nothing to resume")
        return finished
    if resume:
        _check_same_plan(folder, plan)
    _claim(folder, plan, resume)
    resolved_tokenizer = _resolve_tokenizer(plan, corpus, folder, tokenizer, report)
    cache = folder.data if data_dir is None else Path(data_dir)
    train = prepare_sequences(corpus, resolved_tokenizer, cache, plan.packing, name="train", report=report)
    held = None
    if heldout is not None:
        held = prepare_sequences(
            heldout, resolved_tokenizer, cache, plan.packing, name="heldout", report=report
        )
    return _train(plan, folder, resolved_tokenizer, train, held, resume, device, report)


def _train(
    plan: PretrainingPlan,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    train: SequenceDataset,
    heldout: SequenceDataset | None,
    resume: bool,
    device: str | None,
    report: Callable[[str], None],
) -> PretrainingResult:
    _check_enough(plan, train)
    set_seed(plan.seed)
    config = plan.model_config(len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    objective = MaskedLanguageModel(ConvBertForMaskedLM(config))
    clock = Clock(plan.max_steps, plan.max_minutes)
    checkpoint = last_complete_checkpoint(folder.root) if resume else None
    if checkpoint is not None:
        clock.resume_from(checkpoint)
        report(f"resuming from {checkpoint}")
    stop = StopOnSignal()
    trainer = _build_trainer(plan, folder, tokenizer, objective, clock, train, heldout, stop, device)
    report(_summary(plan, objective, train, trainer))
    with stop.listening():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if stop.received is not None and clock.fraction_done(trainer.state.global_step) < 1.0:
        report(f"stopped by {stop.received.name} at step {trainer.state.global_step}; resume to go on")
        return PretrainingResult(finished=False, model_dir=None, metrics={})
    metrics = _final_metrics(plan, trainer, clock, train, heldout, report)
    _write_outputs(plan, folder, objective, tokenizer, metrics, trainer.state.log_history)
    report(f"model written to {folder.model}")
    return PretrainingResult(finished=True, model_dir=folder.model, metrics=metrics)


def _build_trainer(
    plan: PretrainingPlan,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    objective: MaskedLanguageModel,
    clock: Clock,
    train: SequenceDataset,
    heldout: SequenceDataset | None,
    stop: StopOnSignal,
    device: str | None,
) -> ObjectiveTrainer:
    arguments = training_arguments(
        folder.root,
        clock,
        batch_size=plan.batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        max_grad_norm=plan.max_grad_norm,
        bf16=_use_bfloat16(plan, device),
        log_every=plan.log_every,
        evaluate_every=None if heldout is None else plan.evaluate_every,
        save_every=plan.save_every,
        keep_checkpoints=plan.keep_checkpoints,
        seed=plan.seed,
        device=device,
    )
    if plan.max_minutes is not None and arguments.world_size > 1:
        raise InputError("max_minutes works in a single process only; give max_steps for a distributed run")
    objective.to(arguments.device)
    optimizer = build_optimizer(
        objective,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        betas=(plan.adam_beta1, plan.adam_beta2),
        epsilon=plan.adam_epsilon,
    )
    return ObjectiveTrainer(
        objective,
        arguments,
        clock=clock,
        train_dataset=train,
        eval_dataset=heldout,
        sampler=EpochSampler(len(train), plan.seed),
        data_collator=MaskingCollator(tokenizer, plan.masking, plan.seed),
        heldout_collator=MaskingCollator(tokenizer, plan.masking, plan.heldout_seed),
        optimizer=optimizer,
        scheduler=warmup_then_decay(optimizer, plan.warmup_steps, clock.fraction_done),
        callbacks=[stop, HistoryFile(folder.history), ProgressLine(clock)],
    )


def _claim(folder: RunFolder, plan: PretrainingPlan, resume: bool) -> None:
    """Refuse a folder that holds anything, unless this is to be continued; note the plan in it."""
    root = folder.root
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file; the output must be a folder")
    if not resume and root.exists() and any(root.iterdir()):
        raise InputError(f"{root}: not empty; resume the run in it, or choose another folder")
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.plan, json.dumps(plan.to_dict(), indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{root}: cannot be written: {error.strerror or error}") from error


# What may change when a run goes on; anything else would make it another run.
_MAY_CHANGE = frozenset(
    [
        "name",
        "max_steps",
        "max_minutes",
        "bf16",
        "log_every",
        "evaluate_every",
        "save_every",
        "keep_checkpoints",
    ]
)


def _check_same_plan(folder: RunFolder, plan: PretrainingPlan) -> None:
    try:
        stored = json.loads(folder.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    wanted = json.loads(json.dumps(plan.to_dict()))
    changed = [name for name in wanted if name not in _MAY_CHANGE and stored.get(name) != wanted[name]]
    if changed:
        details = "; ".join(f"{name} was {stored.get(name)}, now {wanted[name]}" for name in changed)
        raise InputError(f"{folder.root}: this run was started with another plan: {details}")


def _finished_result(folder: RunFolder) -> PretrainingResult | None:
    try:
        metrics = json.loads(folder.metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return PretrainingResult(finished=True, model_dir=folder.model, metrics=metrics)


def _resolve_tokenizer(
    plan: PretrainingPlan,
    corpus: Source,
    folder: RunFolder,
    tokenizer: PathLike | PreTrainedTokenizerBase | None,
    report: Callable[[str], None],
) -> PreTrainedTokenizerBase:
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


def _use_bfloat16(plan: PretrainingPlan, device: str | None) -> bool:
    if plan.bf16 != "auto":
        return bool(plan.bf16)
    on_gpu = torch.cuda.is_available() and device != "cpu"
    return supports_bfloat16(torch.device("cuda" if on_gpu else "cpu"))


def _summary(
    plan: PretrainingPlan, objective: MaskedLanguageModel, train: SequenceDataset, trainer: ObjectiveTrainer
) -> str:
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    length = f"{plan.max_steps} steps" if plan.max_steps else f"{plan.max_minutes:g} minutes"
    precision = "bfloat16 autocast" if trainer.args.bf16 else "float32"
    return (
        f"{parameters / 1e6:.1f} M parameters; {len(train):,} sequences of up to {plan.sequence_length} "
        f"tokens, {plan.batch_size * plan.gradient_accumulation_steps} a step; "
        f"{length}, {precision}, {trainer.args.device}"
    )


def _final_metrics(
    plan: PretrainingPlan,
    trainer: ObjectiveTrainer,
    clock: Clock,
    train: SequenceDataset,
    heldout: SequenceDataset | None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    steps = trainer.state.global_step
    sequences = (
        steps * trainer.args.train_batch_size * plan.gradient_accumulation_steps * trainer.args.world_size
    )
    metrics: dict[str, Any] = {
        "steps": steps,
        "epochs": round(sequences / len(train), 3),
        "minutes": round(clock.seconds / 60, 2),
        "tokens_seen": round(sequences * train.count_tokens() / len(train)),
        "device": str(trainer.args.device),
        "bf16": trainer.args.bf16,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    if heldout is not None:
        metrics |= _last_evaluation(trainer) or trainer.evaluate()
        report("measuring the baselines")
        metrics |= baselines.measure(train, heldout, trainer.heldout_collator)
    return metrics


def _last_evaluation(trainer: ObjectiveTrainer) -> dict[str, float]:
    """The held-out figures of the final weights, if training ended on an evaluation."""
    found = [entry for entry in trainer.state.log_history if "heldout_masked_loss" in entry]
    if not found or found[-1]["step"] != trainer.state.global_step:
        return {}
    return {name: value for name, value in found[-1].items() if name.startswith("heldout_")}


def _write_outputs(
    plan: PretrainingPlan,
    folder: RunFolder,
    objective: MaskedLanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    metrics: dict[str, Any],
    history: list[dict[str, Any]],
) -> None:
    """Write the model folder beside its final place and move it there; `metrics.json` comes last."""
    draft = folder.root / f".model-{os.getpid()}"
    try:
        objective.save_models(draft)
        tokenizer.save_pretrained(draft)
        tokenizer.save_vocabulary(str(draft))
        draw_curve(history, draft / "loss.png")
        (draft / "README.md").write_text(model_card(plan, metrics), encoding="utf-8")
        shutil.rmtree(folder.model, ignore_errors=True)  # of an attempt that ended before `metrics.json`
        os.replace(draft, folder.model)
        write_atomically(folder.metrics, json.dumps(metrics, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder.model}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def draw_curve(history: list[dict[str, Any]], path: Path) -> None:
    """Draw training and held-out loss by step, from log entries, to a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("masked_loss", "training"), ("heldout_masked_loss", "held-out")):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    axes.set(xlabel="step", ylabel="cross-entropy of masked tokens (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def model_card(plan: PretrainingPlan, metrics: dict[str, Any]) -> str:
    """The README.md of a trained model: how it was made, and its figures."""
    held_out = {name: value for name, value in metrics.items() if name.startswith(("heldout_", "baseline_"))}
    cost = {name: value for name, value in metrics.items() if name not in held_out}
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: fill-mask\ntags: [convbert]\n---\n",
        f"# ConvBERT pre-trained with the recipe `{plan.name}`\n",
        "A ConvBERT encoder and its masked-language-model head, trained from scratch by `convbert pretrain`.\n",
        '```python\nimport convbert\n\nfill = convbert.pipeline("fill-mask", "path/to/this/folder")\n```\n',
    ]
    if held_out:
        sections.append(f"## Held-out figures\n\n{_table(held_out)}\n\n{_FIGURES_NOTE}\n")
    sections.append(f"## Cost\n\n{_table(cost)}\n\n![Loss by step](loss.png)\n")
    sections.append(f"## Recipe\n\n```json\n{json.dumps(plan.to_dict(), indent=2)}\n```\n")
    return "\n".join(sections)


_FIGURES_NOTE = (
    "Model and baselines are measured on the same masked positions. Losses are in nats. The baselines: "
    "always the most frequent token; and the token that bigram counts of the training text make most likely "
    "between its neighbours."
)


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in values.items()]
    return "\n".join(("| | |", "| --- | --- |", *rows))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
