"""128 real sentences, each with one masked word, through `convbert.pipeline("fill-mask")` in every precision there
is, and through transformers' pipeline on the same folder at batch sizes 1, 8 and 32, of which its best counts; the
time is that of all sentences, tokenization included. Base has random weights; its vocabulary is the embedded model's,
filled up to the published size. Ours in float32 is timed only if it gives the answers of transformers at batch size
1, where no padding changes them. Below, what the precisions cost on the embedded model: the share of masked places of
unseen text (15 % of its tokens, several draws) with the right token first, and with the same token first as in
float32."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import transformers.models.convbert as theirs

from benchmarks.cases import HELDOUT, SENTENCES, SIZES, THEIRS
from benchmarks.oracle import DifferentError
from benchmarks.precision import PRECISIONS, pipeline
from benchmarks.report import Row
from benchmarks.run import Maker, Run, time_subjects
from benchmarks.subjects import UnavailableError, lively
from benchmarks.timing import Call, spread
from convbert import ConvBertForMaskedLM, ConvBertTokenizerFast
from convbert.files import embedded
from convbert.ops.backends import supports_bfloat16
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.masking import IGNORED, Masking, MaskingCollator

ROUNDS = 7
BATCH_SIZES = (1, 8, 32)
DRAWS = 5  # of masks on the unseen text
SAME_ANSWERS = 0.995  # a precision below this share does not count as the best
CLOSE = 1e-4  # two answers whose scores are so close (relative) are one answer
EMBEDDED = "embedded model"
ACCURACY, LOST = f"{EMBEDDED}, right at masked places", f"{EMBEDDED}, lost against float32"
SAME = f"{EMBEDDED}, same answers as in float32"
OURS_FLOAT32, OURS_BEST = "ours, float32", "ours, best precision"
RATIOS = (("time / ours, float32", OURS_FLOAT32),)


@dataclass(frozen=True)
class PipelineCase:
    """A model: random weights of a published size, or the embedded one."""

    name: str
    dtype: str = "any"
    step: str = "forward"


def cases(device: torch.device) -> list[PipelineCase]:
    return [PipelineCase("base, random weights"), PipelineCase(EMBEDDED)]


def measure(case: PipelineCase, run: Run) -> Iterator[Row]:
    """The times of a model; of the embedded one also the answers."""
    answers = guesses(run.device)
    with tempfile.TemporaryDirectory() as made:
        folder = embedded.folder() if case.name == EMBEDDED else write_base(Path(made))
        row = time_pipelines(case, folder, run)
    choose_best(row, answers)
    yield row
    if case.name == EMBEDDED:
        yield from rows_of_answers(answers)


def masked_sentences() -> list[str]:
    """Each sentence with its middle word masked."""
    lines = [line.split() for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    return [" ".join([*words[: len(words) // 2], "[MASK]", *words[len(words) // 2 + 1 :]]) for words in lines]


def write_base(folder: Path) -> Path:
    """A random base model, and a tokenizer with as many tokens as it has."""
    config = SIZES["base"]()
    lively(ConvBertForMaskedLM, config).save_pretrained(folder)
    known = ConvBertTokenizerFast.from_pretrained(embedded.folder()).get_vocab()
    filled = {**known, **{f"[unused{index}]": index for index in range(len(known), config.vocab_size)}}
    ConvBertTokenizerFast(vocab=filled, do_lower_case=True).save_pretrained(folder)
    return folder


def time_pipelines(case: PipelineCase, folder: Path, run: Run) -> Row:
    """Seconds for all sentences."""
    texts = masked_sentences()
    peer = theirs.ConvBertForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    their_pipeline = transformers.pipeline("fill-mask", model=peer, tokenizer=tokenizer, device=run.device)

    def make_ours(precision: str) -> Call:
        if precision == "bfloat16" and not supports_bfloat16(run.device):
            raise UnavailableError("left out: no bfloat16 instructions here")
        fill = pipeline("fill-mask", folder, precision, run.device)
        if precision == "float32":
            refuse_other_answers(fill(texts), their_pipeline(texts, batch_size=1))
        return lambda: fill(texts)

    def make_theirs(batch_size: int) -> Call:
        return lambda: their_pipeline(texts, batch_size=batch_size)

    makers: dict[str, Maker] = {
        f"ours, {precision}": functools.partial(make_ours, precision) for precision in PRECISIONS
    }
    makers |= {_their_name(size): functools.partial(make_theirs, size) for size in BATCH_SIZES}
    row = Row(case.name, case.dtype, details={"sentences": len(texts)})
    time_subjects(row, makers, run.effort(ROUNDS), run.device)
    return row


def _their_name(batch_size: int) -> str:
    return f"{THEIRS}, batch size {batch_size}"


def refuse_other_answers(ours: list[Any], expected: list[Any]) -> None:
    """Raise unless each text has the same first token, or one that scores the same."""
    for number, (answer, wanted) in enumerate(zip(ours, expected, strict=True), start=1):
        scores = answer[0]["score"], wanted[0]["score"]
        if answer[0]["token"] != wanted[0]["token"] and abs(scores[0] - scores[1]) > CLOSE * scores[1]:
            raise DifferentError(f"refused: another answer than transformers' to sentence {number}")


def choose_best(row: Row, answers: dict[str, torch.Tensor]) -> None:
    """Enter the fastest of transformers' batch sizes, and of our precisions that keep the answers."""
    kept = [name for name, found in answers.items() if same_share(found, answers["float32"]) >= SAME_ANSWERS]
    for best, names in (
        (THEIRS, [_their_name(size) for size in BATCH_SIZES]),
        (OURS_BEST, [f"ours, {precision}" for precision in kept]),
    ):
        timed = {name: row.values[name] for name in names if name in row.values}
        if timed:
            fastest = min(timed, key=lambda name: spread(timed[name]).median)
            row.values[best] = timed[fastest]
            row.notes[best] = f"at its best: {fastest.rpartition(', ')[2]}" if best == THEIRS else fastest


