"""What lies on disk: shards of token ids, and the manifest that describes and guards them.

A shard is the ids of its sequences end to end, then the end of each sequence (uint32), then, for two segments,
where segment 1 begins in each (uint16; 0: nowhere); little-endian. How many there are is in `manifest.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.sources import Corpus
from convbert.util.errors import InputError
from convbert.util.schema import read_json

if TYPE_CHECKING:
    from convbert.tokenization.unknown import UnknownTokens

FORMAT = 1
MANIFEST = "manifest.json"
SHARDS = "shards"
_ALWAYS_VERIFIED = 1 << 28  # bytes; a quarter of a second


@dataclass(frozen=True)
class ShardLayout:
    """How numbers lie in a shard: the type of token ids, and whether segment 1 is noted."""

    dtype: str
    two_segments: bool

    def to_bytes(self, sequences: Sequence[np.ndarray], seconds: Sequence[int]) -> bytes:
        """A shard of these sequences."""
        ids = np.concatenate(sequences) if sequences else np.empty(0)
        parts = [ids.astype(self.ids), np.cumsum([len(sequence) for sequence in sequences]).astype("<u4")]
        if self.two_segments:
            parts.append(np.array(seconds, dtype="<u2"))
        return b"".join(part.tobytes() for part in parts)

    def size(self, sequences: int, tokens: int) -> int:
        """Bytes of a shard."""
        return tokens * self.ids.itemsize + sequences * (6 if self.two_segments else 4)

    @property
    def ids(self) -> np.dtype:
        """Type of a token id on disk."""
        return np.dtype(self.dtype).newbyteorder("<")


@dataclass
class Counts:
    """What became of the text of a shard."""

    documents: int = 0
    sequences: int = 0
    tokens: int = 0
    """Special ones included."""
    text_tokens: int = 0
    """Tokens of the text, before any is dropped."""
    unknown: int = 0
    """How many of them are `[UNK]`."""
    short_documents: int = 0
    """Documents that gave no sequence."""
    dropped_tokens: int = 0
    """Of rests that are too short, and of what was cut."""
    empty_rows: int = 0
    example: str = ""
    """The beginning of the first paragraph with an `[UNK]`."""


COUNTED = tuple(entry.name for entry in dataclasses.fields(Counts) if entry.name != "example")
EXAMPLE_LENGTH = 100
"""Characters; whoever shows it cuts it further."""


@dataclass(kw_only=True)
class Shard(Counts):
    """One line of the manifest: a file, and the `key`, a hash of the text it was made from, and of how."""

    file: Annotated[str, Field(pattern=r"^\d+\.bin$")]
    size: NonNegativeInt
    sha256: str
    key: str
    documents: NonNegativeInt  # these three are in every manifest
    sequences: NonNegativeInt
    tokens: NonNegativeInt

    def problem(self, folder: Path, thorough: bool) -> str | None:
        """What is wrong with the file, if anything: with its size alone, or with what it holds, too."""
        path = folder / SHARDS / self.file
        try:
            size = path.stat().st_size
            if size != self.size:
                return f"{path}: damaged shard: {size} bytes, {self.size} expected"
            if thorough and sha256_of(path) != self.sha256:
                return f"{path}: damaged shard: its checksum is not the one in {MANIFEST}"
        except OSError as error:
            return f"{path}: damaged shard: {error.strerror or error}"
        return None


class ShardReader:
    """The sequences of one shard, each read from the file when it is asked for.

    Not through a memory map: its pages would count as resident memory of this process, 64 KiB for every sequence looked
    up, and a file that is cut short meanwhile would end the process without a word. Processes may share it.
    """

    def __init__(self, path: Path, shard: Shard, layout: ShardLayout) -> None:
        self.path, self.layout = path, layout
        self._ends_at = shard.tokens * layout.ids.itemsize
        self._seconds_at = self._ends_at + 4 * shard.sequences
        self._file = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def sequence(self, place: int) -> tuple[np.ndarray, int]:
        """Ids of the sequence at `place`, (n,), read-only, and where its segment 1 begins, 0 for nowhere."""
        ends = self._read(np.dtype("<u4"), self._ends_at, max(place - 1, 0), 2 if place else 1)
        start, end = (int(ends[0]), int(ends[1])) if place else (0, int(ends[0]))
        ids = self._read(self.layout.ids, 0, start, end - start)
        if not self.layout.two_segments:
            return ids, 0
        return ids, int(self._read(np.dtype("<u2"), self._seconds_at, place, 1)[0])

    def _read(self, dtype: np.dtype, at: int, first: int, count: int) -> np.ndarray:
        wanted = max(count, 0) * dtype.itemsize
        data = os.pread(self._file, wanted, at + first * dtype.itemsize)
        if len(data) < wanted or not wanted:
            raise InputError(f"{self.path}: damaged shard: it ends too early")
        return np.frombuffer(data, dtype)


@dataclass
class Manifest:
    """What a folder of shards holds.

    Args:
        vocabulary: `tokenizer_fingerprint` of the tokenizer.
        vocab_size: its number of tokens.
        packing, text_column, document_per_line, block_bytes: how text became sequences.
        learned: the settings by which the vocabulary was learned from this corpus, if it was.
        complete: whether all of the corpus is there.
        sources: name, size and SHA-256 of every file; of a data set on the hub, its name.
        skipped: what was left out, and why.
        identity: tells without reading whether the sources have changed.
        shards: in order.
    """

    vocabulary: str
    vocab_size: PositiveInt
    packing: Packing
    text_column: str
    document_per_line: bool
    block_bytes: PositiveInt
    learned: dict[str, Any] | None = None
    complete: bool = False
    sources: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    identity: list[str] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    format: int = FORMAT

    @property
    def layout(self) -> ShardLayout:
        return ShardLayout("uint16" if self.vocab_size <= 2**16 else "uint32", self.packing.segments == "two")

    @property
    def recipe(self) -> str:
        """What, besides the text, decides the content of the shards."""
        packing = dataclasses.asdict(self.packing)
        return json.dumps([self.format, self.vocabulary, packing, self.text_column, self.document_per_line])

    @property
    def fingerprint(self) -> str:
        """Equal for equal sequences in equal order, whatever the files were called."""
        content = [shard.sha256 for shard in self.shards]
        return hashlib.sha256(json.dumps([self.recipe, content]).encode()).hexdigest()

    def count(self, what: str) -> int:
        """How many "documents" or whatever else is counted there is in all shards; see `Counts`."""
        return sum(getattr(shard, what) for shard in self.shards)

    def totals(self) -> dict[str, Any]:
        """All counts, as plain data."""
        counts: dict[str, Any] = {what: self.count(what) for what in COUNTED}
        counts["skipped_files"] = len(self.skipped)
        counts["unknown_example"] = next((shard.example for shard in self.shards if shard.example), "")
        return counts

    def unknown(self) -> UnknownTokens:
        """The [UNK] among the tokens of the text."""
        from convbert.tokenization import unknown  # imports transformers, which workers need not

        found = unknown.UnknownTokens()
        found.merge(self.count("text_tokens"), self.count("unknown"), str(self.totals()["unknown_example"]))
        return found

    def to_json(self) -> str:
        """The content of `manifest.json`, with totals for a reader."""
        head = {"format": self.format, "fingerprint": self.fingerprint, **self.totals()}
        content = head | dataclasses.asdict(self)
        return json.dumps(content | {"checksum": _checksum(content)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest in `folder`; None where there is none.

        Raises:
            InputError: it is damaged, or of a later format.
        """
        path = folder / MANIFEST
        if not path.exists():
            return None
        stored = read_json(path)
        version = stored.get("format", FORMAT) if isinstance(stored, dict) else FORMAT
        if version != FORMAT:
            raise InputError(f"{path}: format {version!r:.20}, this version of convbert reads {FORMAT}")
        try:
            manifest = TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InputError(f"{path}: damaged: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
        if stored.pop("checksum", None) != _checksum(stored):
            raise InputError(f"{path}: damaged: its checksum is not that of its content")
        return manifest

    def problem(self, folder: Path, thorough: bool | None = None) -> str | None:
        """What is wrong with the first shard that is not there as it was written; None if all are.

        Args:
            thorough: read them whole and compare checksums, or their sizes alone; by default the first if it takes
                less than a second.
        """
        if thorough is None:
            thorough = sum(shard.size for shard in self.shards) <= _ALWAYS_VERIFIED
        if not self.count("sequences"):
            return f"{folder / MANIFEST}: damaged: there is no sequence"
        for shard in self.shards:
            if shard.size != self.layout.size(shard.sequences, shard.tokens):
                return f"{folder / MANIFEST}: damaged: size and counts of {shard.file} contradict each other"
            if problem := shard.problem(folder, thorough):
                return problem
        return None


def prepared_folder(source: Corpus) -> Path | None:
    """The folder that `convbert prepare` made, if `source` is one, and not one of several."""
    names = [source] if isinstance(source, str | os.PathLike) else list(source)
    folders = [
        folder for folder in map(Path, names) if (folder / MANIFEST).is_file() and (folder / SHARDS).is_dir()
    ]
    if not folders:
        return None
    if len(names) > 1:
        raise InputError(f"{folders[0]}: a prepared corpus is used alone, without other sources")
    return folders[0]


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
