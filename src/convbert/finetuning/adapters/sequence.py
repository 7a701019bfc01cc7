"""One answer for a text or a pair of texts: a label, several labels, a number, or the continuation that fits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convbert.finetuning import metrics
from convbert.finetuning.adapters.base import TaskAdapter, Windows, check_length, cuts, mean_logits
from convbert.finetuning.cells import Report, label_in, list_in, one_name_each, same_label
from convbert.finetuning.data import Example, Feature, Prediction, softmax
from convbert.finetuning.metrics import Scores
from convbert.finetuning.readers import Row
from convbert.finetuning.recipes import FinetuningPlan
from convbert.inference.outputs import choice_logits
from convbert.inference.windows import share_windows
from convbert.model.heads.multiple_choice import ConvBertForMultipleChoice
from convbert.model.heads.sequence_classification import ConvBertForSequenceClassification
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError


class SequenceAdapter(TaskAdapter):
    """What the three have in common: the texts. Each says what its targets are as numbers."""

    model_class = ConvBertForSequenceClassification

    @abstractmethod
    def encode_target(self, target: Any) -> Any: ...

    def settle(self, examples: list[Example], path: Path, report: Report) -> Sequence[Example | InputError]:
        """One name for labels that are the same number; see `one_name_each`."""
        if not self.has_labels or not examples or examples[0].target is None:
            return examples
        names = one_name_each({label for example in examples for label in self.labels_of(example)})

        def renamed(target: Any) -> Any:
            if isinstance(target, str):
                return names.get(target, target)
            return tuple(sorted({names.get(label, label) for label in target}))

        return [replace(example, target=renamed(example.target)) for example in examples]

    def features(
        self,
        examples: Sequence[Example],
        tokenizer: ConvBertTokenizerFast,
        plan: FinetuningPlan,
        *,
        training: bool = False,
    ) -> list[Feature]:
        columns = [
            [example.inputs[role] for example in examples]
            for role in ("text", "text_pair")
            if role in self.task.columns
        ]
        found = []
        for texts in [columns, columns[::-1]][: 1 + (training and plan.both_orders and len(columns) > 1)]:
            tokens = read_pairs(tokenizer, texts, plan, training)
            for number, (example, encoding) in enumerate(zip(examples, tokens, strict=True)):
                target = self.encode_target(example.target) if training else None
                windows, is_cut = read_long(encoding, example.place, plan)
                for places in windows:
                    ids, types = shown(encoding, places)
                    is_windowed = len(windows) > 1
                    found.append(Feature(number, ids, types, target, None, is_cut, is_windowed))
        return found


class Classification(SequenceAdapter):
    """One label."""

    config = MappingProxyType({"problem_type": "single_label_classification"})

    def read_target(self, row: Row, column: str, inputs: dict[str, Any]) -> str:
        label = label_in(row.cells.get(column), row.place, column)
        known = self.task.values.get("label")  # the task may call it otherwise than the file
        if known is None:
            return same_label(label, self.labels)
        label = same_label(label, known)
        if label not in known and label not in known.values():
            raise InputError(
                f"{row.place}: the label {label!r} is unknown; {self.task.name} has {', '.join(known)}"
            )
        return known.get(label, label)

    def encode_target(self, target: str) -> int:
        return self.labels.index(target)

    def decode(self, example: Example, windows: Windows, plan: FinetuningPlan) -> Prediction:
        shares = softmax(mean_logits(windows))
        return {
            "answer": self.labels[int(shares.argmax())],
            "score": float(shares.max()),
            "probabilities": dict(zip(self.labels, map(float, shares), strict=True)),
        }

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        gold = [example.target for example in examples]
        answers = [prediction["answer"] for prediction in predictions]
        positive = (self.task.labels or self.labels)[1]  # the model's may be in another order
        rules: dict[str, Callable[..., float]] = {**metrics.METRICS}
        rules["positive_f1"] = partial(metrics.positive_f1, positive=positive)
        return {name: rules[name](gold, answers) for name in self.task.metrics}


class MultiLabel(SequenceAdapter):
    """Any number of labels; a cell holds a list, or names with commas between them."""

    config = MappingProxyType({"problem_type": "multi_label_classification"})

    def read_target(self, row: Row, column: str, inputs: dict[str, Any]) -> tuple[str, ...]:
        cell = list_in(row, column)
        names = [name for name in cell.split(",") if name.strip()] if isinstance(cell, str) else cell
        if not isinstance(names, list | tuple):
            raise InputError(f"{row.place}: {column} must be a list of labels, got {cell!r:.60}")
        labels = [same_label(label_in(name, row.place, column), self.labels) for name in names]
        if isinstance(cell, str) and any(mark in cell for mark in ";|"):
            raise InputError(
                f"{row.place}: {column} is {cell!r:.60}: write commas between labels, or a JSON list"
            )
        if len(set(labels)) < len(labels) and set(labels) <= {"0", "1", "True", "False"}:
            raise InputError(
                f"{row.place}: {column} must be a list of labels, and {cell!r:.60} says for each whether it holds: "
                "write their names"
            )
        return tuple(sorted(set(labels)))

    def encode_target(self, target: tuple[str, ...]) -> list[float]:
        return [float(name in target) for name in self.labels]

    def decode(self, example: Example, windows: Windows, plan: FinetuningPlan) -> Prediction:
        shares = 1 / (1 + np.exp(-mean_logits(windows)))
        return {
            "answer": [name for name, share in zip(self.labels, shares, strict=True) if share > 0.5],
            "probabilities": dict(zip(self.labels, map(float, shares), strict=True)),
        }

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        gold = [set(example.target) for example in examples]
        answers = [set(prediction["answer"]) for prediction in predictions]
        per_label = [
            metrics.positive_f1([name in g for g in gold], [name in a for a in answers], True)
            for name in self.labels
        ]
        scores = {"micro_f1": metrics.micro_f1(gold, answers), "macro_f1": float(np.mean(per_label))}
        return {name: scores[name] for name in self.task.metrics}


_HIGHEST = 1e30
"""Numbers beyond have squares that are none in fp32."""


class Regression(SequenceAdapter):
    """A number, learned in standard deviations from the mean; `rescale` puts both into the model's last layer."""

    has_labels = False
    config = MappingProxyType({"problem_type": "regression"})

    def __init__(self, task: Any, labels: Sequence[str] = ()) -> None:
        super().__init__(task, ("value",))
        self.mean, self.deviation = 0.0, 1.0

    def read_target(self, row: Row, column: str, inputs: dict[str, Any]) -> float:
        cell = row.cells.get(column)
        try:
            number = float(cell) if isinstance(cell, str | int | float) else float("nan")
        except (ValueError, OverflowError):
            number = float("nan")
        if not abs(number) < _HIGHEST or isinstance(cell, bool):
            raise InputError(f"{row.place}: {column} must be a number (below 1e30), got {cell!r:.60}")
        return number

    def learn(self, train: Sequence[Example]) -> None:
        targets = [example.target for example in train]
        self.mean, self.deviation = float(np.mean(targets)), float(np.std(targets))
        if self.deviation == 0:
            what = f"every training example has the value {targets[0]:g}: nothing to learn"
            raise InputError(f"{train[0].place}: {what}")

    def encode_target(self, target: float) -> float:
        return (target - self.mean) / self.deviation

    @torch.no_grad()
    def rescale(self, model: ConvBertForSequenceClassification, *, to_data: bool) -> None:
        """Exact, as the model's last layer is linear."""
        last = model.classifier.out_proj
        if to_data:
            last.weight.mul_(self.deviation)
            last.bias.mul_(self.deviation).add_(self.mean)
        else:
            last.bias.sub_(self.mean).div_(self.deviation)
            last.weight.div_(self.deviation)

    def decode(self, example: Example, windows: Windows, plan: FinetuningPlan) -> Prediction:
        return {"answer": float(mean_logits(windows)[0]) * self.deviation + self.mean}


