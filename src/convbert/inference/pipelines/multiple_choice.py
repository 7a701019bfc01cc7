"""Which of several texts goes best with another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convbert.inference.engine import Packed, Rows, Tokens
from convbert.inference.outputs import choice_logits
from convbert.inference.pipelines.base import PackedPipeline, check_whole
from convbert.inference.windows import Long
from convbert.util.errors import InputError


class MultipleChoice(PackedPipeline):
    """Choices of a text with their probabilities, best first; transformers has no such pipeline.

    An input is {"text": ..., "choices": [...]}, with two choices or more. Its result is a list of
    {"label": the choice, "score": ..., "index": its place among the choices}. Where the text with a choice is too long,
    the choice has the mean of the logits of its windows, as pairs in text classification have.

    Keyword Args:
        top_k: choices to give; None gives all.
        long: "windows", "cut" or "refuse": what is done with a text and a choice of more than `max_length` tokens.
        truncation, max_length: True is "cut"; by default what the model reads.
        tokenizer_kwargs: the same, and more for the tokenizer.
    """

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        long: Long | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **tokenizer: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_whole("top_k", top_k)
        encoding = self._for_encoding(long, tokenizer_kwargs, tokenizer)
        return encoding, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs: dict[str, Any], **tokenizer_kwargs: Any) -> list[Tokens]:
        """The text with each of its choices to tokens, of each of its windows."""
        if not isinstance(inputs, dict) or inputs.keys() != {"text", "choices"}:
            raise InputError("an input is {'text': ..., 'choices': [...]}")
        text, choices = inputs["text"], inputs["choices"]
        if not isinstance(choices, list | tuple) or len(choices) < 2:
            raise InputError("'choices' must be a list of two texts or more")
        windowed, cut = self.windowed, self.cut
        found = [self.encode(text, each, **tokenizer_kwargs) for each in choices]
        # One input, however many of its choices are too long.
        self.windowed, self.cut = windowed + (self.windowed > windowed), cut + (self.cut > cut)
        return [
            window._replace(detail=(index, choices[index]))
            for index, windows in enumerate(found)
            for window in windows
        ]

    def _forward(self, packed: Packed) -> tuple[Rows, Tensor]:
        return choice_logits(self.model, packed)

    def postprocess(
        self, model_outputs: list[tuple[Tokens, Rows]], top_k: int | None = None
    ) -> list[dict[str, Any]]:
        """The logits of each choice to probabilities."""
        logits: dict[tuple[int, str], list[Tensor]] = {}
        for window, rows in model_outputs:
            logits.setdefault(window.detail, []).append(rows["logits"].flatten())
        scores = torch.cat([torch.stack(each).mean(0) for each in logits.values()]).softmax(0)
        choices = [choice for _, choice in logits]
        order = scores.argsort(descending=True, stable=True).tolist()[:top_k]
        return [{"label": choices[index], "score": scores[index].item(), "index": index} for index in order]
