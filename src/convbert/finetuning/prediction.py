"""Answers for records as they come: lines of plain text, JSON objects, or rows of a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby
from math import isfinite
from typing import Any, NamedTuple

from torch.nn.functional import normalize

from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.adapters.tagging import Tagging, split_text
from convbert.finetuning.cells import text_in, text_of
from convbert.finetuning.data import Example, Prediction, array_of
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.notes import count_unknown
from convbert.finetuning.readers import Row
from convbert.inference.engine import AnswerTask, Engine, Rows, Tokens
from convbert.inference.outputs import merge_vectors, text_vectors
from convbert.inference.pipelines import FeatureExtraction
from convbert.inference.tags import group_tags
from convbert.inference.windows import Long
from convbert.tokenization.unknown import UnknownTokens
from convbert.util.errors import InputError
from convbert.util.schema import parse_json

Record = str | Row | InputError
Answer = Prediction | InputError


class Counts(NamedTuple):
    """How many texts were too long and `windowed` or `cut`, and how many `tokens` are `unknown`, as in `example`."""

    windowed: int = 0
    cut: int = 0
    tokens: int = 0
    unknown: int = 0
    example: str = ""

    def plus(self, other: Counts, sign: int = 1) -> Counts:
        """Both together; for a sign of -1, what has been counted since the other."""
        return Counts(
            self.windowed + sign * other.windowed,
            self.cut + sign * other.cut,
            self.tokens + sign * other.tokens,
            self.unknown + sign * other.unknown,
            self.example or other.example,
        )

    def notes(self) -> list[str]:
        """What a reader should know of the texts."""
        long = ((self.windowed, "read in windows"), (self.cut, "cut"))
        notes = [
            f"texts that are longer than the model reads at once, and were {how}: {count:,}"
            for count, how in long
            if count
        ]
        unknown = UnknownTokens()
        unknown.merge(self.tokens, self.unknown, self.example)
        return [*notes, said] if (said := unknown.sentence()) else notes


class RecordReader(ABC):
    """Answers records by an engine, each with its id first, if it has one.

    Plain text is the `text`. A JSON object or a row has columns, or the names of their roles.

    Args:
        forward: see `AnswerTask`.
        columns, wanted: role to column; those that every answer needs.
        counts: has `windowed` and `cut`, records so far that were too long and were read in windows, or cut, and
            `unknown`, how many tokens are `[UNK]`.
    """

    def __init__(
        self, model: Any, forward: Callable[..., Any], columns: dict[str, str], wanted: list[str], counts: Any
    ) -> None:
        self.columns, self.wanted, self.counts = columns, wanted, counts
        self.engine = Engine(model, AnswerTask(self._encode, forward, self._decode))

    @abstractmethod
    def encode(self, cells: dict[str, Any]) -> list[Tokens]:
        """The texts of a record, by column."""

    @abstractmethod
    def decode(self, texts: list[Tokens], rows: list[Rows]) -> Prediction:
        """The answer, from each text's own rows."""

    def answer(self, records: Iterable[Record]) -> Iterator[Answer]:
        """An answer for each record, in order, or the reason why it has none."""
        return self.engine.answer(map(_read, records), on_error="return")

    def reading(self) -> dict[str, Any]:
        """What a reader of files has to know; see `open_input`."""
        return {"wanted": self.wanted}

    def check_columns(self, row: Row) -> None:
        """Refuse a table without a column that every answer needs, by its first row."""
        cells = self._by_column(row.cells)
        may_be_split = "tokens" in self.columns and "text" in cells
        for column in self.wanted:
            if column not in cells and not may_be_split:
                raise InputError(
                    f"{row.place.rpartition(':')[0]}: there is no column {column!r}; there are {', '.join(row.cells)} "
                    "(name the one that is meant, as by --text-column)"
                )

    def counted(self) -> Counts:
        """What has been counted in all texts so far."""
        counts, unknown = self.counts, self.counts.unknown
        return Counts(counts.windowed, counts.cut, unknown.tokens, unknown.unknown, unknown.example)

    def _by_column(self, cells: dict[str, Any]) -> dict[str, Any]:
        """The cells by column, where the record names a role instead."""
        renamed = {self.columns[role]: cell for role, cell in cells.items() if role in self.columns}
        return {**renamed, **cells}

    def _encode(self, record: Row) -> list[Tokens]:
        return self.encode(self._by_column(record.cells))

    def _decode(self, record: Row, texts: list[Tokens], rows: list[Rows]) -> Prediction:
        answer, column = self.decode(texts, rows), self.columns.get("id", "id")
        if column not in record.cells:
            return answer
        cell = record.cells[column]  # NaN is an empty one
        return {"id": None if isinstance(cell, float) and not isfinite(cell) else cell, **answer}


