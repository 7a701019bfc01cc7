"""What differs from task to task, and what all of them share: rows to examples to features, answers to metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convbert.finetuning.cells import Report, choices_in, strings_in, text_in
from convbert.finetuning.data import Array, Example, Feature, Prediction, counted, order_labels, pad
from convbert.finetuning.metrics import METRICS, Scores
from convbert.finetuning.readers import Row, read_table
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import Task
from convbert.inference.outputs import text_logits
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError

Windows = Sequence[tuple[Feature, Array]]
"""The features of an example, several of a long text, each with its outputs."""


def cuts(plan: FinetuningPlan, training: bool) -> bool:
    """Whether long texts that are classified are cut: to learn from them they are, unless they are refused."""
    return plan.long == "cut" or (training and plan.long == "windows")


def check_length(length: int, place: str, plan: FinetuningPlan, field: str = "max_length") -> None:
    """Refuse a text that is longer than a field of the plan, where the plan says so."""
    if plan.long == "refuse" and length > (limit := getattr(plan, field)):
        raise InputError(
            f"{place}: is {length} tokens long, and {field} is {limit}: long=windows reads it in windows, long=cut its "
            "beginning"
        )


def mean_logits(windows: Windows) -> Array:
    """(outputs,) of an example: the mean of those of its windows, which are equally long."""
    return np.mean([np.ravel(output) for _, output in windows], axis=0)


class TaskAdapter(ABC):
    """Rows to examples, features and targets, and what a model says back to predictions and metrics.

    A kind of task has its own `read_target`, `features`, `forward`, `decode` and `score`; the rest has defaults.

    Args:
        task: the row of the table.
        labels: their names, in the order of the model's outputs; empty until `learn`.
    """

    model_class: type[ConvBertPreTrainedModel]
    target_role = "label"
    """The role of the column of right answers."""
    has_labels = True
    """Whether right answers are made of labels, each with an output of the model."""
    config: Mapping[str, Any] = MappingProxyType({})
    """What the model's configuration says beside labels."""
    loss_counts_examples = True
    """False where the model's loss is a mean over tokens: batches of equal size in tokens then weigh the same."""
    pipeline = "text-classification"
    """The Hub's name of the task."""
    cut_at = "max_length"
    """The field of the plan that texts are cut at."""

    def __init__(self, task: Task, labels: Sequence[str] = ()) -> None:
        self.task = task
        self.labels = tuple(labels)

    def read(
        self,
        path: Path,
        labelled: bool | None = True,
        report: Report = lambda message: None,
        on_bad_row: str = "fail",
        training: bool = False,
    ) -> list[Example]:
        """The examples of a file.

        Args:
            labelled: whether it must have the column of right answers, and they are read; None reads them where it has.
            report: told what was recognised, and how many rows were left out.
            on_bad_row: "fail", or "skip": leave out rows that cannot be used, and count them.
            training: right answers must be of use for training, too, see `check_trainable`.

        Raises:
            InputError: a missing column, a row that cannot be used, or no row that can; the message names it.
        """
        target = self.task.columns[self.target_role]
        inputs = self.task.input_columns
        table = read_table(
            path, self.task.headerless, inputs if labelled is False else [*inputs, target], report
        )
        labelled = target in table.columns if labelled is None else labelled
        table.check_columns([*inputs, *([target] if labelled else ())])
        read: list[Example | InputError] = []
        for number, row in enumerate(table.rows):
            try:
                read.append(
                    row if isinstance(row, InputError) else self._example(row, number, labelled, training)
                )
            except InputError as error:
                read.append(error)
        settled = self.settle([each for each in read if isinstance(each, Example)], path, report)
        bad = [each for each in (*read, *settled) if isinstance(each, InputError)]
        examples = [each for each in settled if isinstance(each, Example)]
        if on_bad_row == "skip" and labelled and self.labels:
            bad += [self._unknown(example) for example in examples if self.unknown_labels(example)]
            examples = [example for example in examples if not self.unknown_labels(example)]
        if bad:
            self._say_bad(path, bad, len(table.rows), on_bad_row, report)
        return examples

    def _example(self, row: Row, number: int, labelled: bool, training: bool) -> Example:
        inputs = self.read_inputs(row)
        answer = self.read_target(row, self.task.columns[self.target_role], inputs) if labelled else None
        columns = (self.task.columns.get("id", "id"), "index", "idx")
        names = (row.cells[column] for column in columns if row.cells.get(column) not in (None, ""))
        example = Example(row.place, str(next(names, number)), inputs, answer)
        if training:
            self.check_trainable(example)
        return example

    def _say_bad(
        self, path: Path, bad: Sequence[InputError], rows: int, on_bad_row: str, report: Report
    ) -> None:
        if on_bad_row not in ("fail", "skip"):
            raise InputError(f'on_bad_row must be "fail" or "skip", got {on_bad_row!r}')
        if on_bad_row == "fail" and not self.task.skips_broken_rows:
            others = f" (in all, {len(bad):,} rows cannot be used)" if len(bad) > 1 else ""
            raise InputError(f"{bad[0]}{others}; --on-bad-row skip leaves such rows out")
        if len(bad) == rows:
            raise InputError(f"{path}: no row can be used; the first: {bad[0]}")
        report(f"{path}: {len(bad):,} of {rows:,} rows are left out; the first: {bad[0]}")

    def settle(self, examples: list[Example], path: Path, report: Report) -> Sequence[Example | InputError]:
        """What all examples of a file decide together; an error in place of one that does not fit the others."""
        return examples

    def check_trainable(self, example: Example) -> None:
        """Refuse a right answer that can be scored, and cannot be trained on; by default there is none."""
        return

    def read_inputs(self, row: Row) -> dict[str, Any]:
        """What the model is shown, by role."""
        inputs: dict[str, Any] = {}
        for role, column in self.task.columns.items():
            if role == "tokens":
                inputs[role] = strings_in(row, column)
            elif role == "choices":
                inputs[role] = choices_in(row, column)
            elif role not in ("id", self.target_role):
                text = text_in(row, column)
                inputs[role] = self.task.values.get(role, {}).get(text, text)
        return inputs

    @abstractmethod
    def read_target(self, row: Row, column: str, inputs: dict[str, Any]) -> Any:
        """The right answer that stands in `column`; an `InputError` where it is none, or does not fit `inputs`."""

    def learn(self, train: Sequence[Example]) -> None:
        """Take from the training data what the model has to know: its labels, the task's own or those that occur.

        Raises:
            InputError: there is nothing to learn.
        """
        for example in train:
            self.check_trainable(example)
        if not self.has_labels:
            return
        names = self.names_in(train)
        if len(names) < 2:
            only = f"only the label {next(iter(names))!r} occurs" if names else "no label occurs"
            file = train[0].place.rpartition(":")[0]
            raise InputError(f"{file}: {only} in the training data: there is nothing to learn")
        self.labels = self.task.labels or order_labels(names)

    def names_in(self, train: Sequence[Example]) -> set[str]:
        """The labels that occur."""
        return {label for example in train for label in self.labels_of(example)}

    def labels_of(self, example: Example) -> Sequence[str]:
        """The labels in a right answer: those that are counted, and must be known to the model."""
        if not self.has_labels:
            return ()
        return (example.target,) if isinstance(example.target, str) else example.target

    @property
    def known_labels(self) -> Collection[str]:
        """All that `labels_of` may give."""
        return self.labels

    def unknown_labels(self, example: Example) -> list[str]:
        """Labels of an example that the model has no output for."""
        return [label for label in self.labels_of(example) if label not in self.known_labels]

    def check(self, examples: Sequence[Example]) -> None:
        """Refuse examples with labels that the model has no output for; the message names them all."""
        wrong = [example for example in examples if self.unknown_labels(example)]
        if wrong:
            counts = Counter(label for example in wrong for label in self.unknown_labels(example))
            others = f" (in all, {counted(counts)})" if len(wrong) > 1 else ""
            raise InputError(f"{self._unknown(wrong[0])}{others}")

    def _unknown(self, example: Example) -> InputError:
        known = list(self.known_labels)
        shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
        return InputError(
            f"{example.place}: the label {self.unknown_labels(example)[0]!r} is unknown; there are {shown}"
        )

    def config_changes(self) -> dict[str, Any]:
        """What the model's configuration has to say."""
        if not self.labels:
            return {**self.config}
        numbers = {name: number for number, name in enumerate(self.labels)}
        return {"id2label": dict(enumerate(self.labels)), "label2id": numbers, **self.config}

    def rescale(self, model: Any, *, to_data: bool) -> None:
        """Have a model answer in the data's unit, or in that of its training; see `Regression`."""
        return

    @abstractmethod
    def features(
        self,
        examples: Sequence[Example],
        tokenizer: ConvBertTokenizerFast,
        plan: FinetuningPlan,
        *,
        training: bool = False,
    ) -> list[Feature]:
        """Examples as tokens; in training, with targets. What is longer than the plan's `max_length` has several
        features, or is cut or refused, by its `long`."""

    def collate(self, features: Sequence[Feature], pad_token_id: int) -> dict[str, Tensor]:
        """A padded batch: `input_ids`, `token_type_ids`, `attention_mask`, and `labels` where there are targets."""
        batch = {
            "input_ids": pad([feature.input_ids for feature in features], pad_token_id),
            "token_type_ids": pad([feature.token_type_ids for feature in features], 0),
            "attention_mask": pad([[1] * len(feature.input_ids) for feature in features], 0),
        }
        if features[0].target is not None:
            batch |= self.targets(features)
        return batch

    def targets(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """The targets of a batch, under the names of the model's arguments."""
        return {"labels": torch.tensor([feature.target for feature in features])}

    forward = staticmethod(text_logits)
    """(model, packed batch) to the model's `logits`, and how many rows of them each text has."""

    @abstractmethod
    def decode(self, example: Example, windows: Windows, plan: FinetuningPlan) -> Prediction:
        """A prediction, from all features of an example."""

    def predict(
        self,
        examples: Sequence[Example],
        features: Sequence[Feature],
        outputs: Sequence[Array],
        plan: FinetuningPlan,
    ) -> list[Prediction]:
        """A prediction for every example."""
        windows: dict[int, list[tuple[Feature, Array]]] = defaultdict(list)
        for feature, output in zip(features, outputs, strict=True):
            windows[feature.example].append((feature, output))
        return [self.decode(example, windows[number], plan) for number, example in enumerate(examples)]

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        """The task's metrics, the one that counts first."""
        gold = [example.target for example in examples]
        answers = [prediction["answer"] for prediction in predictions]
        return {name: METRICS[name](gold, answers) for name in self.task.metrics}
