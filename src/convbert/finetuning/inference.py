"""Run a model over features, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.data import Array, Example, Feature, Prediction
from convbert.finetuning.metrics import Scores
from convbert.finetuning.recipes import FinetuningPlan
from convbert.inference.batching import plan_batches
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.util.errors import InputError

TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class Split:
    """Examples to be scored, as text and as tokens."""

    name: str
    adapter: TaskAdapter
    examples: list[Example]
    features: list[Feature]
    plan: FinetuningPlan
    pad_token_id: int

    def predict(
        self,
        model: ConvBertPreTrainedModel,
        autocast: AbstractContextManager[object] | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> list[Prediction]:
        """A prediction for every example."""
        outputs = run_features(
            model, self.adapter, self.features, self.pad_token_id, autocast, tokens_per_batch
        )
        return self.adapter.decode(self.examples, self.features, outputs, self.plan)

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


@torch.no_grad()
def run_features(
    model: ConvBertPreTrainedModel,
    adapter: TaskAdapter,
    features: Sequence[Feature],
    pad_token_id: int,
    autocast: AbstractContextManager[object] | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> list[Array]:
    """What the model says of every feature, in their order; it is left in the mode it was in.

    Raises:
        InputError: it says NaN or infinity.
    """
    was_training = model.training
    model.eval()
    outputs: dict[int, Array] = {}
    with autocast or nullcontext():
        for numbers in plan_batches([feature.length for feature in features], tokens_per_batch):
            chosen = [features[number] for number in numbers]
            batch = adapter.collate(chosen, pad_token_id)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            found = adapter.outputs(model(**batch), [len(feature.input_ids) for feature in chosen])
            if not all(np.isfinite(output).all() for output in found):
                raise InputError(
                    "the model's answer is NaN or infinite: its weights or its configuration are damaged"
                )
            outputs.update(zip(numbers, found, strict=True))
    model.train(was_training)
    return [outputs[number] for number in range(len(features))]
