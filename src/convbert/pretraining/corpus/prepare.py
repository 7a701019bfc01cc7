"""Sources -> a folder of shards. A run that was interrupted goes on; two at once are refused."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import TypeAdapter

from convbert.files.atomic import LOCK, atomic_write
from convbert.pretraining.corpus.encoding import Encoder, Vocabulary
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.reading import PLAIN, Chunk, CorpusReader, Reading
from convbert.pretraining.corpus.shards import MANIFEST, SHARDS, Manifest, Shard, sha256_of
from convbert.pretraining.corpus.sources import Corpus, TextFile, TextSource, find_sources
from convbert.pretraining.corpus.workers import encode_in_order
from convbert.util.errors import InputError
from convbert.util.workers import check_engine

JOURNAL = "journal.jsonl"
_PACKED = Packing()
_OWN_FILES = {
    LOCK,
    "tokenizer",
    SHARDS,
    *(name + end for name in (JOURNAL, MANIFEST) for end in ("", ".partial")),
}
"""What a kill may leave before there is a manifest."""
SMALLEST_BLOCK, LARGEST_BLOCK, BLOCKS = 1 << 21, 1 << 25, 256


@dataclass(frozen=True)
class Progress:
    """How far a preparation has come: what was made so far, shards of earlier runs included.

    Args:
        bytes_total, bytes_done: of the sources, as they lie on disk; a total of 0 is not known.
        tokens_made, bytes_made, seconds: of this run.
    """

    bytes_total: int
    documents: int = 0
    tokens: int = 0
    bytes_done: int = 0
    tokens_made: int = 0
    bytes_made: int = 0
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this run; None where that or the total is not known."""
        if not (self.bytes_total and self.bytes_made):
            return None
        return max(0, self.bytes_total - self.bytes_done) * self.seconds / self.bytes_made

    def __str__(self) -> str:
        left = self.seconds_left
        told = "" if left is None else f", {timedelta(seconds=round(left))} left"
        speed = self.tokens_made / max(self.seconds, 1e-6)
        return f"{self.documents:,} documents, {self.tokens:,} tokens, {speed:,.0f} tokens/s{told}"


Watch = Callable[[Progress], None]


