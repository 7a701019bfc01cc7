"""A chunk of documents -> the bytes of a shard: a pure function, run in whichever process has time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from convbert.pretraining.corpus.packing import Document, Packing
from convbert.pretraining.corpus.reading import Chunk, Reading
from convbert.pretraining.corpus.shards import EXAMPLE_LENGTH, Counts, ShardLayout

_CHARACTERS_PER_CALL = 1 << 20


@dataclass(frozen=True)
class Vocabulary:
    """What has to be known of a tokenizer; see `Manifest` for `learned`."""

    tokenizer: Any
    """Of the `tokenizers` library, or one of transformers' written in Python."""
    fingerprint: str
    size: int
    cls_id: int
    sep_id: int
    learned: dict[str, Any] | None = None
    unk_id: int = -1


@dataclass(frozen=True)
class Encoder:
    """All that turns text into sequences; travels to the workers."""

    vocabulary: Vocabulary
    reading: Reading
    packing: Packing
    layout: ShardLayout

    def encode(self, chunk: Chunk) -> tuple[bytes, Counts]:
        """Tokenise and pack: the bytes of a shard.

        Raises:
            InputError: the chunk holds something that is not text.
        """
        counts = Counts()
        documents = self._tokenise(chunk.documents(self.reading), counts)
        is_crossed = self.packing.cross_documents
        sequences: list[np.ndarray] = []
        seconds: list[int] = []
        for together in (documents,) if is_crossed else ([document] for document in documents):
            before = len(sequences)
            for ids, second in self.packing.pack(together, self.vocabulary.cls_id, self.vocabulary.sep_id):
                sequences.append(np.array(ids, dtype=self.layout.dtype))
                seconds.append(second)
            counts.short_documents += not is_crossed and len(sequences) == before
        counts.sequences = len(sequences)
        counts.tokens = sum(map(len, sequences))
        marks = 2 * len(sequences) + sum(second > 0 for second in seconds)
        if is_crossed and self.packing.segments == "one":
            marks -= max(0, counts.documents - 1)
        counts.dropped_tokens = counts.text_tokens - (counts.tokens - marks)
        return self.layout.to_bytes(sequences, seconds), counts

    def _tokenise(self, documents: Iterable[list[str]], counts: Counts) -> Iterator[Document]:
        """Documents are handed to the tokenizer by the megabyte."""
        waiting: list[list[str]] = []
        length = 0
        for document in documents:
            if not document:
                counts.empty_rows += 1
                continue
            counts.documents += 1
            waiting.append(document)
            length += sum(map(len, document))
            if length >= _CHARACTERS_PER_CALL:
                yield from self._tokenise_together(waiting, counts)
                waiting, length = [], 0
        yield from self._tokenise_together(waiting, counts)

    def _tokenise_together(self, documents: list[list[str]], counts: Counts) -> Iterator[Document]:
        paragraphs = list(itertools.chain.from_iterable(documents))
        encoded = self._ids(paragraphs)
        for ids, paragraph in zip(encoded, paragraphs, strict=True):
            counts.text_tokens += len(ids)
            if unknown := ids.count(self.vocabulary.unk_id):
                counts.unknown += unknown
                counts.example = counts.example or paragraph[:EXAMPLE_LENGTH]
        ids_of = iter(encoded)
        for document in documents:
            yield list(itertools.islice(ids_of, len(document)))

    def _ids(self, paragraphs: list[str]) -> list[list[int]]:
        if not paragraphs:
            return []
        tokenizer = self.vocabulary.tokenizer
        if hasattr(tokenizer, "encode_batch_fast"):
            encodings = tokenizer.encode_batch_fast(paragraphs, add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        return tokenizer(paragraphs, return_token_type_ids=False, **options)["input_ids"]
