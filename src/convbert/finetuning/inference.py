"""Run a model over features, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from convbert.finetuning.data import Array, Example, Feature, Kind, Prediction
from convbert.finetuning.metrics import Scores
from convbert.finetuning.recipes import FinetuningPlan
from convbert.model import ConvBertPreTrainedModel
from convbert.training.batching import plan_batches

TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class Split:
    """Examples to be scored, as text and as tokens."""

    name: str
    kind: Kind
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
        outputs = run_features(model, self.kind, self.features, self.pad_token_id, autocast, tokens_per_batch)
        return self.kind.decode(self.examples, self.features, outputs, self.plan)

    def score(self, predictions: Sequence[Prediction]) -> Scores:
        """The task's metrics."""
        return self.kind.score(self.examples, predictions)


@torch.no_grad()
def run_features(
    model: ConvBertPreTrainedModel,
    kind: Kind,
    features: Sequence[Feature],
    pad_token_id: int,
    autocast: AbstractContextManager[object] | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> list[Array]:
    """What the model says of every feature, in their order; it is left in the mode it was in."""
    was_training = model.training
    model.eval()
    outputs: dict[int, Array] = {}
    with autocast or nullcontext():
        for numbers in plan_batches([feature.length for feature in features], tokens_per_batch):
            chosen = [features[number] for number in numbers]
            batch = kind.collate(chosen, pad_token_id)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            found = kind.outputs(model(**batch), [len(feature.input_ids) for feature in chosen])
            outputs.update(zip(numbers, found, strict=True))
    model.train(was_training)
    return [outputs[number] for number in range(len(features))]
