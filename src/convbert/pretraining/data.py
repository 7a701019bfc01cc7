"""Text files -> documents -> token ids -> sequences of full length, kept on disk as memory-mapped Arrow
tables.

A corpus is UTF-8 text: one paragraph a line, one empty line between documents, plain or gzipped.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from convbert.errors import InputError

PathLike = str | os.PathLike[str]
Source = PathLike | Sequence[PathLike]

# Raised whenever the way from text to sequences changes, so that no cache of an older way is reused.
_CACHE_VERSION = 1
_PARAGRAPHS_PER_BATCH = 2000
_TOKENS_PER_WRITE = 2_000_000


def find_text_files(source: Source) -> list[Path]:
    """The files behind `source`: a file, a glob, a folder (its `.txt` and `.txt.gz` files, at any depth), or
    several.

    Returns:
        Sorted paths, each once, so that a corpus does not depend on the order in which its parts are named.

    Raises:
        InputError: something named does not exist or matches no file.
    """
    names = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not names:
        raise InputError("no corpus was given: name a text file, a folder or a glob")
    return sorted({file for name in names for file in _expand(os.fspath(name))})


def read_paragraphs(files: Iterable[Path]) -> Iterator[str]:
    """Yield every line of every file, stripped; empty lines, and the end of each file, come as "".

    Raises:
        InputError: a file cannot be read, is not UTF-8 (with line and byte offset in the uncompressed text),
            or is not the gzip file its name promises.
    """
    for file in files:
        yield from _read_lines(file)
        yield ""


def read_documents(files: Iterable[Path]) -> Iterator[list[str]]:
    """Yield documents, each a list of at least one paragraph."""
    document: list[str] = []
    for paragraph in read_paragraphs(files):
        if paragraph:
            document.append(paragraph)
        elif document:
            yield document
            document = []


@dataclass(frozen=True)
class Packing:
    """How a document becomes sequences.

    Args:
        sequence_length: tokens in a full sequence, `[CLS]` and `[SEP]` included.
        min_sequence_length: the rest of a document becomes a shorter sequence if it has at least so many
            tokens, `[CLS]` and `[SEP]` included, and is dropped otherwise.
    """

    sequence_length: int = 128
    min_sequence_length: int = 16

    def __post_init__(self) -> None:
        if not 3 <= self.min_sequence_length <= self.sequence_length:
            raise InputError(
                "min_sequence_length must lie between 3 and sequence_length, "
                f"got {self.min_sequence_length} and {self.sequence_length}"
            )

    def split(self, token_ids: np.ndarray, cls_id: int, sep_id: int) -> list[np.ndarray]:
        """Cut one document, (n,) ids without special tokens, into `[CLS] ... [SEP]` sequences."""
        content = self.sequence_length - 2
        pieces = [token_ids[start : start + content] for start in range(0, len(token_ids), content)]
        return [
            np.concatenate(([cls_id], piece, [sep_id]))
            for piece in pieces
            if len(piece) + 2 >= self.min_sequence_length
        ]


class SequenceDataset(Dataset):
    """The sequences of a corpus as training draws them.

    An item is asked for by its *draw*, epoch × number of sequences + index, and carries it along: whatever is
    random about an example (its mask) depends on the draw alone, not on its batch, worker, process or
    restart.

    Item: `{"input_ids": (n,) integers, "draw": int}`.
    """

    def __init__(self, table: Any) -> None:
        self.table = table.with_format("numpy")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[int]) -> list[dict[str, Any]]:
        # One look-up for a whole batch: a DataLoader calls this where it exists.
        rows = self.table[[draw % len(self) for draw in draws]]["input_ids"]
        return [{"input_ids": row, "draw": draw} for row, draw in zip(rows, draws, strict=True)]

    def flat_ids(self) -> Iterator[np.ndarray]:
        """All token ids in order, in blocks of whole sequences, without copying the corpus into memory."""
        for chunk in self.table.data.column("input_ids").chunks:
            yield chunk.flatten().to_numpy()

    def count_tokens(self) -> int:
        """Tokens of the whole corpus, special ones included."""
        return sum(len(block) for block in self.flat_ids())


class EpochSampler(Sampler[int]):
    """Draws in an order that depends on seed and epoch alone, each sequence once an epoch."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return self.starting_at(0)

    def starting_at(self, place: int) -> Iterator[int]:
        """The order from `place` on."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        yield from (self.epoch * self.length + order[place:]).tolist()


def prepare_sequences(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: PathLike,
    packing: Packing,
    *,
    name: str = "train",
    report: Callable[[str], None] = lambda message: None,
) -> SequenceDataset:
    """Tokenise a corpus once, and open what an earlier call with the same files, tokenizer and packing wrote.

    Args:
        cache_dir: folder for `<name>.arrow` and `<name>.json`, a description of what is in it.
        report: told what is being done, for a reader.

    Raises:
        InputError: the corpus cannot be read, or gives no sequence.
    """
    files = find_text_files(source)
    table_file, manifest_file = Path(cache_dir, f"{name}.arrow"), Path(cache_dir, f"{name}.json")
    fingerprint = _fingerprint(files, tokenizer, packing)
    if _stored_fingerprint(manifest_file) != fingerprint or not table_file.exists():
        report(f"tokenising {len(files)} {'file' if len(files) == 1 else 'files'} for {name}")
        manifest_file.unlink(missing_ok=True)
        counts = _write_table(_sequences(files, tokenizer, packing), table_file, len(tokenizer))
        if not counts["sequences"]:
            table_file.unlink()
            raise InputError(
                f"{_first_names(files)}: no document has {packing.min_sequence_length - 2} tokens or more"
            )
        manifest = {"fingerprint": fingerprint, **counts, "files": [file.name for file in files]}
        write_atomically(manifest_file, json.dumps(manifest, indent=2) + "\n")
    return SequenceDataset(_open_table(table_file))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is there in full or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found = [file for pattern in ("*.txt", "*.txt.gz") for file in path.rglob(pattern)]
        if not found:
            raise InputError(f"{name}: no .txt or .txt.gz file in this folder")
    elif path.exists():
        found = [path]
    elif glob.has_magic(name):
        found = [Path(file) for file in glob.glob(name, recursive=True) if Path(file).is_file()]
        if not found:
            raise InputError(f"{name}: no file matches")
    else:
        raise InputError(f"{name}: no such file or folder")
    return found


def _read_lines(file: Path) -> Iterator[str]:
    opener = gzip.open if file.suffix == ".gz" else open
    offset = 0
    try:
        with opener(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield _decode(line, file, number, offset)
                offset += len(line)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{file}: damaged gzip file after {offset} bytes of text: {error}") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error


def _decode(line: bytes, file: Path, number: int, offset: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: not UTF-8 text: line {number}, byte offset {offset + error.start}: "
            f"{error.reason} ({line[error.start : error.start + 1].hex()})"
        ) from error


def _sequences(
    files: list[Path], tokenizer: PreTrainedTokenizerBase, packing: Packing
) -> Iterator[np.ndarray]:
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    for document in _tokenised_documents(files, tokenizer):
        yield from packing.split(document, cls_id, sep_id)


def _tokenised_documents(files: list[Path], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    """Token ids of each document, without special tokens; many documents go to the tokenizer at a time."""
    batch: list[list[str]] = []
    waiting = 0
    for document in read_documents(files):
        batch.append(document)
        waiting += len(document)
        if waiting >= _PARAGRAPHS_PER_BATCH:
            yield from _tokenise(batch, tokenizer)
            batch, waiting = [], 0
    yield from _tokenise(batch, tokenizer)


def _tokenise(documents: list[list[str]], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    paragraphs = [paragraph for document in documents for paragraph in document]
    if not paragraphs:
        return
    encoded = tokenizer(
        paragraphs,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # nothing here is too long: documents are cut afterwards
    )["input_ids"]
    start = 0
    for document in documents:
        ids = encoded[start : start + len(document)]
        yield np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64)
        start += len(document)


def _write_table(sequences: Iterable[np.ndarray], path: Path, vocab_size: int) -> dict[str, int]:
    """Write sequences as one column of lists, in the smallest integer type that holds the vocabulary."""
    from datasets.arrow_writer import ArrowWriter

    dtype = np.uint16 if vocab_size <= 2**16 else np.int32
    partial = path.with_name(path.name + ".partial")
    counts = {"sequences": 0, "tokens": 0}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ArrowWriter(path=str(partial)) as writer:
            writer.write_table(_to_table([], dtype))  # fixes the type, even for a corpus without sequences
            for block in _blocks(sequences):
                counts["sequences"] += len(block)
                counts["tokens"] += sum(map(len, block))
                writer.write_table(_to_table(block, dtype))
            writer.finalize()
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return counts


def _blocks(sequences: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    block: list[np.ndarray] = []
    waiting = 0
    for sequence in sequences:
        block.append(sequence)
        waiting += len(sequence)
        if waiting >= _TOKENS_PER_WRITE:
            yield block
            block, waiting = [], 0
    if block:
        yield block


def _to_table(block: list[np.ndarray], dtype: Any) -> Any:
    """An Arrow table; its lists are views of one flat array, so that no sequence is converted alone."""
    import pyarrow as pa  # type: ignore[import-untyped]  # comes with datasets

    offsets = np.concatenate(([0], np.cumsum([len(sequence) for sequence in block], dtype=np.int64)))
    values = np.concatenate(block).astype(dtype) if block else np.empty(0, dtype)
    return pa.table({"input_ids": pa.ListArray.from_arrays(offsets.astype(np.int32), values)})


def _open_table(path: Path) -> Any:
    import datasets

    return datasets.Dataset.from_file(str(path))


def _fingerprint(files: list[Path], tokenizer: PreTrainedTokenizerBase, packing: Packing) -> str:
    digest = hashlib.sha256(f"{_CACHE_VERSION} {packing}\n".encode())
    for file in files:
        stat = file.stat()
        digest.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    digest.update(tokenizer_fingerprint(tokenizer).encode())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides which ids a text gets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else repr(sorted(tokenizer.init_kwargs.items()))
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return hashlib.sha256(f"{rules}\n{vocabulary}".encode()).hexdigest()


def _stored_fingerprint(manifest_file: Path) -> str | None:
    try:
        return json.loads(manifest_file.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        return None


def _first_names(files: list[Path]) -> str:
    shown = ", ".join(str(file) for file in files[:3])
    return shown if len(files) <= 3 else f"{shown} and {len(files) - 3} more"
