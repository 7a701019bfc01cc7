"""Texts as vectors: one per token, or one per text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import FeatureExtractionPipeline

from convbert.errors import InputError
from convbert.pipelines.packed import PackedTexts, Part, Rows, lengths_of

POOLINGS = ("mean", "first", "max")


class FeatureExtraction(PackedTexts, FeatureExtractionPipeline):
    """transformers' `FeatureExtractionPipeline` on packed batches, with pooling.

    Keyword arguments: `pooling` (None: (1, T, C) states of all tokens, as transformers gives; "mean", "first" or "max":
    (C,) one vector for the text, over its tokens [CLS] and [SEP] included), `return_tensors=True` (tensors instead of
    nested lists), `truncation=True` and `tokenize_kwargs`.
    """

    def _sanitize_parameters(
        self,
        pooling: str | None = None,
        truncation: bool | str | None = None,
        tokenize_kwargs: dict[str, Any] | None = None,
        return_tensors: bool | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if pooling is not None and pooling not in POOLINGS:
            raise InputError(f"pooling must be None, {', '.join(POOLINGS)}; got {pooling!r}")
        cut = {} if truncation is None else {"truncation": truncation}
        return (
            {**(tokenize_kwargs or {}), **cut},
            {} if pooling is None else {"pooling": pooling},
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