class Predictor(RecordReader):
    """Answers of a fine-tuned model, by the roles of its task: `text` and `text_pair`; `tokens`, or `text` to be split
    into words; `question` and `context`; `text`, `prefix` and `choices`.

    Args:
        columns: role to column, where the data has other names than the task.
    """

    def __init__(self, finetuned: FinetunedModel, columns: Mapping[str, str | None] | None = None) -> None:
        self.adapter, self.tokenizer, self.plan = finetuned.adapter, finetuned.tokenizer, finetuned.plan
        self.windowed, self.cut, self.unknown = 0, 0, UnknownTokens(self.tokenizer)
        task, named = self.adapter.task, {role: name for role, name in (columns or {}).items() if name}
        for role in named.keys() - task.columns.keys() - {"id"}:
            raise InputError(f"{task.name} has no column for {role}; it has {', '.join(task.columns)}")
        known = {**task.columns, **named}
        self.adapter.task = task.override(columns={role: known[role] for role in task.columns})
        forward = partial(self.adapter.forward, finetuned.model)
        super().__init__(finetuned.model, forward, known, self.adapter.task.input_columns, self)

    def reading(self) -> dict[str, Any]:
        task = self.adapter.task
        tags = self.adapter.labels if task.kind == "tagging" else ()
        return {**super().reading(), "headerless": task.headerless, "tags": tags}

    def encode(self, cells: dict[str, Any]) -> list[Tokens]:
        tokens = self.columns.get("tokens")
        if tokens is not None and tokens not in cells and "text" in cells:
            inputs = split_text(text_of(cells["text"], "the line", "text"), self.tokenizer)
        else:
            inputs = self.adapter.read_inputs(Row("the line", cells))
        example = Example("the line", "", inputs)
        features = self.adapter.features([example], self.tokenizer, self.plan)
        self.windowed += any(feature.is_windowed for feature in features)
        self.cut += any(feature.is_cut for feature in features)
        for feature in features:
            count_unknown(feature, inputs, self.unknown)
        return [text._replace(detail=(example, feature)) for feature in features for text in feature.texts]

    def decode(self, texts: list[Tokens], rows: list[Rows]) -> Prediction:
        # The choices of an example are texts of one feature.
        pairs = groupby(zip(texts, rows, strict=True), key=lambda pair: id(pair[0].detail[1]))
        groups = [list(group) for _, group in pairs]
        windows = [(group[0][0].detail[1], array_of([own for _, own in group])) for group in groups]
        example = texts[0].detail[0]
        return record_of(self.adapter, example, self.adapter.decode(example, windows, self.plan))


class Embedder(RecordReader):
    """A vector for each text, `{"embedding": (C,) fp32}`; `columns` are those of `text` and `id`, `long` is what is
    done with texts that are too long. The pooling of the model's own folder is followed by its normalisation."""

    def __init__(
        self, pipe: FeatureExtraction, pooling: str, columns: dict[str, str], long: Long = "windows"
    ) -> None:
        self.pipe, self.pooling, self.long = pipe, pooling, long
        forward = partial(text_vectors, pipe.model, how=pooling)
        super().__init__(pipe.model, forward, columns, [columns["text"]], pipe)

    def encode(self, cells: dict[str, Any]) -> list[Tokens]:
        return self.pipe.encode(text_in(Row("the line", cells), self.columns["text"]), long=self.long)

    def decode(self, texts: list[Tokens], rows: list[Rows]) -> Prediction:
        vector = merge_vectors(texts, rows, self.pooling).float()
        own = self.pipe.own
        if own is not None and own.normalized and own.how == self.pooling:
            vector = normalize(vector, dim=0)
        return {"embedding": vector.numpy()}


def record_of(adapter: TaskAdapter, example: Example, prediction: Prediction) -> Prediction:
    """What is written of a prediction: of tags, with the words, and with the entities that they mark, by their words,
    and by their characters where these were split from a text."""
    if not isinstance(adapter, Tagging):
        return {name: value for name, value in prediction.items() if name not in ("n_best", "best_span")}
    words, inputs = example.inputs["tokens"], example.inputs
    record = {**prediction, "tokens": words}
    if adapter.scheme.marks_spans:
        record["entities"] = []
        for kind, first, last in group_tags(prediction["answer"], adapter.scheme.parts):
            found = {"type": kind, "text": " ".join(words[first : last + 1]), "first": first, "last": last}
            if "offsets" in inputs:
                start, end = inputs["offsets"][first][0], inputs["offsets"][last][1]
                found |= {"text": inputs["text"][start:end], "start": start, "end": end}
            record["entities"] += [found] if kind else []
    return record


def _read(record: Record) -> Row | InputError:
    """The object of a JSON line; a line that does not look like one is the `text`."""
    if not isinstance(record, str):
        return record
    if not record.strip():
        return InputError("is empty")
    try:
        return Row("the line", parse_json(record) if record.lstrip().startswith("{") else {"text": record})
    except InputError as error:
        return error
