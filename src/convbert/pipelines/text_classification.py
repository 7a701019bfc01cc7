"""Labels, with their probabilities, for a text or a pair of texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TextClassificationPipeline

from convbert.errors import InputError
from convbert.pipelines.packed import PackedTexts, Part, Rows


class TextClassification(PackedTexts, TextClassificationPipeline):
    """transformers' `TextClassificationPipeline` on packed batches.

    A text is a string, or {"text": ..., "text_pair": ...}.

    Keyword arguments, on creation or per call:
        top_k: labels to give, best first; None gives all.
        function_to_apply: "softmax", "sigmoid" or "none"; by default the config's problem type decides.
        truncation: True cuts a text that is too long; like all else, it goes to the tokenizer.
    """

    def _sanitize_parameters(self, function_to_apply: Any = None, **kwargs: Any) -> Any:
        try:
            return super()._sanitize_parameters(function_to_apply=function_to_apply, **kwargs)
        except KeyError as error:
            raise InputError(
                f"function_to_apply must be 'softmax', 'sigmoid' or 'none', got {function_to_apply!r}"
            ) from error

    def preprocess(self, inputs: str | dict[str, str], **tokenizer_kwargs: Any) -> Part:
        """A text or a pair to tokens."""
        pair = inputs if isinstance(inputs, dict) else {"text": inputs}
        if "text" not in pair or not pair.keys() <= {"text", "text_pair"}:
            raise InputError(f"a pair is {{'text': ..., 'text_pair': ...}}, got the keys {sorted(pair)}")
        return self.encode(**pair, **tokenizer_kwargs)

    def _forward(self, packed: dict[str, Any]) -> tuple[Rows, Tensor]:
        is_first = packed["position_ids"] == 0
        logits = self.model.classifier(
            self.model.convbert(**packed, positions_to_keep=is_first).last_hidden_state
        )
        return {"logits": logits}, torch.ones(len(logits), dtype=torch.long)
