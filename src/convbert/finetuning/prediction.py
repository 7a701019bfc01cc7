"""Answers for texts as they come, one line each: plain text or a JSON object."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from convbert.errors import InputError
from convbert.finetuning.data import Example, Prediction, text_of
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.inference import run_features
from convbert.finetuning.metrics import entity_spans

Answer = Prediction | InputError


class Predictor:
    """Reads a line by the roles of the model's task.

    Plain text is the `text`. A JSON object has the columns of the task, or the names of their roles: `text` and
    `text_pair`; `tokens`, or `text` to be split into words; `question` and `context`; `text`, `prefix` and `choices`.
    """

    def __init__(self, finetuned: FinetunedModel) -> None:
        self.finetuned = finetuned
        self.kind = finetuned.kind

    def answer(self, lines: Sequence[str]) -> Iterator[Answer]:
        """An answer for each line, in order, or the reason why it has none."""
        examples: list[Example | InputError] = [self._example_or_error(line) for line in lines]
        good = [example for example in examples if isinstance(example, Example)]
        answers = iter(self._predict(good))
        for example in examples:
            yield example if isinstance(example, InputError) else next(answers)

    def _predict(self, examples: list[Example]) -> list[Prediction]:
        # Choices are batched as a rectangle: the same number of them in every example.
        groups: dict[int, list[int]] = defaultdict(list)
        for number, example in enumerate(examples):
            groups[len(example.inputs.get("choices", ()))].append(number)
        found: dict[int, Prediction] = {}
        for numbers in groups.values():
            found |= zip(numbers, self._predict_alike([examples[number] for number in numbers]), strict=True)
        return [self._record(example, found[number]) for number, example in enumerate(examples)]

    def _predict_alike(self, examples: list[Example]) -> list[Prediction]:
        model, tokenizer, plan = self.finetuned.model, self.finetuned.tokenizer, self.finetuned.plan
        features = self.kind.features(examples, tokenizer, plan)
        outputs = run_features(model, self.kind, features, tokenizer.pad_token_id)
        return self.kind.decode(examples, features, outputs, plan)

    def _record(self, example: Example, prediction: Prediction) -> Prediction:
        record = {name: value for name, value in prediction.items() if name not in ("n_best", "best_span")}
        if self.kind.task.kind == "tagging":
            record["tokens"] = example.inputs["tokens"]
            spans = sorted(entity_spans(prediction["answer"]), key=lambda span: span[1])
            if any(tag[:2] in ("B-", "I-") for tag in self.kind.labels):
                record["entities"] = [
                    {
                        "type": name,
                        "text": " ".join(record["tokens"][first : last + 1]),
                        "first": first,
                        "last": last,
                    }
                    for name, first, last in spans
                ]
        return {**({"id": example.key} if example.key else {}), **record}

    def _example_or_error(self, line: str) -> Example | InputError:
        try:
            cells = read_cells(line)
            inputs = {
                "tagging": self._words,
                "question-answering": self._question,
                "multiple-choice": self._choices,
            }
            read = inputs.get(self.kind.task.kind, self._texts)
            return Example("the text", str(cells.get("id", "")), read(cells))
        except InputError as error:
            return error

    def _cell(self, cells: dict[str, Any], role: str) -> Any:
        column = self.kind.task.columns.get(role, role)
        return cells[column] if column in cells else cells.get(role)

    def _text(self, cells: dict[str, Any], role: str) -> str:
        cell = self._cell(cells, role)
        if cell is None:
            raise InputError(f"there is no {role} in it; a JSON object with one is wanted")
        return text_of(cell, "the line", role)

    def _texts(self, cells: dict[str, Any]) -> dict[str, Any]:
        roles = [role for role in self.kind.task.columns if role in ("text", "text_pair")]
        return {role: self._text(cells, role) for role in roles}

    def _question(self, cells: dict[str, Any]) -> dict[str, Any]:
        return {role: self._text(cells, role) for role in ("question", "context")}

    def _words(self, cells: dict[str, Any]) -> dict[str, Any]:
        words = self._cell(cells, "tokens")
        if words is None:
            split = self.finetuned.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
            words = [word for word, _ in split(self._text(cells, "text"))]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise InputError("tokens must be a list of strings, at least one")
        return {"tokens": words}

    def _choices(self, cells: dict[str, Any]) -> dict[str, Any]:
        inputs: dict[str, Any] = {"text": self._text(cells, "text")}
        names = self.kind.task.columns["choices"].split(",")
        choices = cells.get("choices") or [cells[name] for name in names if name in cells]
        if not isinstance(choices, list) or len(choices) < 2:
            raise InputError(
                f"there are no choices in it: {', '.join(names)}, or a list of choices, are wanted"
            )
        if "prefix" in self.kind.task.columns:
            prefix = self._text(cells, "prefix")
            inputs["prefix"] = self.kind.task.values.get("prefix", {}).get(prefix, prefix)
        inputs["choices"] = [text_of(choice, "the line", "choice") for choice in choices]
        return inputs


def read_cells(line: str) -> dict[str, Any]:
    """The object of a JSON line; a line that does not look like one is the `text`.

    Raises:
        InputError: nothing but space, or damaged JSON.
    """
    if not line.strip():
        raise InputError("is empty")
    if not line.lstrip().startswith("{"):
        return {"text": line}
    try:
        cells = json.loads(line)
    except ValueError as error:
        raise InputError(f"not JSON ({error})") from error
    return cells
