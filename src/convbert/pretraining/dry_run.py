"""What a run will take, before it is started: parameters, arithmetic, memory, tokens, hours. Nothing is left behind."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState

from convbert.pretraining.corpus.reading import PLAIN, Reading, read_excerpts
from convbert.pretraining.corpus.shards import prepared_folder
from convbert.pretraining.corpus.sources import Corpus, PathLike, TextSource, find_sources
from convbert.pretraining.cost import parameter_counts, step_cost
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.objectives import Objective, build_objective
from convbert.pretraining.recipes import PretrainingPlan
from convbert.pretraining.run import Run, check_enough
from convbert.pretraining.warm_start import check_warm_start, resolve_tokenizer
from convbert.pretraining.watching import ReportPage
from convbert.training.arguments import uses_bfloat16, uses_cpu
from convbert.training.callbacks import ProgressLine, StopOnSignal, TrainingBudget
from convbert.util.errors import InputError
from convbert.util.optional import require

_SAMPLE_BYTES = 2_000_000
_SAMPLE_FILES = 16
_EXCERPT_BYTES = 1 << 18
SECONDS = 12.0
_PILOT_ROWS = 2
_FOR_EVER = 10**8
"""Steps that the timing does not reach."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take.

    Args:
        parameters: of each model, `shared` by them, and `together`.
        flops_per_step: of an optimizer step, of all processes.
        memory: bytes of `weights`, `gradients`, `optimizer` state (from their number), and of `activations`: what one
            micro-batch keeps for its backward pass, measured on few sequences and scaled; they are the larger part of
            what a step needs, and not all of it. With them, `measured_peak` where the device counts (a GPU).
        tokens_per_step: special ones included.
        tokens_per_epoch: likewise; of the whole corpus.
        sampled: share of the corpus that was tokenised to find this; 1 means that it was counted.
        steps, epochs, hours: of the whole run.
        seconds_per_step, tokens_per_second: projected from `timed_sequences` a step, where a whole step would have
            taken too long.
        mfu: model-FLOPs utilisation at this speed.
        peak: of the device, with its source.
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
    peak: str
    device: str
    hours: float

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


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
        for note in train.notes(resolved.unk_token_id):
            report(f"{'the corpus' if share == 1.0 else 'a sample of the corpus'}: {note}")
        report(f"timing {SECONDS:.0f} seconds of training")
        run = Run(_endless(plan), folder, resolved, train, None, device, lambda message: None)
        # A vocabulary learned from the sample may be smaller than the one that the corpus will give.
        is_learned = tokenizer is None and prepared is None and plan.start_from is None
        vocab_size = max(len(resolved), plan.vocab_size) if is_learned else len(resolved)
        return _measure(plan, run, vocab_size, share)


def _measure(plan: PretrainingPlan, run: Run, vocab_size: int, share: float) -> Estimate:
    config = plan.model_config(vocab_size, pad_token_id=run.tokenizer.pad_token_id)
    objective = build_objective(plan, config)
    length = run.train.count_tokens() / len(run.train)
    per_step = plan.batch_size * plan.gradient_accumulation_steps
    cost = step_cost(objective, sequences=per_step, length=length, mask_prob=plan.mask_prob)
    device = _device(run.device)
    activations, seconds_per_row = _pilot(objective.to(device), run, device)
    rows = max(1, min(plan.batch_size, int(SECONDS / 4 / seconds_per_row)))
    seconds, utilisation = _time_steps(objective, replace(run, plan=run.plan.override(batch_size=rows)))
    seconds_per_step = seconds * per_step / rows
    count = parameter_counts(objective)
    memory = _memory(count["together"], round(activations * plan.batch_size), device)
    steps = plan.max_steps or round(60 * (plan.max_minutes or 0) / seconds_per_step)
    tokens_per_epoch = round(run.train.count_tokens() / share)
    tokens_per_second = cost.tokens / seconds_per_step
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
        tokens_per_second=tokens_per_second,
        mfu=utilisation({"tokens_per_second": tokens_per_second})["mfu"],
        peak=str(utilisation.peak),
        device=str(device),
        hours=steps * seconds_per_step / 3600,
    )


# -------------------------------------------------------------------------------------------- corpus


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


# ------------------------------------------------------------------------------------ time and memory


def _endless(plan: PretrainingPlan) -> PretrainingPlan:
    """The same work, without anything between the steps."""
    return plan.override(
        max_steps=_FOR_EVER,
        gradient_accumulation_steps=1,
        save_every=_FOR_EVER,
        log_every=_FOR_EVER,
        fsdp=False,
    )


def _pilot(objective: nn.Module, run: Run, device: torch.device) -> tuple[float, float]:
    """Bytes of activations, and seconds, per sequence, from two steps on few of them."""
    rows = min(_PILOT_ROWS, len(run.train))
    batch = run.collator(run.plan.seed)(run.train.__getitems__(list(range(rows))))
    batch = {name: value.to(device) for name, value in batch.items()}
    objective.train()
    seconds = 0.0
    with _counting_activations(objective) as kept:
        for _ in range(2):  # the first one sets things up
            kept.clear()
            started = perf_counter()
            with torch.autocast(
                device.type, torch.bfloat16, enabled=uses_bfloat16(run.plan.bf16, run.device)
            ):
                loss = objective(**batch)["loss"]
            loss.backward()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            seconds = perf_counter() - started
    objective.zero_grad(set_to_none=True)
    return sum(kept.values()) / rows, seconds / rows


@contextmanager
def _counting_activations(objective: nn.Module) -> Iterator[dict[int, int]]:
    """Address to bytes of every block of memory that is kept for the backward pass, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _memory(parameters: int, activations: int, device: torch.device) -> dict[str, int]:
    """In fp32: AdamW keeps two numbers for each parameter."""
    memory = {
        "weights": 4 * parameters,
        "gradients": 4 * parameters,
        "optimizer": 8 * parameters,
        "activations": activations,
    }
    memory["together"] = sum(memory.values())
    if device.type == "cuda":
        memory["measured_peak"] = torch.cuda.max_memory_allocated(device)
    return memory


def _device(asked: str | None) -> torch.device:
    """What the Trainer takes."""
    if uses_cpu(asked):
        return torch.device("cpu")
    return torch.accelerator.current_accelerator() or torch.device("cpu")


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


def _time_steps(objective: Objective, run: Run) -> tuple[float, Any]:
    """Seconds of an optimizer step of the trainer that the run would have, and its measure of utilisation."""
    trainer = run.build_trainer(objective, TrainingBudget(max_steps=_FOR_EVER), StopOnSignal())
    for shown in (ProgressLine, ReportPage):
        trainer.remove_callback(shown)
    watch = _StopWatch(SECONDS)
    trainer.add_callback(watch)
    trainer.train()
    return watch.seconds_per_step, trainer.more_metrics
