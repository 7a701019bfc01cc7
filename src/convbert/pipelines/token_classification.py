"""A label for every token, word or group of words, with its place in the text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import TokenClassificationPipeline

from convbert.errors import InputError
from convbert.pipelines.packed import PackedTexts, Part, Rows, check_is_text, count_tokens, lengths_of

STRATEGIES = ("none", "simple", "first", "average", "max")


class TokenClassification(PackedTexts, TokenClassificationPipeline):
    """transformers' `TokenClassificationPipeline` on packed batches.

    Keyword arguments: `aggregation_strategy` ("none", "simple", "first", "average" or "max"), `ignore_labels` (["O"] by
    default), `is_split_into_words` with `delimiter`, and for texts longer than the model reads `stride` (read them in
    windows that share so many tokens) or `truncation=True` (ignore the rest).
    """

    def _sanitize_parameters(
        self,
        stride: int | None = None,
        truncation: bool | None = None,
        aggregation_strategy: Any = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if isinstance(aggregation_strategy, str) and aggregation_strategy.lower() not in STRATEGIES:
            raise InputError(
                f"aggregation_strategy must be one of {', '.join(STRATEGIES)}; got {aggregation_strategy!r}"
            )
        preprocess, forward, postprocess = super()._sanitize_parameters(
            aggregation_strategy=aggregation_strategy, **kwargs
        )
        if stride is not None:
            room = self.max_length - self.tokenizer.num_special_tokens_to_add()
            if not 0 <= stride < room:
                raise InputError(f"stride must be at least 0 and below the {room} tokens of a window, got {stride}")
            preprocess["stride"] = stride
        if truncation is not None:
            preprocess["truncation"] = truncation
        return preprocess, forward, postprocess

    def preprocess(
        self,
        sentence: str | list[str],
        offset_mapping: Any = None,
        stride: int | None = None,
        truncation: bool = False,
        **params: Any,
    ) -> Iterator[Part]:
        """A text to windows of tokens: one, unless the text is too long.

        Raises:
            InputError: not a text, or longer than the model reads and neither `stride` nor `truncation` was asked for.
        """
        words = sentence if params["is_split_into_words"] and isinstance(sentence, list) else [sentence]
        for word in words:
            check_is_text(word)
        windows = {
            "max_length": self.max_length,
            "stride": stride or 0,
            "return_overflowing_tokens": True,
            "padding": True,
        }
        parts = super().preprocess(sentence, offset_mapping, tokenizer_params=windows, **params)
        unpadded = [_without_padding(part) for part in parts]
        if len(unpadded) > 1 and stride is None:
            if not truncation:
                special = self.tokenizer.num_special_tokens_to_add()
                length = sum(count_tokens(part) - special for part in unpadded) + special
                remedy = "read it in windows (stride=...) or cut it with truncation=True"
                self.check_length(length, " ".join(words), remedy)
            unpadded = unpadded[:1]
        yield from unpadded

    def _forward(self, packed: dict[str, Any]) -> tuple[Rows, Tensor]:
        return {"logits": self.model(**packed).logits[0]}, lengths_of(packed)

    def postprocess(self, all_outputs: list[Part], **params: Any) -> list[dict[str, Any]]:
        """Each window's tokens and their logits to labels; see transformers' class."""
        windows = [{**output, "logits": output["logits"][None]} for output in all_outputs]
        return super().postprocess(windows, **params)


def _without_padding(part: Part) -> Part:
    """The window's own tokens: the last window of a text is padded to the length of the others."""
    is_token = part["attention_mask"][0].bool()
    kept = is_token.nonzero().squeeze(1).tolist()
    cut = {name: x[:, is_token] for name, x in part.items() if isinstance(x, Tensor) and name != "offset_mapping"}
    if isinstance(part.get("offset_mapping"), Tensor):
        cut["offset_mapping"] = part["offset_mapping"][:, is_token]
    if part.get("word_ids") is not None:
        cut["word_ids"] = [part["word_ids"][index] for index in kept]
    return {**part, **cut}
