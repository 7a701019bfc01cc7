"""What answers a block, and how its answers are written, in this process or in any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from convbert.bulk.blocks import Block, Position
from convbert.bulk.inputs import Item
from convbert.bulk.tables import columns_of, json_of, with_answers
from convbert.finetuning.cells import Row
from convbert.finetuning.data import Prediction
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.prediction import Counts, Embedder, Predictor, RecordReader
from convbert.inference.pipelines.feature_extraction import POOLINGS
from convbert.inference.windows import check_long
from convbert.util.cores import usable_cores
from convbert.util.errors import InputError
from convbert.util.workers import in_order, processes

if TYPE_CHECKING:
    import pyarrow as pa

_OWN = ("file", "line", "row")
_PIECE = 64
"""Answers that are handed on together where one process reads, answers and writes."""
Answer = Prediction | InputError


@dataclass(frozen=True)
class Answering:
    """A model and how to run it, as every process that answers loads it.

    Args:
        model: a folder, or a name on the Hub; None is the embedded sentence model, for vectors.
        embeddings: "mean", "max" or "first" for vectors, see `FeatureExtraction`; None is for a fine-tuned model.
        columns: role to column, where the data has other names than the task.
        precision, device: see `convbert.load`.
        long: what is done with texts that are too long, see `convbert predict`; None is as the model was trained.

    Raises:
        InputError: neither a model nor embeddings, no such pooling, or a column that vectors have no use for.
    """

    model: str | None
    embeddings: str | None = None
    columns: dict[str, str | None] | None = None
    precision: str = "auto"
    device: str | None = None
    long: str | None = None

    def __post_init__(self) -> None:
        named = [role for role, name in (self.columns or {}).items() if name]
        if self.embeddings is None:
            if self.model is None:
                raise InputError("give a model that convbert finetune wrote, or embeddings")
            return
        if self.embeddings not in POOLINGS:
            raise InputError(f"--embeddings must be one of {', '.join(POOLINGS)}; got {self.embeddings}")
        if others := [role for role in named if role not in ("text", "id")]:
            raise InputError(f"vectors are of one text: there is no column for {others[0]}")

    def load(self, threads: int | None = None) -> RecordReader:
        """The model, ready to answer, on so many threads."""
        if threads is not None:
            torch.set_num_threads(threads)
        if self.embeddings is None:
            finetuned = FinetunedModel.load(
                self.model, device=self.device, precision=self.precision, long=self.long
            )
            return Predictor(finetuned, self.columns)
        import convbert

        model = self.model or "embedded-sentences"
        pipe: Any = convbert.pipeline(
            "feature-extraction", model, device=self.device, precision=self.precision
        )
        named = self.columns or {}
        columns = {role: named.get(role) or role for role in ("text", "id")}
        return Embedder(pipe, self.embeddings, columns, check_long(self.long or "windows"))


class Answered(NamedTuple):
    """What became of a block, or of a part of it, up to `position`: lines of JSON, or a table; and what to count.

    `size` is that of the block, in its first part.
    """

    content: bytes | pa.Table
    position: Position
    texts: int
    failed: int
    first_failure: str
    size: int
    counts: Counts


Write = Callable[[Block, Sequence[Item], Sequence[Answer]], Any]


def as_lines(block: Block, items: Sequence[Item], answers: Sequence[Answer]) -> bytes:
    """A JSON object a line: the file, if there are many, the number of the line or row, and the answer or `error`."""
    lines = []
    for item, answer in zip(items, answers, strict=True):
        place = {"file": block.file} if block.file else {}
        found = {"error": str(answer)} if isinstance(answer, InputError) else answer
        lines.append(json_of({**place, block.unit: item.number, **found}) + "\n")
    return "".join(lines).encode(errors="replace")


def as_table(block: Block, items: Sequence[Item], answers: Sequence[Answer]) -> pa.Table:
    """The same with all columns of the input; see `with_answers`."""
    cells = [item.content.cells if isinstance(item.content, Row) else {} for item in items]
    own: dict[str, list[Any]] = {"file": [block.file] * len(items)} if block.file else {}
    own[block.unit] = [item.number for item in items]
    kept = columns_of(cells, block.types)
    kept = {f"input_{name}" if name in _OWN else name: column for name, column in kept.items()}
    return with_answers({**own, **kept}, answers)


def answer_in_parts(
    reader: RecordReader, write: Write, block: Block, piece: int = _PIECE
) -> Iterator[Answered]:
    """Answer a block, and give its answers as soon as there are `piece` of them."""
    answers = reader.answer([item.content for item in block.items])
    items, size = iter(block.items), block.size
    while part := list(islice(items, piece)):
        before = reader.counted()
        found = list(islice(answers, len(part)))
        failures = [
            (item, each) for item, each in zip(part, found, strict=True) if isinstance(each, InputError)
        ]
        first = f"{failures[0][0].place}: {failures[0][1]}".removeprefix(": ") if failures else ""
        position = Position(block.file, block.unit, part[-1].number)
        counts = reader.counted().plus(before, -1)
        yield Answered(write(block, part, found), position, len(part), len(failures), first, size, counts)
        size = 0


def answer_block(reader: RecordReader, write: Write, block: Block) -> Answered:
    """Answer a block as a whole."""
    (answered,) = answer_in_parts(reader, write, block, len(block.items))
    return answered


def answer_here(blocks: Iterator[Block], reader: RecordReader, write: Write) -> Iterator[Answered]:
    """Answers by this process, as they come."""
    return chain.from_iterable(answer_in_parts(reader, write, block) for block in blocks)


def answer_by_processes(
    blocks: Iterator[Block], answering: Answering, write: Write, workers: int
) -> Iterator[Answered]:
    """Answers in the order of the blocks, by processes that share the cores.

    Raises:
        InputError: one of them died.
    """
    make = partial(_make_worker, answering, write, max(1, usable_cores() // workers))
    with processes(make, workers, __name__) as submit:
        for _, answered in in_order(blocks, submit, workers):
            yield answered


def _make_worker(answering: Answering, write: Write, threads: int) -> Callable[[Block], Answered]:
    return partial(answer_block, answering.load(threads), write)