def tell_now_and_then(report: Callable[[str], None], seconds: float = 20.0) -> Watch:
    """A watch that reports as a line of words, so often at most, and not at once."""
    last = time.monotonic()

    def watch(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            report(str(progress))

    return watch


@dataclass(frozen=True)
class Preparation:
    """What is wanted; `folder` is for `manifest.json` and `shards/`. See `find_sources`, `Packing`, `Reading` and
    `encode_in_order` for the others."""

    source: Corpus
    folder: Path
    packing: Packing = _PACKED
    reading: Reading = PLAIN
    workers: int = 1
    engine: str = "local"

    def __post_init__(self) -> None:
        check_engine(self.engine)

    def finished(self, vocabulary: Vocabulary, thorough: bool | None = None) -> Manifest | None:
        """The manifest, if the folder holds exactly this, undamaged; for `thorough` see `Manifest.problem`."""
        stored = Manifest.read(self.folder)
        if stored is None or not stored.complete:
            return None
        inputs = find_sources(self.source)
        is_same = self._manifest(vocabulary, inputs, stored).recipe == stored.recipe
        if not is_same or stored.identity != _identity(inputs):
            return None
        return None if stored.problem(self.folder, thorough) else stored

    def run(self, vocabulary: Vocabulary, watch: Watch = lambda progress: None) -> Manifest:
        """Make what is not there yet. The caller owns the folder: see `folder_lock`.

        Shards of an earlier run are kept where they are whole and were made from the same text in the same way.

        Raises:
            InputError: the corpus cannot be read or gives no sequence, or the folder cannot be written.
        """
        inputs = find_sources(self.source)
        manifest = self._manifest(vocabulary, inputs, Manifest.read(self.folder))
        manifest.identity = _identity(inputs)
        kept = self._kept_shards()
        try:
            (self.folder / SHARDS).mkdir(parents=True, exist_ok=True)
            # Before the manifest that knew the shards is replaced.
            atomic_write(self.folder / JOURNAL, "".join(map(_journal_line, kept.values())))
            atomic_write(self.folder / MANIFEST, manifest.to_json())
            sources = CorpusReader(inputs, self.reading)
            encoder = Encoder(vocabulary, self.reading, self.packing, manifest.layout)
            manifest.shards = self._make_shards(sources, encoder, manifest, kept, watch)
            self._finish(manifest, sources)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
        finally:
            self._leave_nothing_useless()
        return manifest

    def check_folder(self) -> None:
        """Refuse to write among other files."""
        if Manifest.read(self.folder) is None:
            for file in self.folder.iterdir():
                if file.name not in _OWN_FILES:
                    raise InputError(f"{self.folder}: not empty ({file.name}), and holds no prepared corpus")

    def check_same(self, vocabulary: Vocabulary) -> None:
        """Refuse to replace a corpus of another vocabulary or packing."""
        stored = Manifest.read(self.folder)
        if stored is None:
            return
        wanted = self._manifest(vocabulary, [], stored)
        changes = [
            f"{name} was {getattr(stored, name)}, now {getattr(wanted, name)}"
            for name in ("packing", "text_column", "document_per_line", "learned")
            if getattr(stored, name) != getattr(wanted, name)
        ]
        if stored.vocabulary != wanted.vocabulary:
            changes.append("it has another vocabulary")
        if changes:
            raise InputError(
                f"{self.folder}: holds another corpus: {'; '.join(changes)}; choose another folder"
            )

    def _manifest(
        self, vocabulary: Vocabulary, inputs: list[TextSource], stored: Manifest | None
    ) -> Manifest:
        # Other bounds would give other shards: a corpus that has grown keeps those that it has.
        block_bytes = _block_bytes(inputs) if stored is None else stored.block_bytes
        return Manifest(
            vocabulary=vocabulary.fingerprint,
            vocab_size=vocabulary.size,
            packing=self.packing,
            text_column=self.reading.text_column,
            document_per_line=self.reading.document_per_line,
            block_bytes=block_bytes,
            learned=vocabulary.learned,
        )

    def _kept_shards(self) -> dict[str, Shard]:
        """Whole shards of earlier runs, by file."""
        found: list[Shard] = []
        if (journal := self.folder / JOURNAL).exists():
            for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):  # the last line of a process that was killed
                    found.append(TypeAdapter(Shard).validate_json(line, strict=True))
        elif (stored := Manifest.read(self.folder)) is not None:
            found = stored.shards
        return {shard.file: shard for shard in found if shard.problem(self.folder, thorough=True) is None}

    def _make_shards(
        self,
        sources: CorpusReader,
        encoder: Encoder,
        manifest: Manifest,
        kept: dict[str, Shard],
        watch: Watch,
    ) -> list[Shard]:
        shards: dict[int, Shard] = {}
        keys: dict[int, str] = {}
        started = time.monotonic()
        progress = Progress(sum(source.size for source in sources.inputs))

        def count(chunk: Chunk, shard: Shard, made: bool) -> None:
            nonlocal progress
            shards[chunk.index] = shard
            progress = Progress(
                progress.bytes_total,
                progress.documents + shard.documents,
                progress.tokens + shard.tokens,
                progress.bytes_done + chunk.source_bytes,
                progress.tokens_made + made * shard.tokens,
                progress.bytes_made + made * chunk.source_bytes,
                time.monotonic() - started,
            )
            watch(progress)

        def missing() -> Iterator[Chunk]:
            for chunk in sources.chunks(manifest.block_bytes):
                key, old = chunk.key(manifest.recipe), kept.get(_file_of(chunk))
                keys[chunk.index] = key
                if old is not None and old.key == key:
                    count(chunk, old, made=False)
                else:
                    yield chunk

        encoded = encode_in_order(missing(), encoder, self.workers, self.engine)
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as journal, closing(encoded):
            for chunk, (data, counts) in encoded:
                path = self.folder / SHARDS / _file_of(chunk)
                atomic_write(path, data)
                digest, key = sha256_of(path), keys.pop(chunk.index)
                shard = Shard(file=path.name, size=len(data), sha256=digest, key=key, **vars(counts))
                journal.write(_journal_line(shard))
                journal.flush()
                count(chunk, shard, made=True)
        return [shards[index] for index in sorted(shards)]

    def _leave_nothing_useless(self) -> None:
        """A run that failed before its first shard has nothing to go on from."""
        shards = self.folder / SHARDS
        if shards.is_dir() and not any(shards.iterdir()):
            shards.rmdir()
            for name in (MANIFEST, JOURNAL):
                (self.folder / name).unlink(missing_ok=True)

    def _finish(self, manifest: Manifest, sources: CorpusReader) -> None:
        if problem := self._useless(manifest, sources):
            for shard in manifest.shards:
                (self.folder / SHARDS / shard.file).unlink()
            names = [str(source) for source in sources.inputs]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(f"{', '.join(names[:3])}{more}: {problem}")
        for source, before in zip(sources.inputs, manifest.identity, strict=True):
            if source.identity != before:
                raise InputError(
                    f"{source}: changed while it was read; prepare again, and what is done is kept"
                )
        manifest.sources = [
            {"name": str(source), "size": source.size}
            | ({"sha256": sha256_of(source.path)} if isinstance(source, TextFile) else {})
            for source in sources.inputs
        ]
        manifest.skipped = list(sources.skipped)
        manifest.complete = True
        atomic_write(self.folder / MANIFEST, manifest.to_json())
        (self.folder / JOURNAL).unlink()
        wanted = {shard.file for shard in manifest.shards}
        for file in (self.folder / SHARDS).iterdir():
            if file.name not in wanted:
                file.unlink()

    def _useless(self, manifest: Manifest, sources: CorpusReader) -> str | None:
        """Why nothing could be learned from what was made, if that is so."""
        if (unknown := manifest.unknown()).is_everything:
            return f"nothing can be learned: {unknown.sentence()}"
        if manifest.count("sequences"):
            return None
        least = self.packing.min_sequence_length - (3 if self.packing.segments == "two" else 2)
        why = f"; skipped: {'; '.join(sources.skipped[:3])}" if sources.skipped else ""
        return f"no document has {least} tokens or more{why}"


def _block_bytes(inputs: list[TextSource]) -> int:
    """By what stays the same when a run is repeated: the corpus, never the workers."""
    sizes = [source.size for source in inputs]
    share = sum(sizes) // BLOCKS if all(sizes) else LARGEST_BLOCK  # size 0: not known
    return min(max(share, SMALLEST_BLOCK), LARGEST_BLOCK)


def _identity(inputs: list[TextSource]) -> list[str]:
    return [source.identity for source in inputs]


def _file_of(chunk: Chunk) -> str:
    return f"{chunk.index:06d}.bin"


def _journal_line(shard: Shard) -> str:
    return json.dumps(dataclasses.asdict(shard)) + "\n"
