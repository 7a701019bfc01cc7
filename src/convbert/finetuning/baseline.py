"""Answers of a baseline that has not read the texts, and whether a model is no more than that."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.data import Example, Prediction, Split


def majority(adapter: TaskAdapter, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
    """The commonest answer of the training data, or the mean; of a word, the tag it has most often. To questions: no
    answer, where that may be right; else the first three words of the context, as many as one often has.
    """
    task = adapter.task
    targets = [example.target for example in train]
    if task.kind == "question-answering":
        if task.answers_may_be_missing:
            return [{"answer": "", "best_span": "", "null_odds": 1.0}] * len(examples)
        return [{"answer": " ".join(example.inputs["context"].split()[:3])} for example in examples]
    if task.kind == "tagging":
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for example in train:
            for word, tag in zip(example.inputs["tokens"], example.target, strict=True):
                counts[word][tag] += 1
        overall = sum(counts.values(), Counter()).most_common(1)[0][0]
        usual = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
        return [{"answer": [usual.get(word, overall) for word in each.inputs["tokens"]]} for each in examples]
    if task.kind == "regression":
        answer: Any = float(np.mean(targets))
    elif task.kind == "multi-label":
        counted = Counter(label for target in targets for label in target)
        often = [label for label in adapter.labels if counted[label] > len(train) / 2]
        answer = often or [max(adapter.labels, key=counted.__getitem__)]
    else:
        answer = Counter(targets).most_common(1)[0][0]
    return [{"answer": answer}] * len(examples)


def is_constant(adapter: TaskAdapter, answers: Sequence[Any]) -> bool:
    """Whether all answers are the same, of tags those of all words; of numbers, whether they differ by less than a
    hundredth of
    the training data's deviation, or are NaN.
    """
    if adapter.task.kind == "regression":
        return not np.ptp(answers) > 0.01 * getattr(adapter, "deviation", 1.0)
    if adapter.task.kind == "tagging":
        answers = [tag for tags in answers for tag in tags]
    return len(set(map(str, answers))) == 1


def has_collapsed(split: Split, predictions: Sequence[Prediction]) -> bool:
    """Whether all answers are the same, and should not be: the model has learned nothing, or its weights are no numbers
    any more."""
    answers = [prediction["answer"] for prediction in predictions]
    targets = [example.target for example in split.examples]
    return is_constant(split.adapter, answers) and not is_constant(split.adapter, targets)
