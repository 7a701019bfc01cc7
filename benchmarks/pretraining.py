"""Pre-training as `convbert pretrain` runs it: the published model with its recipe's objective, reading a prepared
corpus through the run's own trainer, a step at a time. *rtd* is replaced token detection, where discriminator and
generator both work; *mlm* masked language modelling. On a CPU a step has fewer sequences than the recipe's, which
changes what a step takes and hardly what a token does. Utilisation: operations that the model needs
(`convbert.pretraining.cost`) against the peak of the device, see docs/pretraining.md. Input wait: the share of the
time in which the model had no batch to work on. One process, and nothing to compare with: neither transformers nor the
original pre-trains here."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.cases import (
    HELDOUT,
    INPUT_WAIT,
    SENTENCES,
    SIZES,
    SPEED,
    UTILISATION,
    Case,
    pretraining_cases,
)
from benchmarks.report import Row
from benchmarks.run import Run
from convbert import ConvBertTokenizerFast
from convbert.files import embedded
from convbert.pretraining.recipes import PretrainingPlan, recipe
from convbert.pretraining.run import pretrain

ROUNDS = 20
RATIOS = ()
COPIES = 50  # of the little text there is: some thousand sequences
cases = pretraining_cases


def measure(case: Case, run: Run) -> list[Row]:
    """One row: a number a step, the first steps left out."""
    steps = run.warmup + run.effort(ROUNDS).rounds
    with tempfile.TemporaryDirectory(prefix="convbert-benchmark-") as scratch:
        folder = Path(scratch)
        result = pretrain(
            plan_of(case, steps),
            write_text(folder / "text.txt"),
            folder / "run",
            tokenizer=write_tokenizer(folder / "tokenizer", SIZES[case.size]().vocab_size),
            device="cpu" if run.device.type == "cpu" else None,
            report=lambda message: None,
        )
        if not result.finished:
            raise KeyboardInterrupt
        lines = (folder / "run/log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [entry for line in lines if "mfu" in (entry := json.loads(line))][run.warmup :]
    row = Row(f"{case.step}, {case.name}", case.dtype, unit="")
    row.values = {
        SPEED: [entry["tokens_per_second"] for entry in entries],
        UTILISATION: [100 * entry["mfu"] for entry in entries],
        INPUT_WAIT: [100 * entry["input_wait"] for entry in entries],
    }
    return [row]


def plan_of(case: Case, steps: int) -> PretrainingPlan:
    """The recipe of the case's size, a micro-batch a step."""
    assert case.rectangle is not None
    batch, length = case.rectangle
    base = recipe(case.size.replace("-", "_")) if case.size != "tiny" else recipe("smoke")
    return base.override(
        objective=case.step,
        batch_size=batch,
        sequence_length=length,
        bf16=case.dtype == "bfloat16",
        max_steps=steps,
        log_every=1,
        save_every=steps,
    )


def write_text(path: Path) -> Path:
    """A corpus that fills sequences."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in (HELDOUT, SENTENCES))
    path.write_text("\n".join([text] * COPIES), encoding="utf-8")
    return path


def write_tokenizer(folder: Path, size: int) -> Path:
    """The embedded model's vocabulary with as many entries as the published one has: the head works on all of them."""
    words = (embedded.folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()
    folder.mkdir()
    vocabulary = folder / "vocab.txt"
    filled = [*words, *(f"[unused{number}]" for number in range(size - len(words)))]
    vocabulary.write_text("\n".join(filled) + "\n", encoding="utf-8")
    ConvBertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    return folder
