"""Labels, with their probabilities, for a text or a pair of texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TextClassificationPipeline
from transformers.pipelines.text_classification import ClassificationFunction

from convbert.inference.engine import Packed, Rows, Tokens
from convbert.inference.outputs import text_logits
from convbert.inference.pipelines.base import PackedPipeline, check_whole
from convbert.inference.windows import Long
from convbert.util.errors import InputError

AS_BEFORE = ""  # None has a meaning of its own


class TextClassification(PackedPipeline, TextClassificationPipeline):
    """transformers' `TextClassificationPipeline` on packed batches.

    A text is a string, or {"text": ..., "text_pair": ...}. Of one that is too long, the answer is made of the mean of
    the logits of its windows, which are equally long and share no token; of a pair, the longer text is shared out, and
    the other one is in each window.

    Keyword Args:
        top_k: labels to give, best first; None gives all.
        function_to_apply: "softmax", "sigmoid" or "none"; by default the config's problem type decides.
        return_all_scores: of old programs; True gives all labels in their own order.
        long: "windows", "cut" or "refuse": what is done with a text of more than `max_length` tokens.
        truncation, max_length: True is "cut"; by default what the model reads.
        tokenizer_kwargs: the same, and more for the tokenizer.
    """

    def _sanitize_parameters(
        self,
        function_to_apply: Any = None,
        top_k: int | str | None = AS_BEFORE,
        return_all_scores: bool | None = None,
        long: Long | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **tokenizer: Any,
    ) -> Any:
        if function_to_apply is not None and str(
            getattr(function_to_apply, "name", function_to_apply)
        ).upper() not in (ClassificationFunction.__members__):
            raise InputError(
                f"function_to_apply must be 'softmax', 'sigmoid' or 'none', got {function_to_apply!r}"
            )
        if top_k != AS_BEFORE:
            check_whole("top_k", top_k)
        _, _, postprocess = super()._sanitize_parameters(function_to_apply=function_to_apply, top_k=top_k)
        if top_k == AS_BEFORE and return_all_scores is not None:
            postprocess["top_k"] = None if return_all_scores else 1
        return self._for_encoding(long, tokenizer_kwargs, tokenizer), {}, postprocess

    def preprocess(self, inputs: str | dict[str, str], **tokenizer_kwargs: Any) -> list[Tokens]:
        """A text or a pair to tokens, of each of its windows."""
        pair = inputs if isinstance(inputs, dict) else {"text": inputs}
        if "text" not in pair or not pair.keys() <= {"text", "text_pair"}:
            raise InputError(f"a pair is {{'text': ..., 'text_pair': ...}}, got the keys {sorted(pair)}")
        return self.encode(pair["text"], pair.get("text_pair"), **tokenizer_kwargs)

    def _forward(self, packed: Packed) -> tuple[Rows, Tensor]:
        return text_logits(self.model, packed)

    def postprocess(self, model_outputs: list[tuple[Tokens, Rows]], **params: Any) -> Any:
        """Logits to labels; see transformers' class."""
        logits = torch.stack([rows["logits"] for _, rows in model_outputs]).mean(0)
        return super().postprocess({"logits": logits}, **params)
