"""Which of several texts goes best with another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convbert.inference.engine import Packed, Rows, Tokens
from convbert.inference.outputs import choice_logits
from convbert.inference.pipelines.base import PackedPipeline, check_whole
from convbert.util.errors import InputError


class MultipleChoice(PackedPipeline):
    """Choices of a text with their probabilities, best first; transformers has no such pipeline.

    An input is {"text": ..., "choices": [...]}, with two choices or more. Its result is a list of
    {"label": the choice, "score": ..., "index": its place among the choices}.

    Keyword Args:
        top_k: choices to give; None gives all.
        truncation, max_length: True cuts a text with a choice that is too long, for the model or for `max_length`.
        tokenizer_kwargs: the same, and more for the tokenizer.
    """

    def _sanitize_parameters(
        self, top_k: int | None = None, tokenizer_kwargs: dict[str, Any] | None = None, **tokenizer: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_whole("top_k", top_k)
        return self._for_tokenizer(tokenizer_kwargs, tokenizer), {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs: dict[str, Any], **tokenizer_kwargs: Any) -> list[Tokens]:
        """The text with each of its choices to tokens."""
        if not isinstance(inputs, dict) or inputs.keys() != {"text", "choices"}:
            raise InputError("an input is {'text': ..., 'choices': [...]}")
        text, choices = inputs["text"], inputs["choices"]
        if not isinstance(choices, list | tuple) or len(choices) < 2:
            raise InputError("'choices' must be a list of two texts or more")
        return [self.encode(text, each, **tokenizer_kwargs)._replace(detail=each) for each in choices]

    def _forward(self, packed: Packed) -> tuple[Rows, Tensor]:
        return choice_logits(self.model, packed)

    def postprocess(
        self, model_outputs: list[tuple[Tokens, Rows]], top_k: int | None = None
    ) -> list[dict[str, Any]]:
        """A logit of each choice to probabilities."""
        scores = torch.cat([rows["logits"].flatten() for _, rows in model_outputs]).softmax(0)
        order = scores.argsort(descending=True, stable=True).tolist()[:top_k]
        return [
            {"label": model_outputs[index][0].detail, "score": scores[index].item(), "index": index}
            for index in order
        ]
