"""What all pipelines share: many texts are sorted by length and run end to end, without padding."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.pipelines.base import ChunkPipeline, Pipeline

from convbert.errors import InputError
from convbert.training.batching import plan_batches

MAX_TOKENS = 4096
# Texts are sorted by length within so many batches: enough for even batches, few enough for constant memory.
SORTED_BATCHES = 8

Part = dict[str, Any]  # what the tokenizer made of a text, or of one window of a long text
Rows = dict[str, Tensor]  # results of a batch, the rows of its texts one after the other


class PackedTexts(Pipeline):
    """A transformers pipeline that packs texts by a budget of tokens, with results in the order of the input.

    A string gives one result, a list gives a list, and an iterator (a generator, an open file) gives an
    iterator that reads ahead a bounded number of texts. A result does not depend on the texts beside it.
    `num_workers` has no effect.

    A subclass has `preprocess` (a text to a part), `_forward` (a batch to rows) and `postprocess` (the parts
    of a text, each with its rows, to a result).

    Args:
        max_tokens: tokens in one batch; a longer text makes a batch of its own.
        batch_size: texts (or windows) in one batch, at most. By default the tokens alone decide.

    Attributes:
        cut: texts so far that were too long and that `truncation` cut (with a fast tokenizer, which knows it).
    """

    def __init__(self, *, max_tokens: int = MAX_TOKENS, **kwargs: Any) -> None:
        if max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, got {max_tokens}")
        self.max_tokens, self.cut = max_tokens, 0
        super().__init__(**kwargs)

    def __call__(self, inputs: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> Any:
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        if hasattr(inputs, "__getitem__") and not isinstance(inputs, Iterable | str | dict):
            data = inputs  # a data set by number, whose end its length says
            inputs = (data[number] for number in range(len(data)))
        elif isinstance(inputs, Iterator):
            # Of all iterators, transformers' pipelines know generators alone.
            inputs = (text for text in inputs)
        most_texts = batch_size or self._batch_size or sys.maxsize
        return super().__call__(inputs, *args, batch_size=most_texts, **kwargs)

    def stream(self, texts: Iterable[Any], **kwargs: Any) -> Iterator[Any]:
        """Results one by one, in order, in memory that does not grow with the number of texts.

        Raises:
            InputError: a text cannot be used. The message has its number; the results before it have been
                given.
        """
        return iter(self((text for text in texts), **kwargs))

    # -- a text to a part

    @property
    def max_length(self) -> int:
        """Tokens that fit into the model, special ones included."""
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def encode(self, text: str, text_pair: str | None = None, **tokenizer_kwargs: Any) -> Part:
        """Tokens of a text or of a pair: `input_ids` and `token_type_ids`, both (1, T), among others.

        Raises:
            InputError: not a string, or too long and not to be truncated.
        """
        check_is_text(text)
        # Padding never changes a result, and there is no room for it in a packed batch.
        wanted = {key: value for key, value in tokenizer_kwargs.items() if "pad" not in key}
        if wanted.get("truncation"):
            wanted.setdefault("max_length", self.max_length)
        encoded = self.tokenizer(text, text_pair, return_tensors="pt", verbose=False, **wanted)
        self.cut += bool(encoded.encodings and encoded.encodings[0].overflowing)
        part = dict(encoded)
        self.check_length(part["input_ids"].shape[1], text)
        return part

    def check_length(self, length: int, text: str, remedy: str = "cut it with truncation=True") -> None:
        """Refuse a text of more tokens than the model has positions."""
        if length > self.max_length:
            raise InputError(
                f"{excerpt(text)} is {length} tokens long and the model reads {self.max_length}; {remedy}"
            )

    # -- parts to results

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """Called by transformers' `__call__` in place of its own loop over padded batches."""
        is_windowed = isinstance(self, ChunkPipeline)
        for texts, error in self._read_ahead(inputs, preprocess_params):
            for outputs in self._run_texts(texts, batch_size, forward_params):
                yield self.postprocess(outputs if is_windowed else outputs[0], **postprocess_params)
            if error is not None:
                raise error

    def run_single(
        self,
        inputs: Any,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Any:
        """Called by transformers' `__call__` for an input that is not a list."""
        params = (preprocess_params, forward_params, postprocess_params)
        return next(iter(self.get_iterator([inputs], 0, 1, *params)))

    def _read_ahead(
        self, inputs: Iterable[Any], preprocess_params: dict[str, Any]
    ) -> Iterator[tuple[list[list[Part]], InputError | None]]:
        """The parts of the next texts, and what was wrong with the text after them.

        The first portion is small, so that whoever waits for the first results waits for one batch only.
        """
        portion = self.max_tokens
        texts: list[list[Part]] = []
        tokens = 0
        is_alone = isinstance(inputs, list) and len(inputs) == 1
        for number, item in enumerate(inputs, start=1):
            try:
                parts = self._parts(item, preprocess_params)
            except InputError as error:
                yield texts, error if is_alone else InputError(f"text {number}: {error}")
                return
            texts.append(parts)
            tokens += sum(map(count_tokens, parts))
            if tokens >= portion:
                yield texts, None
                texts, tokens = [], 0
                portion = min(2 * portion, SORTED_BATCHES * self.max_tokens)
        yield texts, None

    def _parts(self, item: Any, preprocess_params: dict[str, Any]) -> list[Part]:
        made = self.preprocess(item, **preprocess_params)
        return list(made) if isinstance(self, ChunkPipeline) else [made]

    def _run_texts(
        self, texts: list[list[Part]], most_texts: int, forward_params: dict[str, Any]
    ) -> Iterator[list[Part]]:
        """Each text's parts, each with its rows of the results added."""
        parts = [part for text in texts for part in text]
        outputs: dict[int, Part] = {}
        for batch in plan_batches([count_tokens(part) for part in parts], self.max_tokens, most_texts):
            rows, counts = self.forward(pack([parts[index] for index in batch]), **forward_params)
            for index, own_rows in zip(batch, split_rows(rows, counts), strict=True):
                outputs[index] = {**parts[index], **own_rows}
        in_order = (outputs[index] for index in range(len(parts)))
        for text in texts:
            yield [next(in_order) for _ in text]

    def forward(self, model_inputs: Any, **forward_params: Any) -> Any:
        """Run without gradients and without dropout, and leave the model in the mode it was in."""
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            return super().forward(model_inputs, **forward_params)
        finally:
            if was_training:
                self.model.train()


def check_is_text(text: Any) -> None:
    """Refuse what is not a string."""
    if not isinstance(text, str):
        raise InputError(f"a text must be a string, got {type(text).__name__}: {excerpt(repr(text))}")


def excerpt(text: str, width: int = 60) -> str:
    """The quoted beginning of a text, for messages."""
    return repr(text if len(text) <= width else f"{text[:width]}...")


def count_tokens(part: Part) -> int:
    """Tokens of a text or window."""
    return part["input_ids"].shape[1]


def pack(parts: Sequence[Part]) -> dict[str, Any]:
    """These texts as one row of N tokens and its bounds: arguments of `ConvBertModel.forward`."""
    lengths = [count_tokens(part) for part in parts]
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return {
        "input_ids": torch.cat([part["input_ids"] for part in parts], dim=1),
        "token_type_ids": torch.cat([part["token_type_ids"] for part in parts], dim=1),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def lengths_of(packed: dict[str, Any]) -> Tensor:
    """(B,) int64 tokens of each text of a packed batch."""
    return packed["cu_seq_lens_q"].diff().long()


def split_rows(rows: Rows, counts: Tensor) -> list[Rows]:
    """Each text's own rows; `counts` (B,) says how many it has."""
    columns = {name: tensor.split(counts.tolist()) for name, tensor in rows.items()}
    return [{name: column[index] for name, column in columns.items()} for index in range(len(counts))]
