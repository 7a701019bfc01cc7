"""Which of several continuations fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convbert.finetuning.adapters.base import TaskAdapter, Windows
from convbert.finetuning.adapters.sequence import cut_off
from convbert.finetuning.cells import Report, label_in
from convbert.finetuning.data import Example, Feature, Prediction, softmax
from convbert.finetuning.readers import Row
from convbert.finetuning.recipes import FinetuningPlan
from convbert.inference.outputs import choice_logits
from convbert.model.heads.multiple_choice import ConvBertForMultipleChoice
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError


class MultipleChoice(TaskAdapter):
    """The text is read with each choice, and the first token's state is scored."""

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
            tokens = tokenizer(texts, choices, truncation=True, max_length=plan.max_length)
            ids, types, is_cut = tokens["input_ids"], tokens["token_type_ids"], any(cut_off(tokens))
            found.append(Feature(number, ids, types, example.target if training else None, is_cut=is_cut))
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
        logits = np.ravel(windows[0][1])
        return {"answer": int(logits.argmax()), "probabilities": [float(share) for share in softmax(logits)]}
