"""What a corpus is named by -> the files and data sets it is made of."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convbert.util.errors import InputError

PathLike = str | os.PathLike[str]
Corpus = PathLike | Sequence[PathLike]

DATASET = "dataset:"
"""Begins the name of a data set: `dataset:NAME`, `dataset:NAME:CONFIGURATION`, either with `@SPLIT`."""

COMPRESSIONS = (".gz", ".zst")
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
}
"""By the end of the name, in small or capital letters; anything else is text."""

# Collected from a folder, where other files may lie: tables often tell about the texts beside them.
_IN_FOLDERS = (".txt", ".md", ".jsonl", ".ndjson", ".parquet")
_ALONE_IN_FOLDERS = (".csv", ".tsv")
_SHOWN = 5
_SAVED_DATASET = ("state.json", "dataset_dict.json")


@dataclass(frozen=True)
class TextFile:
    """A file of text, of JSON objects a line, or a table."""

    path: Path
    format: str
    """"text", "jsonl", "parquet", "csv" or "tsv"."""
    compression: str
    """Its ending, ".gz" or ".zst", or nothing."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    @property
    def identity(self) -> str:
        """Changes when the file does, and costs nothing to ask for."""
        stat = self.path.stat()
        return f"{self.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


@dataclass(frozen=True)
class HubDataset:
    """One split of a data set of the `datasets` library: from the hub, a script-free folder, or saved to disk."""

    name: str
    """As `datasets.load_dataset` takes it, or the folder that `save_to_disk` wrote."""
    configuration: str | None = None
    split: str = "train"

    def __str__(self) -> str:
        middle = f":{self.configuration}" if self.configuration else ""
        return f"{DATASET}{self.name}{middle}@{self.split}"

    @property
    def saved(self) -> Path | None:
        """The folder, if `save_to_disk` wrote it."""
        folder = Path(self.name)
        return folder if any((folder / file).is_file() for file in _SAVED_DATASET) else None

    @property
    def size(self) -> int:
        """Bytes on disk; 0 where that is not known."""
        if self.saved is None:
            return 0
        return sum(file.stat().st_size for file in self.saved.rglob("*.arrow"))

    @property
    def identity(self) -> str:
        """As for a file. Of a data set on the hub it is the name: whether it changed there is not asked."""
        if self.saved is None:
            return str(self)
        stamps = sorted(f"{file} {file.stat().st_mtime_ns}" for file in self.saved.rglob("*.arrow"))
        return f"{self} {self.size} {stamps}"


TextSource = TextFile | HubDataset


def find_sources(source: Corpus) -> list[TextSource]:
    """The parts of a corpus: a file, a glob, a folder, a data set, or several of these.

    Of a folder, the `.txt`, `.md` (but no README), `.jsonl` and `.parquet` files at any depth, compressed (`.gz`,
    `.zst`) or not; if there are none, the `.csv` and `.tsv` files.

    Returns:
        Data sets, then files, sorted and each once, so that a corpus does not depend on the order in which
        its parts are named.

    Raises:
        InputError: something named does not exist or matches no file.
    """
    names = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not names:
        raise InputError("no corpus was given: name a text file, a folder or a glob")
    texts = [os.fspath(name) for name in names]
    hub = {_parse_dataset(name) for name in texts if name.startswith(DATASET)}
    files: dict[Path, Path] = {}
    for name in texts:
        if name.startswith(DATASET):
            continue
        if (saved := HubDataset(name)).saved is not None:
            hub.add(saved)
        else:
            files.update({path.resolve(): path for path in _expand(name)})
    return [*sorted(hub, key=str), *(_describe(path) for path in sorted(files.values()))]


def overview(source: Corpus) -> list[str]:
    """What a corpus is made of, for a reader: its files and their sizes, and what of its folders is left out."""
    inputs = find_sources(source)
    shown = ", ".join(
        f"{each} ({size_told(each.size)})" if each.size else str(each) for each in inputs[:_SHOWN]
    )
    more = f", and {len(inputs) - _SHOWN} more" if len(inputs) > _SHOWN else ""
    total = (
        f"{len(inputs)} sources, {size_told(sum(each.size for each in inputs))}: " if len(inputs) > 1 else ""
    )
    told = [f"{total}{shown}{more}"]
    taken = {each.path.resolve() for each in inputs if isinstance(each, TextFile)}
    for name in [source] if isinstance(source, str | os.PathLike) else source:
        folder = Path(name)
        if not folder.is_dir() or HubDataset(os.fspath(name)).saved is not None:
            continue
        others = [file for file in folder.rglob("*") if file.is_file() and file.resolve() not in taken]
        if others:
            names = ", ".join(sorted(file.name for file in others)[:_SHOWN])
            told.append(f"{folder}: {len(others)} files are no text and left out: {names}")
    return told


def size_told(size: int) -> str:
    """Bytes as people say them."""
    power = min(3, (len(str(size)) - 1) // 3)
    return f"{size / 1000**power:,.4g} {('bytes', 'KB', 'MB', 'GB')[power]}"


def _parse_dataset(text: str) -> HubDataset:
    rest, _, split = text.removeprefix(DATASET).partition("@")
    name, _, configuration = rest.partition(":")
    if not name:
        raise InputError(f"{text}: name a data set: {DATASET}NAME, {DATASET}NAME:CONFIGURATION@SPLIT")
    return HubDataset(name, configuration or None, split or "train")


def _describe(path: Path) -> TextFile:
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    inner = path.with_suffix("") if compression else path
    return TextFile(path, FORMATS.get(inner.suffix.lower(), "text"), compression)


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        texts = [file for file in files if not file.name.lower().startswith("readme.md")]  # about them
        found = [file for file in texts if _ends(file, _IN_FOLDERS)]
        found = found or [file for file in files if _ends(file, _ALONE_IN_FOLDERS)]
        if not found:
            told = ", ".join((*_IN_FOLDERS, *_ALONE_IN_FOLDERS))
            raise InputError(f"{name}: no file of these kinds in this folder: {told}, or .gz or .zst of them")
    elif path.exists():
        found = [path]
    elif glob.has_magic(name):
        found = [Path(file) for file in glob.glob(name, recursive=True) if Path(file).is_file()]
        if not found:
            raise InputError(f"{name}: no file matches")
    else:
        raise InputError(f"{name}: no such file or folder")
    return found


def _ends(file: Path, kinds: tuple[str, ...]) -> bool:
    inner = file.with_suffix("") if file.suffix.lower() in COMPRESSIONS else file
    return inner.suffix.lower() in kinds
