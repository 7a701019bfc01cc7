"""Sources -> chunks of whole documents, in order, holding no more than a few chunks at a time.

A chunk is what one worker turns into one shard. Where chunks end depends on the text alone, so that the shards
are the same whoever makes them. The reader only finds the ends and checks the encoding, which is quick: paragraphs
and JSON are for the workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convbert.files.lines import open_stream
from convbert.pretraining.corpus.files import check_text, no_column, read_rows
from convbert.pretraining.corpus.sources import HubDataset, TextFile, TextSource
from convbert.util.errors import InputError

_LONGEST_JSON_LINE = 1 << 28
_LONGEST_PARAGRAPH = 1 << 16  # a tokenizer needs some fifty times as much memory as its text


@dataclass(frozen=True)
class Reading:
    """How text is taken from sources.

    Args:
        text_column: of JSON lines, tables and data sets.
        document_per_line: of text files: each line is a document of its own. Otherwise documents end at empty
            lines.
        skip_bad: leave out sources that are empty, damaged or not UTF-8, which costs a second reading. Otherwise they
            are refused.
    """

    text_column: str = "text"
    document_per_line: bool = False
    skip_bad: bool = False


PLAIN = Reading()


@dataclass(frozen=True)
class Excerpt:
    """Whole documents of one source."""

    name: str
    """Of the source, for messages."""
    format: str
    """"text", "jsonl", or "rows", a list of documents."""
    content: str | list[str]
    first_line: int
    """Its number in the source, from 1."""

    def documents(self, reading: Reading) -> Iterator[list[str]]:
        """Yield documents, each a list of paragraphs, stripped; an empty list for a row without text.

        Raises:
            InputError: a line is not a JSON object with the text column.
        """
        if isinstance(self.content, list):
            yield from (_paragraphs(text.split("\n")) for text in self.content)
        elif self.format == "text":
            yield from _text_documents(self.content, reading.document_per_line)
        else:
            for number, line in enumerate(self.content.split("\n"), start=self.first_line):
                if line.strip():
                    text = _json_text(line, reading.text_column, f"{self.name}: line {number}")
                    yield _paragraphs(text.split("\n"))


@dataclass(frozen=True)
class Chunk:
    """Some megabytes of documents, the `index`-th from 0; `source_bytes` is what they take of the sources on disk."""

    index: int
    excerpts: list[Excerpt]
    source_bytes: int

    def documents(self, reading: Reading) -> Iterator[list[str]]:
        """Its documents, in order."""
        for excerpt in self.excerpts:
            yield from excerpt.documents(reading)

    def key(self, recipe: str) -> str:
        """A hash of the text and of `recipe`, how it is turned into sequences."""
        digest = hashlib.sha256(recipe.encode())
        for excerpt in self.excerpts:
            texts = [excerpt.content] if isinstance(excerpt.content, str) else excerpt.content
            for text in (excerpt.format, *texts):
                data = text.encode()
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
        return digest.hexdigest()


@dataclass
class CorpusReader:
    """The sources of a corpus in order, and, once they are read, which of them were skipped, and why."""

    inputs: list[TextSource]
    reading: Reading = PLAIN
    skipped: list[str] = field(default_factory=list)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield chunks of about `size` bytes of text.

        Raises:
            InputError: a source cannot be read, is damaged, empty or not UTF-8 (with line and byte offset in
                the uncompressed text).
        """
        self.skipped.clear()
        waiting: list[Excerpt] = []
        index = length = consumed = 0
        for source in self.inputs:
            if self.reading.skip_bad and (problem := self._problem(source, size)):
                self.skipped.append(problem)
                continue
            for excerpt, read in read_excerpts(source, self.reading, size):
                excerpt_length = _length(excerpt)
                if waiting and length + excerpt_length > size:
                    yield Chunk(index, waiting, consumed)
                    index, waiting, length, consumed = index + 1, [], 0, 0
                waiting.append(excerpt)
                length += excerpt_length
                consumed += read
        if waiting:
            yield Chunk(index, waiting, consumed)

    def paragraphs(self) -> Iterator[str]:
        """All paragraphs, without the bounds of documents."""
        for chunk in self.chunks(1 << 22):
            for document in chunk.documents(self.reading):
                yield from document

    def _problem(self, source: TextSource, size: int) -> str | None:
        try:
            for excerpt, _ in read_excerpts(source, self.reading, size):
                for _ in excerpt.documents(self.reading):
                    pass
        except InputError as error:
            return str(error)
        return None


