"""Texts as vectors: one per token, or one per text."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import FeatureExtractionPipeline

from convbert.inference.engine import Packed, Rows, Tokens
from convbert.inference.outputs import lengths_of, text_vectors
from convbert.inference.pipelines.base import PackedPipeline
from convbert.util.errors import InputError

POOLINGS = ("mean", "first", "max")
AS_BEFORE = "as before"  # None has a meaning of its own


class FeatureExtraction(PackedPipeline, FeatureExtractionPipeline):
    """transformers' `FeatureExtractionPipeline` on packed batches, with pooling.

    Keyword Args:
        pooling: None gives the states of all tokens, (1, T, C), as transformers does; "mean", "first" or
            "max" one vector (C,) for the text. [CLS] and [SEP] count as its tokens.
        return_tensors: tensors in place of nested lists.
        truncation, max_length: True cuts a text that is too long, for the model or for `max_length`.
        tokenize_kwargs, tokenizer_kwargs: the same, and more for the tokenizer.
    """

    def _sanitize_parameters(
        self,
        pooling: str | None = AS_BEFORE,
        tokenize_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        return_tensors: bool | None = None,
        **tokenizer: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if pooling not in (None, AS_BEFORE, *POOLINGS):
            raise InputError(f"pooling must be None, {', '.join(POOLINGS)}; got {pooling!r}")
        return (
            self._for_tokenizer({**(tokenize_kwargs or {}), **(tokenizer_kwargs or {})}, tokenizer),
            {} if pooling == AS_BEFORE else {"pooling": pooling},
            {} if return_tensors is None else {"return_tensors": return_tensors},
        )

    def preprocess(self, inputs: str, **tokenizer_kwargs: Any) -> list[Tokens]:
        """A text to tokens."""
        return [self.encode(inputs, **tokenizer_kwargs)]

    def _forward(self, packed: Packed, pooling: str | None = None) -> tuple[Rows, Tensor]:
        if pooling is not None:
            return text_vectors(self.model, packed, pooling)
        return {"states": self.model(**packed).last_hidden_state[0]}, lengths_of(packed)

    def postprocess(self, model_outputs: list[tuple[Tokens, Rows]], return_tensors: bool = False) -> Any:
        """States (1, T, C) or vector (C,), as a tensor or as lists."""
        ((_, rows),) = model_outputs
        result = rows["vector"][0] if "vector" in rows else rows["states"][None]
        return result if return_tensors else result.tolist()
