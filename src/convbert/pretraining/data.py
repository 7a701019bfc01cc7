"""A corpus as training sees it: sequences on disk, read when they are drawn, and the order in which they are.

How text becomes sequences is told in `corpus/`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from convbert.files.atomic import folder_lock
from convbert.pretraining.corpus.encoding import Vocabulary
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.prepare import Preparation, tell_now_and_then
from convbert.pretraining.corpus.reading import PLAIN, Reading
from convbert.pretraining.corpus.shards import MANIFEST, SHARDS, Manifest, ShardReader, prepared_folder
from convbert.pretraining.corpus.sources import Corpus, PathLike, size_told
from convbert.pretraining.masking import uniform
from convbert.util.errors import InputError

OPEN_AT_ONCE = 96  # shards; each takes a file descriptor, of which macOS gives a process 256
_ROUNDS = 12  # fewer leave a trace of the order in corpora of a few dozen sequences


class SequenceDataset(Dataset):
    """The sequences of a prepared corpus as training draws them.

    An item is asked for by its *draw*, epoch × number of sequences + index, and carries it along: whatever is
    random about an example (its mask) depends on the draw alone, not on its batch, worker, process or
    restart.

    Item: `{"input_ids": (n,) integers, "draw": int}`, and, of a sequence with two segments, `"second_segment":
    int`, the index at which segment 1 begins.

    May be forked and pickled into workers. What it holds in memory does not grow with the corpus.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.fingerprint: str = manifest.fingerprint
        """Equal for equal sequences in equal order."""
        counts = [shard.sequences for shard in manifest.shards]
        self._starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        self._open: dict[int, ShardReader] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def __getitem__(self, draw: int) -> dict[str, Any]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[int]) -> list[dict[str, Any]]:
        # A DataLoader calls this, where it exists, with a whole batch.
        indices = np.array(draws, dtype=np.int64) % len(self)
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        places = indices - self._starts[shards]
        return [
            self._read(draw, int(shard), int(place))
            for draw, shard, place in zip(draws, shards, places, strict=True)
        ]

    def flat_ids(self, at_most: int | None = None) -> Iterator[np.ndarray]:
        """All token ids in order, in blocks of whole sequences, one block in memory at a time.

        Args:
            at_most: every n-th block, so that there are no more tokens than that if blocks are of one size.
        """
        nth = 1 if at_most is None else math.ceil(self.count_tokens() / at_most)
        for shard in self.manifest.shards[::nth]:
            path = self.folder / SHARDS / shard.file
            yield np.fromfile(path, self.manifest.layout.ids, shard.tokens)

    def count_tokens(self) -> int:
        """Tokens of the whole corpus, special ones included."""
        return self.manifest.count("tokens")

    def notes(self) -> list[str]:
        """What a person should know of the corpus: what of its text is not trained on, and not known.

        Raises:
            InputError: hardly anything is known.
        """
        unknown = self.manifest.unknown()
        if unknown.is_everything:
            raise InputError(f"{self.folder}: nothing can be learned: {unknown.sentence()}")
        sentence = unknown.sentence()
        return [*self.losses(), *([f"warning: {sentence}"] if sentence else [])]

    def losses(self) -> list[str]:
        """What of the text is not trained on, one sentence a kind, and which files were skipped."""
        totals, least = self.manifest.totals(), self.manifest.packing.min_sequence_length
        told = {
            "short_documents": f"of {totals['documents']:,} documents are dropped: shorter than {least} tokens with "
            "[CLS] and [SEP] (min_sequence_length)",
            "dropped_tokens": f"of {totals['text_tokens']:,} tokens are dropped: short documents, short rests and "
            "what was cut",
            "empty_rows": "rows or lines without text are left out",
            "skipped_files": "files are skipped",
        }
        found = [f"{totals[what]:,} {sentence}" for what, sentence in told.items() if totals[what]]
        return found + [f"skipped: {problem}" for problem in self.manifest.skipped]

    def content(self) -> str:
        """How much there is, and of which sources."""
        totals = self.manifest.totals()
        counts = ", ".join(f"{totals[what]:,} {what}" for what in ("documents", "sequences", "tokens"))
        sources = [
            f"{source['name']} ({size_told(source['size'])})" if source["size"] else source["name"]
            for source in self.manifest.sources
        ]
        return f"{counts} of {', '.join(sources[:5])}{f' and {len(sources) - 5} more' if sources[5:] else ''}"

    def _read(self, draw: int, shard: int, place: int) -> dict[str, Any]:
        reader = self._reader(shard)
        ids, second = reader.sequence(place)
        if int(ids.max()) >= self.manifest.vocab_size:
            raise InputError(
                f"{reader.path}: damaged shard: sequence {place} is none of this vocabulary; "
                "convbert prepare --verify checks all of them"
            )
        item: dict[str, Any] = {"input_ids": ids, "draw": draw}
        return item | {"second_segment": second} if second else item

    def _reader(self, number: int) -> ShardReader:
        if number not in self._open:
            if len(self._open) >= OPEN_AT_ONCE:
                self._open.clear()
            shard = self.manifest.shards[number]
            path = self.folder / SHARDS / shard.file
            try:
                self._open[number] = ShardReader(path, shard, self.manifest.layout)
            except OSError as error:
                raise InputError(f"{path}: damaged shard: {error.strerror or error}") from error
        return self._open[number]


