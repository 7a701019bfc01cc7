"""A part of the data as examples and features, and what a model says of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.data import Array, Example, Feature, Prediction
from convbert.finetuning.metrics import Scores
from convbert.finetuning.recipes import FinetuningPlan
from convbert.inference.engine import MAX_TOKENS, AnswerTask, Engine, Rows
from convbert.inference.loading import unwrap
from convbert.util.errors import InputError


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
