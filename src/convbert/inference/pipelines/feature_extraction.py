"""Texts as vectors: one per token, or one per text."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import normalize as unit_length
from transformers import FeatureExtractionPipeline

from convbert.files.sentence_modules import read_sentence_modules
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
            "max" one vector (C,) for the text. [CLS] and [SEP] count as its tokens. By default what the model's folder
            says where sentence-transformers can read it (`modules.json`), else None.
        normalize: make vectors of length 1; by default what the folder says, where its own pooling is taken.
        return_tensors: tensors in place of nested lists.
        truncation, max_length: True cuts a text that is too long, for the model or for `max_length`.
        tokenize_kwargs, tokenizer_kwargs: the same, and more for the tokenizer.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.own = read_sentence_modules(getattr(self.model, "name_or_path", ""))

    def _sanitize_parameters(
        self,
        pooling: str | None = AS_BEFORE,
        normalize: bool | None = None,
        tokenize_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        return_tensors: bool | None = None,
        **tokenizer: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if pooling not in (None, AS_BEFORE, *POOLINGS):
            raise InputError(f"pooling must be None, {', '.join(POOLINGS)}; got {pooling!r}")
        return (
            self._for_tokenizer({**(tokenize_kwargs or {}), **(tokenizer_kwargs or {})}, tokenizer),
            {
                **({} if pooling == AS_BEFORE else {"pooling": pooling}),
                **({} if normalize is None else {"normalize": normalize}),
            },
            {} if return_tensors is None else {"return_tensors": return_tensors},
        )

    def preprocess(self, inputs: str, **tokenizer_kwargs: Any) -> list[Tokens]:
        """A text to tokens."""
        return [self.encode(inputs, **tokenizer_kwargs)]

    def _forward(
        self, packed: Packed, pooling: str | None = AS_BEFORE, normalize: bool | None = None
    ) -> tuple[Rows, Tensor]:
        if pooling == AS_BEFORE:
            pooling = self.own and self.own.how
            normalize = bool(self.own and self.own.normalized) if normalize is None else normalize
        if pooling is not None:
            rows, counts = text_vectors(self.model, packed, pooling)
            return {"vector": unit_length(rows["vector"])} if normalize else rows, counts
        return {"states": self.model(**packed).last_hidden_state[0]}, lengths_of(packed)

    def postprocess(self, model_outputs: list[tuple[Tokens, Rows]], return_tensors: bool = False) -> Any:
        """States (1, T, C) or vector (C,), as a tensor or as lists."""
        ((_, rows),) = model_outputs
        result = rows["vector"][0] if "vector" in rows else rows["states"][None]
        return result if return_tensors else result.tolist()