# -- what the precisions cost


@functools.cache
def guesses(device: torch.device) -> dict[str, torch.Tensor]:
    """The embedded model's first tokens at masked places of unseen text, by precision; under "truth" the right ones."""
    found: dict[str, torch.Tensor] = {}
    for precision in PRECISIONS:
        try:
            fill = pipeline("fill-mask", embedded.folder(), precision, device)
        except UnavailableError:
            continue
        with torch.no_grad():
            found[precision], found["truth"] = _guess(fill, device)
    return found


def _guess(fill: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(n,) guessed and right ids over all draws of masks."""
    guessed, right = [], []
    with tempfile.TemporaryDirectory() as cache:
        sequences = prepare_sequences(HELDOUT, fill.tokenizer, Path(cache), Packing(128, 16))
        examples = [sequences[index] for index in range(len(sequences))]
    for draw in range(DRAWS):
        batch = MaskingCollator(fill.tokenizer, Masking(0.15), seed=draw)(examples)
        labels = batch["labels"]
        asked = labels != IGNORED
        inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        logits = fill.model(**inputs, logits_to_keep=asked.to(device)).logits
        guessed.append(logits.argmax(-1).cpu())
        right.append(labels[asked])
    return torch.cat(guessed), torch.cat(right)


def same_share(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one == other).float().mean().item()


def rows_of_answers(answers: dict[str, torch.Tensor]) -> Iterator[Row]:
    """Accuracy, what of it is lost, and agreement with float32."""
    right = {
        name: 100 * same_share(found, answers["truth"]) for name, found in answers.items() if name != "truth"
    }
    same = {name: 100 * same_share(answers[name], answers["float32"]) for name in right}
    lost = {name: right["float32"] - share for name, share in right.items()}
    details = {"masked places": len(answers["truth"])}
    for name, shares, unit in ((ACCURACY, right, "%"), (LOST, lost, "points"), (SAME, same, "%")):
        values = {f"ours, {precision}": [share] for precision, share in shares.items()}
        yield Row(name, "any", values, unit, details=details)
