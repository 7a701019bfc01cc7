"""What a run will take, before it is started: parameters, arithmetic, memory, tokens, hours. Nothing is left behind."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState

from convbert.pretraining.corpus.reading import PLAIN, Reading, read_excerpts
from convbert.pretraining.corpus.shards import prepared_folder
from convbert.pretraining.corpus.sources import Corpus, PathLike, TextSource, find_sources
from convbert.pretraining.cost import parameter_counts, step_cost
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.objectives import build_objective
from convbert.pretraining.recipes import PretrainingPlan
from convbert.pretraining.run import Run, check_enough
from convbert.pretraining.warm_start import check_warm_start, resolve_tokenizer
from convbert.pretraining.watching import ReportPage
from convbert.training.arguments import device_of, uses_bfloat16
from convbert.training.callbacks import ProgressLine, StopOnSignal, TrainingBudget
from convbert.training.utilisation import measure_peak
from convbert.util.errors import InputError
from convbert.util.optional import require

_SAMPLE_BYTES = 2_000_000
_SAMPLE_FILES = 16
_EXCERPT_BYTES = 1 << 18
SECONDS = 12.0
_FOR_EVER = 10**8
"""Steps that the timing does not reach."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take.

    Args:
        parameters: of each model, `shared` by them, and `together`.
        flops_per_step: of an optimizer step.
        memory: bytes of `weights`, `gradients`, `optimizer` state and all `together`, from their number; on a GPU the
            `measured_peak`, too, with activations.
        sampled: share of the corpus that was tokenised to find `tokens_per_epoch`; 1 means that it was counted.
        seconds_per_step, tokens_per_second: projected from `timed_sequences` a step, where a whole step would have
            taken too long.
        mfu: share of `peak`, the operations per second of a product of matrices.
    """

    parameters: dict[str, int]
    flops_per_step: float
    memory: dict[str, int]
    tokens_per_step: int
    tokens_per_epoch: int
    sampled: float
    steps: int
    epochs: float
    seconds_per_step: float
    timed_sequences: int
    tokens_per_second: float
    mfu: float
    peak: float
    device: str
    hours: float


def dry_run(
    plan: PretrainingPlan,
    corpus: Corpus,
    *,
    tokenizer: PathLike | PreTrainedTokenizerBase | None = None,
    device: str | None = None,
    reading: Reading = PLAIN,
    report: Callable[[str], None] = lambda message: print(message, file=sys.stderr, flush=True),
) -> Estimate:
    """Estimate a run from a sample of its corpus and from some seconds of the training itself, in one process.

    Args:
        corpus, tokenizer, device, reading, report: see `pretrain`. Without a tokenizer one is learned from the sample.

    Raises:
        InputError: unusable input, as in `pretrain`.
    """
    require("train", "pre-training")
    with tempfile.TemporaryDirectory(prefix="convbert-dry-run-") as scratch:
        folder, share = RunFolder(Path(scratch)), 1.0
        if (prepared := prepared_folder(corpus)) is not None:
            source: Corpus = prepared
        else:
            source = folder.root / "sample.txt"
            share = write_sample(find_sources(corpus), source, _SAMPLE_BYTES, reading)
        resolved = resolve_tokenizer(plan, source, folder, tokenizer, lambda message: None)
        check_warm_start(plan, resolved)
        train = prepare_sequences(source, resolved, folder.data, plan.packing)
        if share == 1.0:
            check_enough(plan, train)
        for note in train.notes():
            report(f"{'the corpus' if share == 1.0 else 'a sample of the corpus'}: {note}")
        report(f"timing {SECONDS:.0f} seconds of training")
        # A vocabulary learned from the sample may be smaller than the one that the corpus will give.
        is_learned = tokenizer is None and prepared is None and plan.start_from is None
        vocab_size = max(len(resolved), plan.vocab_size) if is_learned else len(resolved)
        run = Run(plan, folder, resolved, train, None, device, lambda message: None)
        return _measure(run, vocab_size, share)


def _measure(run: Run, vocab_size: int, share: float) -> Estimate:
    plan, device = run.plan, device_of(run.device)
    objective = build_objective(plan, plan.model_config(vocab_size, run.tokenizer.pad_token_id))
    per_step = plan.batch_size * plan.gradient_accumulation_steps
    length = run.train.count_tokens() / len(run.train)
    cost = step_cost(objective, sequences=per_step, length=length, mask_prob=plan.mask_prob)
    peak = measure_peak(device, torch.bfloat16 if uses_bfloat16(plan.bf16, run.device) else torch.float32)
    # As many sequences as keep the device busy for an eighth of the time, if it computed at half its peak.
    rows = max(1, min(plan.batch_size, int(SECONDS / 16 * peak * per_step / cost.flops)))
    seconds_per_step = _time_step(run, objective, rows) * per_step / rows
    count = parameter_counts(objective)
    together = count["together"]
    memory = {"weights": 4 * together, "gradients": 4 * together, "optimizer": 8 * together}
    memory["together"] = sum(memory.values())
    if device.type == "cuda":
        memory["measured_peak"] = torch.cuda.max_memory_allocated(device)
    steps = plan.max_steps or round(60 * (plan.max_minutes or 0) / seconds_per_step)
    tokens_per_epoch = round(run.train.count_tokens() / share)
    return Estimate(
        parameters=count,
        flops_per_step=cost.flops,
        memory=memory,
        tokens_per_step=round(cost.tokens),
        tokens_per_epoch=tokens_per_epoch,
        sampled=share,
        steps=steps,
        epochs=steps * cost.tokens / tokens_per_epoch,
        seconds_per_step=seconds_per_step,
        timed_sequences=rows,
        tokens_per_second=cost.tokens / seconds_per_step,
        mfu=cost.flops / seconds_per_step / peak,
        peak=peak,
        device=str(device),
        hours=steps * seconds_per_step / 3600,
    )


def write_sample(sources: Sequence[TextSource], path: Path, size: int, reading: Reading = PLAIN) -> float:
    """Write the beginnings of up to 16 sources, spread over all of them, as one text of about `size` bytes.

    Returns:
        The share of the corpus that they are, by bytes on disk; 1 where they are all of it.

    Raises:
        InputError: a source cannot be read, or nobody knows how large it is.
    """
    if unknown := [source for source in sources if not source.size]:
        raise InputError(f"{unknown[0]}: its size is not known; convbert prepare it, and name the result")
    chosen = sources[:: max(1, len(sources) // _SAMPLE_FILES)]
    share_of_each, read, whole = size // len(chosen), 0, len(chosen) == len(sources)
    with path.open("w", encoding="utf-8") as sample:
        for source in chosen:
            written = 0
            for piece, on_disk in read_excerpts(source, reading, min(share_of_each // 8 + 1, _EXCERPT_BYTES)):
                if written >= share_of_each:
                    whole = False
                    break
                read += on_disk
                for document in piece.documents(reading):
                    written += sample.write("\n".join(document) + "\n\n")
    return 1.0 if whole else read / sum(source.size for source in sources)


class _StopWatch(TrainerCallback):
    """Ends a run after some seconds, but not before its third step; the first one is not counted."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.device.type != "cpu":
            torch.accelerator.synchronize(args.device)
        self.ends.append(perf_counter())
        if len(self.ends) >= 3 and self.ends[-1] - self.ends[0] >= self.seconds:
            control.should_training_stop = True

    @property
    def seconds_per_step(self) -> float:
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def _time_step(run: Run, objective: Any, rows: int) -> float:
    """Seconds of a step on `rows` sequences, in the trainer that the run would have, without anything between steps."""
    plan = run.plan.override(
        batch_size=rows,
        max_steps=_FOR_EVER,
        gradient_accumulation_steps=1,
        save_every=_FOR_EVER,
        log_every=_FOR_EVER,
        fsdp=False,
    )
    timed = Run(plan, run.folder, run.tokenizer, run.train, None, run.device, run.report)
    trainer = timed.build_trainer(objective, TrainingBudget(max_steps=_FOR_EVER), StopOnSignal())
    for shown in (ProgressLine, ReportPage):
        trainer.remove_callback(shown)
    watch = _StopWatch(SECONDS)
    trainer.add_callback(watch)
    trainer.train()
    return watch.seconds_per_step
