"""A block of documents -> the bytes of a shard: a pure function, run in whichever process has time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from convbert.pretraining.corpus.packing import Document, Packing
from convbert.pretraining.corpus.reading import Block, Reading
from convbert.pretraining.corpus.shards import Layout

_CHARACTERS_PER_CALL = 1 << 20


@dataclass(frozen=True)
class Encoder:
    """All that turns text into sequences; travels to the workers.

    Args:
        tokenizer: of the `tokenizers` library, or one of transformers' written in Python.
        reading, packing, layout: see there.
        cls_id, sep_id: special tokens.
    """

    tokenizer: Any
    reading: Reading
    packing: Packing
    layout: Layout
    cls_id: int
    sep_id: int

    def encode(self, block: Block) -> Encoded:
        """Tokenise and pack.

        Raises:
            InputError: the block holds something that is not text.
        """
        count = 0

        def documents() -> Iterator[Document]:
            nonlocal count
            for document in self._tokenise(block.documents(self.reading)):
                count += 1
                yield document

        sequences, seconds = [], []
        for ids, second in self.packing.pack(documents(), self.cls_id, self.sep_id):
            sequences.append(np.array(ids, dtype=self.layout.dtype))
            seconds.append(second)
        data = self.layout.to_bytes(sequences, seconds)
        return Encoded(data, count, len(sequences), sum(map(len, sequences)))

    def _tokenise(self, documents: Iterable[list[str]]) -> Iterator[Document]:
        """Documents are handed to the tokenizer by the megabyte."""
        waiting: list[list[str]] = []
        length = 0
        for document in documents:
            waiting.append(document)
            length += sum(map(len, document))
            if length >= _CHARACTERS_PER_CALL:
                yield from self._tokenise_together(waiting)
                waiting, length = [], 0
        yield from self._tokenise_together(waiting)

    def _tokenise_together(self, documents: list[list[str]]) -> Iterator[Document]:
        encoded = iter(self._ids(list(itertools.chain.from_iterable(documents))))
        for document in documents:
            yield list(itertools.islice(encoded, len(document)))

    def _ids(self, paragraphs: list[str]) -> list[list[int]]:
        if not paragraphs:
            return []
        if hasattr(self.tokenizer, "encode_batch_fast"):
            return [
                encoding.ids
                for encoding in self.tokenizer.encode_batch_fast(paragraphs, add_special_tokens=False)
            ]
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        return self.tokenizer(paragraphs, return_token_type_ids=False, **options)["input_ids"]


@dataclass(frozen=True)
class Encoded:
    """A shard that is not on disk yet, with its number of documents, sequences, and tokens (special ones too)."""

    data: bytes
    documents: int
    sequences: int
    tokens: int
