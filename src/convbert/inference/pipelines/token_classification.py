"""A label for every token, word or group of words, with its place in the text."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import TokenClassificationPipeline

from convbert.inference.engine import Packed, Rows, Tokens
from convbert.inference.outputs import token_logits
from convbert.inference.pipelines.base import PackedPipeline, check_is_text
from convbert.inference.tags import Part as TagPart
from convbert.inference.tags import group_tags, scheme_of
from convbert.inference.windows import OVERLAP, Long
from convbert.util.errors import InputError

STRATEGIES = ("none", "simple", "first", "average", "max")


class TokenClassification(PackedPipeline, TokenClassificationPipeline):
    """transformers' `TokenClassificationPipeline` on packed batches.

    A text that is too long is read in overlapping windows; where they differ, the longer entity counts, or the more
    probable one. (transformers silently cuts such a text.) Labels of any scheme make entities, as in `convbert
    predict`: BIO, BILOU, `PER-B`, ...

    Keyword Args:
        long: "windows", "cut" or "refuse": what is done with a text of more tokens than the model reads.
        stride: tokens that neighbouring windows share; by default a quarter.
        truncation: True is "cut".
        aggregation_strategy: "none", "simple", "first", "average" or "max": how tokens become entities.
        grouped_entities, ignore_subwords: of old programs; "simple", or "first" with both, "none" without the first.
        ignore_labels: labels to leave out; ["O"] by default.
        is_split_into_words, delimiter: the text comes as a list of words.
    """

    def _sanitize_parameters(
        self,
        stride: int | None = None,
        long: Long | None = None,
        truncation: bool | None = None,
        aggregation_strategy: Any = None,
        ignore_labels: list[str] | None = None,
        offset_mapping: Any = None,
        is_split_into_words: bool = False,
        delimiter: str | None = None,
        grouped_entities: bool | None = None,
        ignore_subwords: bool | None = None,
        padding: Any = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if aggregation_strategy is None and not (grouped_entities is None and ignore_subwords is None):
            aggregation_strategy = ("first" if ignore_subwords else "simple") if grouped_entities else "none"
        if not self.tokenizer.is_fast:
            raise InputError("token classification needs offsets, which only ConvBertTokenizerFast has")
        name = str(getattr(aggregation_strategy, "value", aggregation_strategy)).lower()
        if aggregation_strategy is not None and name not in STRATEGIES:
            raise InputError(
                f"aggregation_strategy must be one of {', '.join(STRATEGIES)}; got {aggregation_strategy!r}"
            )
        preprocess, forward, postprocess = super()._sanitize_parameters(
            ignore_labels=[ignore_labels] if isinstance(ignore_labels, str) else ignore_labels,
            aggregation_strategy=aggregation_strategy,
            offset_mapping=offset_mapping,
            is_split_into_words=is_split_into_words,
            delimiter=delimiter,
        )
        if stride is not None:
            if not isinstance(stride, int) or not 0 <= stride < self._room:
                raise InputError(
                    f"stride must be at least 0 and below the {self._room} tokens of a window, got {stride}"
                )
            preprocess["stride"] = stride
        if "long" in (chosen := self._for_long(long, truncation)):
            preprocess["long"] = chosen["long"]
        return preprocess, forward, postprocess

    @property
    def _room(self) -> int:
        """Tokens of a window, without special ones."""
        return self.max_length - self.tokenizer.num_special_tokens_to_add()

    def preprocess(
        self,
        sentence: str | list[str],
        offset_mapping: Any = None,
        stride: int | None = None,
        long: Long = "windows",
        **params: Any,
    ) -> list[Tokens]:
        """A text to windows of tokens: one, unless it is too long."""
        is_split = params["is_split_into_words"] and isinstance(sentence, list)
        words: list[Any] = list(sentence) if is_split else [sentence]
        for word in words:
            check_is_text(word)
        windows = {
            "max_length": self.max_length,
            "stride": self._room // OVERLAP if stride is None else stride,
            "return_overflowing_tokens": True,
            "padding": True,
        }
        parts = super().preprocess(sentence, offset_mapping, tokenizer_params=windows, **params)
        texts = [_without_padding(part) for part in parts]
        if len(texts) > 1:
            shared = windows["stride"] + self.tokenizer.num_special_tokens_to_add()
            length = sum(len(text.input_ids) - shared for text in texts) + shared
            self.count_long(long, length, self.max_length, " ".join(words))
            texts = texts[:1] if long == "cut" else texts
        for text in texts:
            self.unknown.add(text.input_ids, " ".join(words))
        return texts

    def _forward(self, packed: Packed) -> tuple[Rows, Tensor]:
        return token_logits(self.model, packed)

    def postprocess(self, model_outputs: list[tuple[Tokens, Rows]], **params: Any) -> list[dict[str, Any]]:
        """Each window's tokens and their logits to labels; see transformers' class."""
        windows = [{**text.detail, "logits": rows["logits"][None]} for text, rows in model_outputs]
        return super().postprocess(windows, **params)

    def gather_pre_entities(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """As transformers', which tells a word's later pieces by their lengths: wrong where marks were stripped."""
        found: list[dict[str, Any]] = super().gather_pre_entities(*args, **kwargs)
        if prefix := getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None):
            for token in found:
                token["is_subword"] = token["word"].startswith(prefix) and token["word"] != prefix
        return found

    def group_entities(self, entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tokens or words that belong together, also those outside of entities."""
        names = [entity["entity"] for entity in entities]
        return [
            {**self.group_sub_entities(entities[first : last + 1]), "entity_group": kind or "O"}
            for kind, first, last in group_tags(names, self._tag_parts)
        ]

    @property
    def _tag_parts(self) -> dict[str, TagPart]:
        """What each label says; one that says nothing of where spans begin is a type of its own."""
        labels = frozenset(self.model.config.id2label.values())
        scheme = scheme_of(labels)
        parts = scheme.parts if scheme.marks_spans else {}
        return {**{label: ("I", label) for label in labels}, "O": ("O", ""), **parts}


def _without_padding(part: dict[str, Any]) -> Tokens:
    """The window's own tokens: the last window of a text is padded to the length of the others."""
    is_token = part["attention_mask"][0].bool()
    own = {name: x[:, is_token] if isinstance(x, Tensor) else x for name, x in part.items()}
    if part.get("word_ids") is not None:
        own["word_ids"] = [word for word, is_kept in zip(part["word_ids"], is_token, strict=True) if is_kept]
    return Tokens(own["input_ids"][0].tolist(), own["token_type_ids"][0].tolist(), own)
