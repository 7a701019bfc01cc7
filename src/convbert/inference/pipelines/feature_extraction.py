"""Texts as vectors: one per token, or one per text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import FeatureExtractionPipeline

from convbert.inference.pipelines.packed import PackedTexts, Part, Rows, lengths_of
from convbert.util.errors import InputError

POOLINGS = ("mean", "first", "max")
AS_BEFORE = "as before"  # None has a meaning of its own


class FeatureExtraction(PackedTexts, FeatureExtractionPipeline):
    """transformers' `FeatureExtractionPipeline` on packed batches, with pooling.

    Keyword arguments, on creation or per call:
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

    def preprocess(self, inputs: str, **tokenize_kwargs: Any) -> Part:
        """A text to tokens."""
        return self.encode(inputs, **tokenize_kwargs)

    def _forward(self, packed: dict[str, Any], pooling: str | None = None) -> tuple[Rows, Tensor]:
        states = self.model(**packed).last_hidden_state[0]
        lengths = lengths_of(packed)
        if pooling is None:
            return {"states": states}, lengths
        if pooling == "first":
            vectors = states[packed["cu_seq_lens_q"][:-1].long()]
        else:
            vectors = torch.segment_reduce(states.float(), pooling, lengths=lengths).to(states.dtype)
        return {"vectors": vectors}, torch.ones_like(lengths)

    def postprocess(self, model_outputs: Part, return_tensors: bool = False) -> Any:
        """States (1, T, C) or vector (C,), as a tensor or as lists."""
        if "vectors" in model_outputs:
            result = model_outputs["vectors"][0]
        else:
            result = model_outputs["states"][None]
        return result if return_tensors else result.tolist()
