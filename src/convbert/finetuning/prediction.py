"""Answers for texts as they come, one line each: plain text or a JSON object."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from convbert.finetuning.adapters.tagging import split_text
from convbert.finetuning.cells import text_of
from convbert.finetuning.data import Example, Prediction
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.inference import run_features
from convbert.finetuning.notes import count_unknown
from convbert.finetuning.readers import Row
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
        yield from answer_each(read, lambda examples: iter(self._answers(examples)))

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

    def _answers(self, examples: list[Example]) -> list[Answer]:
        """As `answer`: halves are tried where the whole cannot be answered, until the example to blame is alone."""
        try:
            return list(self._predict(examples))
        except (InputError, MemoryError, RuntimeError) as error:
            if not isinstance(error, InputError) and not is_out_of_memory(error):
                raise
            if len(examples) == 1:
                return [
                    error if isinstance(error, InputError) else InputError("needs more memory than there is")
                ]
        half = len(examples) // 2
        return self._answers(examples[:half]) + self._answers(examples[half:])

    def _predict(self, examples: list[Example]) -> list[Prediction]:
        # Choices are batched as a rectangle: the same number of them in every example.
        groups: dict[int, list[int]] = defaultdict(list)
        for number, example in enumerate(examples):
            groups[len(example.inputs.get("choices", ()))].append(number)
        found: dict[int, Prediction] = {}
        for numbers in groups.values():
            found |= zip(numbers, self._predict_alike([examples[number] for number in numbers]), strict=True)
        return [found[number] for number in range(len(examples))]

    def _predict_alike(self, examples: list[Example]) -> list[Prediction]:
        model, tokenizer, plan = self.finetuned.model, self.finetuned.tokenizer, self.finetuned.plan
        features = self.adapter.features(examples, tokenizer, plan)
        outputs = run_features(model, self.adapter, features, tokenizer.pad_token_id)
        self.cut += len({feature.example for feature in features if feature.is_cut})
        count_unknown(features, tokenizer, examples, into=self.unknown)
        predictions = self.adapter.decode(examples, features, outputs, plan)
        return [self.adapter.record(*pair) for pair in zip(examples, predictions, strict=True)]

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was too small, as Python and PyTorch, on any device, say it."""
    said = str(error)
    return isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said


def read_cells(line: str) -> dict[str, Any]:
    """The object of a JSON line; a line that does not look like one is the `text`.

    Raises:
        InputError: nothing but space, or damaged JSON.
    """
    if not line.strip():
        raise InputError("is empty")
    return parse_json(line) if line.lstrip().startswith("{") else {"text": line}
