"""Texts as vectors: one per token, or one per text."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import FeatureExtractionPipeline

from convbert.inference.engine import Packed, Rows, Tokens
from convbert.inference.outputs import lengths_of, merge_vectors, text_vectors
from convbert.inference.pipelines.base import PackedPipeline
from convbert.inference.windows import Long
from convbert.util.errors import InputError

POOLINGS = ("mean", "first", "max")
AS_BEFORE = "as before"  # None has a meaning of its own


class FeatureExtraction(PackedPipeline, FeatureExtractionPipeline):
    """transformers' `FeatureExtractionPipeline` on packed batches, with pooling.

    A text that is too long is read in equally long windows that share no token: its vector is the mean of theirs,
    weighted with their tokens ("max": the largest of each number).

    Keyword Args:
        pooling: None gives the states of all tokens, (1, T, C), as transformers does; "mean", "first" or
            "max" one vector (C,) for the text. [CLS] and [SEP] count as its tokens.
        return_tensors: tensors in place of nested lists.
        long: "windows", "cut" or "refuse": what is done with a text of more than `max_length` tokens.
        truncation, max_length: True is "cut"; by default what the model reads.
        tokenize_kwargs, tokenizer_kwargs: the same, and more for the tokenizer.
    """

    def _sanitize_parameters(
        self,
        pooling: str | None = AS_BEFORE,
        tokenize_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        return_tensors: bool | None = None,
        long: Long | None = None,
        **tokenizer: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if pooling not in (None, AS_BEFORE, *POOLINGS):
            raise InputError(f"pooling must be None, {', '.join(POOLINGS)}; got {pooling!r}")
        chosen = {} if pooling == AS_BEFORE else {"pooling": pooling}
        return (
            self._for_encoding(long, {**(tokenize_kwargs or {}), **(tokenizer_kwargs or {})}, tokenizer),
            chosen,
            chosen if return_tensors is None else {**chosen, "return_tensors": return_tensors},
        )

    def preprocess(self, inputs: str, **tokenizer_kwargs: Any) -> list[Tokens]:
        """A text to tokens, of each of its windows."""
        return self.encode(inputs, **tokenizer_kwargs)

    def _forward(self, packed: Packed, pooling: str | None = None) -> tuple[Rows, Tensor]:
        if pooling is not None:
            return text_vectors(self.model, packed, pooling)
        return {"states": self.model(**packed).last_hidden_state[0]}, lengths_of(packed)

    def postprocess(
        self,
        model_outputs: list[tuple[Tokens, Rows]],
        pooling: str | None = None,
        return_tensors: bool = False,
    ) -> Any:
        """States (1, T, C) or vector (C,), as a tensor or as lists."""
        texts, rows = zip(*model_outputs, strict=True)
        if pooling is not None:
            result = merge_vectors(texts, rows, pooling)
        else:
            result = rows[0]["states"].new_empty(1, len(texts[0].detail.ids), rows[0]["states"].shape[-1])
            for text, own in reversed(
                model_outputs
            ):  # special tokens, which are in all windows: of the first
                result[0, text.detail.places] = own["states"]
        return result if return_tensors else result.tolist()
