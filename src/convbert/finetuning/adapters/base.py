"""What differs from task to task, and what all of them share: rows to examples to features, answers to metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convbert.finetuning.cells import text_in
from convbert.finetuning.data import Array, Example, Feature, Prediction, Report, counted, pad
from convbert.finetuning.metrics import Scores
from convbert.finetuning.readers import Read, Row, read_table
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import Task
from convbert.inference.engine import Packed, Rows
from convbert.inference.outputs import text_logits
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError


class TaskAdapter(ABC):
    """All that differs between classification, tagging, answering and choosing.

    Args:
        task: the row of the table.
        labels: their names, in the order of the model's outputs; empty until `learn`.
    """

    model_class: type[ConvBertPreTrainedModel]
    target_role = "label"
    """The role of the column of right answers."""
    loss_counts_examples = True
    """False where the model's loss is a mean over tokens: batches of equal size in tokens then weigh the same."""
    pipeline = "text-classification"
    """The Hub's name for what a model of this kind does."""
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
        wanted = [*self.input_columns(), *([target] if labelled else ())]
        seen = [*wanted, target] if labelled is None else wanted
        table = read_table(path, self.task.headerless, seen, report)
        if labelled is None:
            labelled = target in table.columns
        table.check_columns(wanted)
        read = [
            self._example(row, number, target if labelled else None, training)
            for number, row in enumerate(table.rows)
        ]
        settled = self.settle([each for each in read if isinstance(each, Example)], path, report)
        bad = [each for each in (*read, *settled) if isinstance(each, InputError)]
        examples = [each for each in settled if isinstance(each, Example)]
        if on_bad_row == "skip" and labelled and self.labels:
            known = [example for example in examples if not self.unknown_labels(example)]
            bad += [self._unknown(example) for example in examples if self.unknown_labels(example)]
            examples = known
        self._say_bad(path, bad, len(table.rows), on_bad_row, report)
        return examples

    def _example(self, row: Read, number: int, target: str | None, training: bool) -> Example | InputError:
        if isinstance(row, InputError):
            return row
        try:
            inputs = self.read_inputs(row)
            answer = None if target is None else self.read_target(row, target, inputs)
            example = Example(row.place, self._key(row, number), inputs, answer)
            if training:
                self.check_trainable(example)
        except InputError as error:
            return error
        return example

    def _say_bad(
        self, path: Path, bad: Sequence[InputError], rows: int, on_bad_row: str, report: Report
    ) -> None:
        if not bad:
            return
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

    def input_columns(self) -> list[str]:
        """The columns that the model is shown."""
        return [column for role, column in self.task.columns.items() if role not in ("id", self.target_role)]

    def read_inputs(self, row: Row) -> dict[str, Any]:
        """What the model is shown, by role; by default the text in each column.

        Raises:
            InputError: a cell cannot be used.
        """
        roles = [role for role in self.task.columns if role not in ("id", self.target_role)]
        return {role: text_in(row, self.task.columns[role]) for role in roles}

    @abstractmethod
    def read_target(self, row: Row, column: str, inputs: dict[str, Any]) -> Any:
        """The right answer that stands in `column`.

        Raises:
            InputError: it is none, or does not fit `inputs`.
        """

    def _key(self, row: Row, number: int) -> str:
        for column in (self.task.columns.get("id", "id"), "index", "idx"):
            if row.cells.get(column) not in (None, ""):
                return str(row.cells[column])
        return str(number)

    @abstractmethod
    def learn(self, train: Sequence[Example]) -> None:
        """Take from the training data what the model has to know: its labels.

        Raises:
            InputError: there is nothing to learn.
        """

    def labels_of(self, example: Example) -> Sequence[str]:
        """The labels in a right answer: those that are counted, and must be known to the model."""
        return ()

    @property
    def known_labels(self) -> Collection[str]:
        """All that `labels_of` may give."""
        return self.labels

    def unknown_labels(self, example: Example) -> list[str]:
        """Labels of an example that the model has no output for."""
        return [label for label in self.labels_of(example) if label not in self.known_labels]

    def check(self, examples: Sequence[Example]) -> None:
        """Refuse examples that this kind, with its labels, cannot be scored on.

        Raises:
            InputError: labels that are unknown; the message names them all.
        """
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
        names = dict(enumerate(self.labels))
        return {"id2label": names, "label2id": {name: number for number, name in names.items()}}

    def begin(self, model: Any) -> None:
        """Undo `finish` in a model whose own head is trained on."""
        return

    def finish(self, model: Any) -> None:
        """Change a trained model so that it needs nothing of what this kind knows beside labels."""
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
        """Examples as tokens; in training, with targets."""

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

    @staticmethod
    def forward(model: Any, packed: Packed) -> tuple[Rows, Tensor]:
        """The model's `logits` of a packed batch, and how many rows of them each text has."""
        return text_logits(model, packed)

    @abstractmethod
    def decode(
        self,
        examples: Sequence[Example],
        features: Sequence[Feature],
        outputs: Sequence[Array],
        plan: FinetuningPlan,
    ) -> list[Prediction]:
        """A prediction for every example."""

    def tune(
        self, plan: FinetuningPlan, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> FinetuningPlan:
        """The plan with what is best decided on dev data."""
        return plan

    def decide(self, predictions: Sequence[Prediction], plan: FinetuningPlan) -> None:
        """Set each `answer` by what `tune` has found."""
        return

    def group(self, example: Example) -> Any:
        """What examples have in common that must not stand on both sides of a split; by default their texts."""
        return repr(example.inputs)

    def is_constant(self, answers: Sequence[Any]) -> bool:
        """Whether all answers are the same."""
        return len(set(map(str, answers))) == 1

    @abstractmethod
    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        """The task's metrics, the one that counts first."""

    def mistake(self, example: Example, prediction: Prediction) -> float:
        """How wrong an answer is; 0 where it is right. Here, of one answer among several with probabilities."""
        is_right = prediction["answer"] == example.target
        return 0.0 if is_right else 1 - prediction["probabilities"][example.target]

    def record(self, example: Example, prediction: Prediction) -> Prediction:
        """What `convbert predict` writes of a prediction."""
        return prediction

    def majority(self, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction] | None:
        """The answers of a baseline that has not read the texts; None where there is no sensible one."""
        (most_frequent, _), *_ = Counter(example.target for example in train).most_common(1)
        return [{"answer": most_frequent}] * len(examples)