def read_excerpts(source: TextSource, reading: Reading, size: int) -> Iterator[tuple[Excerpt, int]]:
    """Yield excerpts of at most about `size` bytes, and how much of the source each takes on disk.

    Raises:
        InputError: see `CorpusReader.chunks`.
    """
    if isinstance(source, HubDataset) or source.format in ("parquet", "csv", "tsv"):
        excerpts = _row_excerpts(source, reading, size)
    else:
        excerpts = _line_excerpts(source, reading, size)
    empty = True
    for excerpt, read in excerpts:
        content = excerpt.content
        empty = empty and (
            content.isspace() if isinstance(content, str) else not any(map(str.strip, content))
        )
        yield excerpt, read
    if empty:
        raise InputError(f"{source}: is empty: there is no text in it")


def _row_excerpts(source: TextSource, reading: Reading, size: int) -> Iterator[tuple[Excerpt, int]]:
    texts: list[str] = []
    length, row, first, before, at = 0, 0, 1, 0, 0
    for batch, at in read_rows(source, reading.text_column):
        for text in batch:
            texts.append(text)
            length += len(text)
            row += 1
            if length >= size // 2:
                yield Excerpt(str(source), "rows", texts, first), at - before
                texts, length, first, before = [], 0, row + 1, at
    if texts:
        yield Excerpt(str(source), "rows", texts, first), at - before


def _line_excerpts(source: TextFile, reading: Reading, size: int) -> Iterator[tuple[Excerpt, int]]:
    is_json = source.format == "jsonl"
    per_line = is_json or reading.document_per_line
    rest, line, offset, before = b"", 1, 0, 0
    with open_stream(source.path, source.compression) as (stream, position):
        at_end = False
        while not at_end:
            wanted = max(size - len(rest), size // 2)
            data = stream.read(wanted)
            at_end, chunk = len(data) < wanted, rest + data
            cut = len(chunk) if at_end else _last_bound(chunk, per_line, may_cut_lines=not is_json)
            if not is_json or cut or at_end:
                text = _decode(chunk[:cut], source.path, line, offset)
            elif len(chunk) < _LONGEST_JSON_LINE:
                rest = chunk
                continue
            else:
                raise InputError(f"{source}: line {line} is longer than {_LONGEST_JSON_LINE >> 20} MiB")
            if text:
                at = position()
                yield Excerpt(str(source), source.format, text, line), at - before
                before = at
            line += text.count("\n")
            offset += cut
            rest = chunk[cut:]


def _last_bound(chunk: bytes, per_line: bool, may_cut_lines: bool) -> int:
    """Where a chunk that goes on is best cut: behind its last empty line, its last line, its last word, or
    character."""
    last_line = chunk.rfind(b"\n") + 1
    if last_line and not per_line:
        return _last_empty_line(chunk, last_line) or last_line
    if last_line or not may_cut_lines:
        return last_line
    if last_word := chunk.rfind(b" ") + 1:
        return last_word
    return len(chunk) - next((n for n in range(1, 5) if chunk[-n] & 0xC0 == 0xC0), 0)


def _last_empty_line(chunk: bytes, end: int) -> int:
    """Just behind the last line of white space; 0 where there is none. `end` is behind the last line."""
    while end:
        start = chunk.rfind(b"\n", 0, end - 1) + 1
        if not chunk[start:end].strip():
            return end
        end = start
    return 0


def _decode(data: bytes, file: Path, line: int, offset: int) -> str:
    try:
        return data.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise InputError(
            f"{file}: not UTF-8 text: line {line}, byte offset {offset + error.start}: "
            f"{error.reason} ({data[error.start : error.start + 1].hex()})"
        ) from error


def _length(excerpt: Excerpt) -> int:
    return len(excerpt.content) if isinstance(excerpt.content, str) else sum(map(len, excerpt.content))


def _text_documents(text: str, document_per_line: bool) -> Iterator[list[str]]:
    document: list[str] = []
    for line in map(str.strip, text.split("\n")):
        if line:
            document += _paragraphs([line])
        if document and (document_per_line or not line):
            yield document
            document = []
    if document:
        yield document


def _paragraphs(lines: Iterable[str]) -> list[str]:
    """Stripped lines without the empty ones; a line that is too long for a tokenizer becomes several."""
    found = []
    for line in lines:
        text = line.strip()
        while len(text) > _LONGEST_PARAGRAPH:
            cut = text.rfind(" ", 0, _LONGEST_PARAGRAPH) + 1 or _LONGEST_PARAGRAPH
            found.append(text[:cut].rstrip())
            text = text[cut:].lstrip()
        if text:
            found.append(text)
    return found


def _json_text(line: str, column: str, place: str) -> str:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not a JSON object: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{place}: not a JSON object but {type(row).__name__}")
    if column not in row:
        raise no_column(place, column, row)
    return check_text(row[column], column, place)
