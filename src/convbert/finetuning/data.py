"""Examples, their features, and a part of the data that a model answers; and small helpers that tasks share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from convbert.inference.engine import MAX_TOKENS, AnswerTask, Engine, Rows, Tokens
from convbert.inference.loading import unwrap
from convbert.util.errors import InputError

if TYPE_CHECKING:
    from convbert.finetuning.adapters.base import TaskAdapter
    from convbert.finetuning.metrics import Scores
    from convbert.finetuning.recipes import FinetuningPlan

Prediction = dict[str, Any]
"""What a model says of an example, as written to a file; `answer` is what is scored."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Example:
    """One example.

    Args:
        place, key: where it stands, for messages ("train.tsv: line 17"); its name in files of predictions.
        inputs: what the model is shown, by role: see `Task`.
        target: the right answer; None in test data.
    """

    place: str
    key: str
    inputs: dict[str, Any]
    target: Any = None


@dataclass(frozen=True)
class Feature:
    """An example, or a window on it, as tokens.

    Args:
        example: its number.
        input_ids, token_type_ids: (T,), or one such list for each choice.
        target: what the model is trained on, as numbers.
        detail: what its adapter needs to find the way back from tokens to text.
        is_cut: whether some of the text was left out, as it is too long.
        is_windowed: whether this is one of several windows on it, or holds several.
    """

    example: int
    input_ids: list[Any]
    token_type_ids: list[Any]
    target: Any = None
    detail: Any = None
    is_cut: bool = False
    is_windowed: bool = False

    @property
    def texts(self) -> list[Tokens]:
        """The text, or each choice, as an engine reads it."""
        if isinstance(self.input_ids[0], list):
            return [Tokens(*pair, self) for pair in zip(self.input_ids, self.token_type_ids, strict=True)]
        return [Tokens(self.input_ids, self.token_type_ids, self)]

    @property
    def length(self) -> int:
        """Tokens, of all choices together."""
        return sum(len(text.input_ids) for text in self.texts)


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(B, T) int64, T the longest row."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def counted(counts: Counter[str], most: int = 20) -> str:
    """Names with their counts, the most frequent first."""
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(most))
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "")


def order_labels(names: set[str]) -> tuple[str, ...]:
    """Numbers by value, words by alphabet, which also orders those of equal value."""
    ordered = sorted(names)
    try:
        return tuple(sorted(ordered, key=float))
    except ValueError:
        return tuple(ordered)


@dataclass(frozen=True)
class Split:
    """Examples to be scored, as text and as tokens."""

    name: str
    adapter: TaskAdapter
    examples: list[Example]
    features: list[Feature]
    plan: FinetuningPlan

    @property
    def is_labelled(self) -> bool:
        """Whether there are right answers, for all or for none."""
        return self.examples[0].target is not None

    def predict(
        self,
        model: nn.Module,
        autocast: AbstractContextManager[object] | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> list[Prediction]:
        """A prediction for every example."""
        with autocast or nullcontext():
            outputs = run_features(model, self.adapter, self.features, max_tokens)
        return self.adapter.predict(self.examples, self.features, outputs, self.plan)

    def score(self, predictions: Sequence[Prediction]) -> Scores:
        """The task's metrics."""
        return self.adapter.score(self.examples, predictions)


def run_features(
    model: nn.Module,
    adapter: TaskAdapter,
    features: Sequence[Feature],
    max_tokens: int = MAX_TOKENS,
) -> list[Array]:
    """What the model says of every feature, in their order; an `InputError` where that is NaN or infinity."""
    task = AnswerTask(
        lambda feature: feature.texts,
        partial(adapter.forward, unwrap(model)),
        lambda feature, texts, rows: array_of(rows),
    )
    outputs = list(Engine(model, task, max_tokens).answer(features, on_error="return"))
    for output in outputs:
        if isinstance(output, InputError):
            raise output
    return outputs


def array_of(rows: Sequence[Rows]) -> Array:
    """The logits of a feature: a row for each of its texts, or of its tokens."""
    return torch.cat([each["logits"] for each in rows]).numpy()
