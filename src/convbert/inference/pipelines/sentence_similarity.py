"""How alike two texts are: the cosine of their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch

from convbert.inference.pipelines.base import listed
from convbert.inference.pipelines.feature_extraction import FeatureExtraction
from convbert.util.errors import InputError

OnError = Literal["raise", "return"]


class SentenceSimilarity(FeatureExtraction):
    """Cosines, from -1 to 1, of one text's vector and others', as the Hub's task of this name gives them.

        pipe("How tall is it?", ["What is its height?", "It rains."])  # [0.7, 0.0]

    A text's vector is its own folder's, see `FeatureExtraction`, or else the mean of its tokens.
    """

    def __call__(  # type: ignore[override]
        self, source_sentence: str | dict[str, Any], sentences: Sequence[str] | str | None = None
    ) -> Any:
        """A cosine for each of `sentences`, or one for a single string.

        Args:
            source_sentence: the text to compare with; or a dictionary with both, as the Hub's service takes it.
        """
        first: Any = source_sentence
        if isinstance(source_sentence, dict):
            first, sentences = (source_sentence.get(name) for name in ("source_sentence", "sentences"))
        others = [sentences] if isinstance(sentences, str) else listed(sentences)
        if not isinstance(others, list) or not others:
            raise InputError("give a source sentence and the sentences to compare it with, a list")
        vectors = self.vectors([first, *others])
        cosines = (vectors[1:] @ vectors[0]).tolist()
        return cosines[0] if isinstance(sentences, str) else cosines

    def vectors(self, texts: Sequence[Any]) -> torch.Tensor:
        """(N, C) fp32 vectors of length 1; an `InputError` for a text that cannot be used."""
        return torch.stack(list(self.vector_stream(texts, on_error="raise")))

    def vector_stream(self, texts: Iterable[Any], on_error: OnError = "return") -> Iterator[Any]:
        """Vectors (C,) one by one, see `stream`."""
        pooling: dict[str, Any] = {} if self.own else {"pooling": "mean"}
        found = self.stream(texts, on_error=on_error, normalize=True, return_tensors=True, **pooling)
        return (each if isinstance(each, InputError) else each.float() for each in found)