def read_pairs(tokenizer: ConvBertTokenizerFast, texts: Any, plan: FinetuningPlan, training: bool) -> Any:
    """Texts or pairs as the tokenizers library has them: whole, or cut where the plan says so."""
    is_cut = cuts(plan, training)
    limit = plan.max_length if is_cut else None
    return tokenizer(*texts, truncation=is_cut, max_length=limit, verbose=False).encodings


def read_long(encoding: Any, place: str, plan: FinetuningPlan) -> tuple[Sequence[Sequence[int]], bool]:
    """The tokens of each window on a text or a pair, by their places; and whether some of it was cut."""
    check_length(len(encoding.ids), place, plan)
    if len(encoding.ids) > plan.max_length:
        return share_windows(encoding.sequence_ids, plan.max_length)
    return [range(len(encoding.ids))], bool(encoding.overflowing)


def shown(encoding: Any, places: Sequence[int]) -> tuple[list[int], list[int]]:
    """Ids and types of the tokens of a window."""
    return [encoding.ids[place] for place in places], [encoding.type_ids[place] for place in places]


class MultipleChoice(TaskAdapter):
    """The text is read with each choice, and the first token's state is scored. A choice with
    which the text is too long is read in windows, as any pair.
    """

    model_class = ConvBertForMultipleChoice
    pipeline = "multiple-choice"
    has_labels = False
    # One output, whatever the number of choices; and the first token, where transformers' default is the last.
    config = MappingProxyType({"num_labels": 1, "summary_type": "first"})

    def settle(self, examples: list[Example], path: Path, report: Report) -> Sequence[Example | InputError]:
        """A training batch is dense in choices: every example has as many as the first."""
        settled: list[Example | InputError] = []
        for example in examples:
            count, first = len(example.inputs["choices"]), len(examples[0].inputs["choices"])
            wrong = f"{example.place}: {count} choices, where the first row has {first}"
            settled.append(example if count == first else InputError(wrong))
        return settled

    def read_target(self, row: Row, column: str, inputs: dict[str, Any]) -> int:
        choices, cell = len(inputs["choices"]), row.cells.get(column)
        try:
            number = int(label_in(cell, row.place, column))
        except ValueError:  # InputError among them
            number = -1
        if not 0 <= number < choices:
            what = f"must be the number of a choice, 0 to {choices - 1}, got {cell!r}"
            raise InputError(f"{row.place}: {column} {what}")
        return number

    def features(
        self,
        examples: Sequence[Example],
        tokenizer: ConvBertTokenizerFast,
        plan: FinetuningPlan,
        *,
        training: bool = False,
    ) -> list[Feature]:
        found = []
        for number, example in enumerate(examples):
            choices = example.inputs["choices"]
            if "prefix" in example.inputs:
                choices = [f"{example.inputs['prefix']} {choice}" for choice in choices]
            texts = [example.inputs["text"]] * len(choices)
            tokens = read_pairs(tokenizer, (texts, choices), plan, training)
            rows: list[tuple[list[int], list[int]]] = []
            counts, is_cut = [], False
            for encoding in tokens:
                windows, is_cut_here = read_long(encoding, example.place, plan)
                rows += [shown(encoding, places) for places in windows]
                counts.append(len(windows))
                is_cut |= is_cut_here
            ids, types = map(list, zip(*rows, strict=True))
            target = example.target if training else None
            found.append(Feature(number, ids, types, target, counts, is_cut, is_windowed=max(counts) > 1))
        return found

    def collate(self, features: Sequence[Feature], pad_token_id: int) -> dict[str, Tensor]:
        """As `TaskAdapter.collate`, each (B, choices, T)."""
        rows = [Feature(0, *text[:2]) for feature in features for text in feature.texts]
        flat = super().collate(rows, pad_token_id)
        batch = {name: tensor.unflatten(0, (len(features), -1)) for name, tensor in flat.items()}
        if features[0].target is not None:
            batch["labels"] = torch.tensor([feature.target for feature in features])
        return batch

    forward = staticmethod(choice_logits)

    def decode(self, example: Example, windows: Windows, plan: FinetuningPlan) -> Prediction:
        ((feature, output),) = windows
        parts = np.split(np.ravel(output), np.cumsum(feature.detail)[:-1])
        logits = np.array([part.mean() for part in parts])
        return {"answer": int(logits.argmax()), "probabilities": [float(share) for share in softmax(logits)]}
