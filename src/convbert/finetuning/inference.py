"""A part of the data as examples and features, and what a model says of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
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

    def loss(self, predictions: Sequence[Prediction]) -> float | None:
        """The mean loss, as in training; None where predictions lack the probabilities that it takes."""
        losses = [_loss(self.adapter, *pair) for pair in zip(self.examples, predictions, strict=True)]
        return None if None in losses else float(np.mean(np.array(losses, dtype=float)))


def _loss(adapter: TaskAdapter, example: Example, prediction: Prediction) -> float | None:
    target, shares = example.target, prediction.get("probabilities")
    if isinstance(target, float):
        return float(((prediction["answer"] - target) / getattr(adapter, "deviation", 1.0)) ** 2)
    if shares is None:
        return None
    if isinstance(target, tuple):  # of several labels, each is a question of its own
        right = [share if name in target else 1 - share for name, share in shares.items()]
    else:
        right = [shares[target]]
    return float(-np.log(np.maximum(right, 1e-12)).mean())


def run_features(
    model: nn.Module,
    adapter: TaskAdapter,
    features: Sequence[Feature],
    max_tokens: int = MAX_TOKENS,
) -> list[Array]:
    """What the model says of every feature, in their order; it is left in the mode it was in.

    Raises:
        InputError: it says NaN or infinity.
    """
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
