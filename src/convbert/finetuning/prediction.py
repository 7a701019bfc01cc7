"""Answers for texts as they come, one line each: plain text or a JSON object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from math import isfinite
from typing import Any

from convbert.finetuning.adapters.tagging import split_text
from convbert.finetuning.cells import text_of
from convbert.finetuning.data import Example, Prediction
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.inference import array_of
from convbert.finetuning.notes import count_unknown
from convbert.finetuning.readers import Row
from convbert.inference.engine import AnswerTask, Engine, Rows, Tokens
from convbert.tokenization.unknown import UnknownTokens
from convbert.util.errors import InputError
from convbert.util.schema import parse_json

Answer = Prediction | InputError


class Predictor:
    """Reads a line, or a row of a table, by the roles of the model's task.

    Plain text is the `text`. A JSON object or a row has the columns of the task, or the names of their roles: `text`
    and `text_pair`; `tokens`, or `text` to be split into words; `question` and `context`; `text`, `prefix` and
    `choices`.

    Args:
        columns: role to column, where the data has other names than the task.

    Attributes:
        cut: lines so far that were too long and were cut.
        unknown: how many of their tokens are `[UNK]`.

    Raises:
        InputError: a role that the task does not have.
    """

    def __init__(self, finetuned: FinetunedModel, columns: Mapping[str, str | None] | None = None) -> None:
        self.finetuned = finetuned
        self.adapter = finetuned.adapter
        self.columns = {**self.adapter.task.columns}
        for role, column in (columns or {}).items():
            if column and role != "id" and role not in self.columns:
                raise InputError(
                    f"{self.adapter.task.name} has no column for {role}; it has {', '.join(self.columns)}"
                )
            self.columns |= {role: column} if column else {}
        self.adapter.task = dataclasses.replace(self.adapter.task, columns=self.columns)
        self.cut = 0
        self.unknown = UnknownTokens(finetuned.tokenizer)

    def answer(self, lines: Sequence[str | Row | InputError]) -> Iterator[Answer]:
        """An answer for each line, in order, or the reason why it has none."""
        read = [self._read(line) for line in lines]
        model = self.finetuned.model
        task = AnswerTask(self._encode, partial(self.adapter.forward, model), self._decode)
        yield from answer_each(read, partial(Engine(model, task).answer, on_error="return"))

    def reading(self) -> dict[str, Any]:
        """What a reader of files has to know; see `open_input`."""
        task = self.adapter.task
        return {
            "wanted": self.adapter.input_columns(),
            "headerless": task.headerless,
            "tags": self.adapter.labels if task.kind == "tagging" else (),
        }

    def check_columns(self, row: Row) -> None:
        """Refuse a table without a column that every answer needs, by its first row.

        Raises:
            InputError: naming the columns that there are.
        """
        cells = self._by_column(row.cells)
        may_be_split = self.columns.get("tokens") is not None and "text" in cells
        for column in self.adapter.input_columns():
            if column not in cells and not may_be_split:
                raise InputError(
                    f"{row.place.rpartition(':')[0]}: there is no column {column!r}; there are {', '.join(row.cells)} "
                    "(name the one that is meant, as by --text-column)"
                )

    def notes(self) -> list[str]:
        """What a reader should know of the texts."""
        cut = "texts that are longer than the model was trained for, and were cut"
        notes = [f"{cut}: {self.cut:,}"] if self.cut else []
        return notes + [sentence for sentence in [self.unknown.sentence()] if sentence]

    def _encode(self, example: Example) -> list[Tokens]:
        features = self.adapter.features([example], self.finetuned.tokenizer, self.finetuned.plan)
        self.cut += any(feature.is_cut for feature in features)
        count_unknown(features, self.finetuned.tokenizer, [example], into=self.unknown)
        return [text for feature in features for text in feature.texts]

    def _decode(self, example: Example, texts: list[Tokens], rows: list[Rows]) -> Prediction:
        pairs = groupby(zip(texts, rows, strict=True), key=lambda pair: id(pair[0].detail))
        groups = [list(group) for _, group in pairs]
        features = [group[0][0].detail for group in groups]
        outputs = [array_of([own for _, own in group]) for group in groups]
        (prediction,) = self.adapter.decode([example], features, outputs, self.finetuned.plan)
        return self.adapter.record(example, prediction)

    def _read(self, line: str | Row | InputError) -> tuple[Example, dict[str, Any]] | InputError:
        """The example of a line, and its id, if it has one."""
        if isinstance(line, InputError):
            return line
        try:
            cells = self._by_column(read_cells(line) if isinstance(line, str) else line.cells)
            inputs = self._split(cells) or self.adapter.read_inputs(Row("the line", cells))
            return Example("the line", "", inputs), id_in(cells, self.columns.get("id", "id"))
        except InputError as error:
            return error

    def _by_column(self, cells: dict[str, Any]) -> dict[str, Any]:
        """The cells by the task's columns, where the line names a role instead."""
        columns = self.columns
        renamed = {columns[role]: cell for role, cell in cells.items() if role in columns}
        return {**renamed, **cells}

    def _split(self, cells: dict[str, Any]) -> dict[str, Any] | None:
        """What tagging is shown of a text that was not split into words; None where there is nothing to split."""
        tokens = self.columns.get("tokens")
        if tokens is None or tokens in cells or "text" not in cells:
            return None
        return split_text(text_of(cells["text"], "the line", "text"), self.finetuned.tokenizer)


def answer_each(
    read: Sequence[tuple[Any, dict[str, Any]] | InputError], answer: Callable[[list[Any]], Iterator[Answer]]
) -> Iterator[Answer]:
    """Answers to what was read of lines, each behind its id; errors stay where they are."""
    answers = answer([each[0] for each in read if not isinstance(each, InputError)])
    for each in read:
        if isinstance(each, InputError):
            yield each
            continue
        found = next(answers)
        yield found if isinstance(found, InputError) else {**each[1], **found}


def id_in(cells: dict[str, Any], column: str) -> dict[str, Any]:
    """What a line's answer begins with: its id as it stands there, if it has one; NaN, an empty cell, is None."""
    if column not in cells:
        return {}
    cell = cells[column]
    return {"id": None if isinstance(cell, float) and not isfinite(cell) else cell}


def read_cells(line: str) -> dict[str, Any]:
    """The object of a JSON line; a line that does not look like one is the `text`.

    Raises:
        InputError: nothing but space, or damaged JSON.
    """
    if not line.strip():
        raise InputError("is empty")
    return parse_json(line) if line.lstrip().startswith("{") else {"text": line}