class EpochSampler(Sampler[int]):
    """Draws in an order that depends on seed and epoch alone, each sequence once an epoch.

    The order is computed as it goes, and takes no memory: see `shuffled`.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return self.starting_at(0)

    def starting_at(self, place: int) -> Iterator[int]:
        """The draws of this epoch from the `place`-th on; costs nothing for those before."""
        for start in range(place, self.length, 1 << 14):
            places = np.arange(start, min(start + (1 << 14), self.length))
            order = shuffled(places, self.length, self.seed, self.epoch)
            yield from (self.epoch * self.length + order).tolist()


def shuffled(places: np.ndarray, length: int, seed: int, epoch: int) -> np.ndarray:
    """The indices that stand at `places` (n,) in a random order of `range(length)`.

    A Feistel network over pairs of about √length each (Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains", cycle walking included): a pure function, one to one.
    """
    rows = math.isqrt(max(length - 1, 0)) + 1
    columns = -(-length // rows)
    out = np.asarray(places, dtype=np.int64).copy()
    walking = np.arange(len(out))
    while len(walking):  # once for nearly all: what lies outside is encrypted again
        left, right = np.divmod(out[walking], columns)
        for number in range(0, _ROUNDS, 2):
            left = (left + _below(rows, seed, number, epoch, right)) % rows
            right = (right + _below(columns, seed, number + 1, epoch, left)) % columns
        out[walking] = left * columns + right
        walking = walking[out[walking] >= length]
    return out


def _below(limit: int, seed: int, number: int, epoch: int, values: np.ndarray) -> np.ndarray:
    # Streams 0 to 99 belong to masking.
    numbers = uniform(seed, 100 + number, np.array([epoch], dtype=np.uint64), values.astype(np.uint64))
    return (numbers * limit).astype(np.int64)


def prepare_sequences(
    source: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: PathLike,
    packing: Packing,
    *,
    name: str = "train",
    reading: Reading = PLAIN,
    report: Callable[[str], None] = lambda message: None,
) -> SequenceDataset:
    """The sequences of a corpus: a folder that `convbert prepare` made, or text that is tokenised into
    `cache_dir/name` unless an earlier call did so with the same files, tokenizer and packing.

    Processes that ask for the same at once wait for the first of them.

    Args:
        reading: how text is taken from files. Of a prepared corpus that is decided.
        report: told what is being done, and how far it is, what was lost, and the share of `[UNK]`, for a reader.

    Raises:
        InputError: the corpus cannot be read, gives no sequence, is damaged, is nothing but `[UNK]`, or was prepared
            with another vocabulary, packing or reading.
    """
    if (prepared := prepared_folder(source)) is not None:
        dataset = open_corpus(prepared, tokenizer, packing)
        was = Reading(dataset.manifest.text_column, dataset.manifest.document_per_line)
        asked = dataclasses.replace(reading, skip_bad=False)
        if asked not in (PLAIN, was):
            raise InputError(f"{prepared}: was prepared with {was}, not {asked}")
    else:
        folder = Path(cache_dir, name)
        preparation = Preparation(source, folder, packing, reading)
        vocabulary = vocabulary_of(tokenizer)
        with folder_lock(folder, "preparing a corpus", wait=True):
            if preparation.finished(vocabulary) is None:
                preparation.check_same(vocabulary)  # another run may be reading what is there
                report(f"tokenising {name}")
                preparation.run(vocabulary, tell_now_and_then(report))
        dataset = open_corpus(folder, tokenizer, packing, verify=False)  # just verified, or written
    for note in dataset.notes():
        report(f"{name}: {note}")
    return dataset


def open_corpus(
    folder: PathLike,
    tokenizer: PreTrainedTokenizerBase | None = None,
    packing: Packing | None = None,
    verify: bool | None = None,
) -> SequenceDataset:
    """Open a corpus that was prepared with this tokenizer and packing, where they are given.

    Args:
        verify: see `Manifest.problem`.

    Raises:
        InputError: there is none, it is unfinished or damaged, or was prepared otherwise.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    if manifest is None:
        raise InputError(f"{folder}: no prepared corpus here (no {MANIFEST})")
    if not manifest.complete:
        with folder_lock(folder, "preparing a corpus"):  # says so, if another process is at it
            raise InputError(f"{folder}: its preparation was interrupted; repeat it, and it goes on")
    if tokenizer is not None and manifest.vocabulary != tokenizer_fingerprint(tokenizer):
        raise InputError(
            f"{folder}: was prepared with another vocabulary or other rules ({manifest.vocab_size} tokens) than the "
            f"tokenizer's ({len(tokenizer)} tokens)"
        )
    if packing is not None and packing != manifest.packing:
        was, wanted = (dataclasses.asdict(each) for each in (manifest.packing, packing))
        told = ", ".join(
            f"{name} {was[name]}, not {wanted[name]}" for name in was if was[name] != wanted[name]
        )
        raise InputError(
            f"{folder}: was prepared with {told}; prepare it anew, or say so here (--set NAME=VALUE)"
        )
    if problem := manifest.problem(folder, thorough=verify):
        raise InputError(f"{problem}; prepare the corpus again to replace it")
    return SequenceDataset(folder, manifest)


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, learned: dict[str, Any] | None = None) -> Vocabulary:
    """What preparing a corpus has to know of a tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    encoder: Any = tokenizer
    if backend is not None:
        encoder = type(backend).from_str(backend.to_str())  # a copy: the caller's may cut and pad
        encoder.no_truncation()
        encoder.no_padding()
    return Vocabulary(
        encoder,
        tokenizer_fingerprint(tokenizer),
        len(tokenizer),
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        learned,
        tokenizer.unk_token_id,
    )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides which ids a text gets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = repr(sorted(tokenizer.init_kwargs.items()))
    else:  # how a caller cut and padded last does not matter
        state = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        rules = json.dumps(state, sort_keys=True)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return hashlib.sha256(f"{rules}\n{vocabulary}".encode()).hexdigest()
