"""Write files, and the files of a folder, whole or not at all, and as the only process that does."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from convbert.util.errors import InputError

PathLike = str | os.PathLike[str]

LOCK = ".lock"
"""The file in a folder that `folder_lock` holds."""

_WEIGHTS = re.compile(r"(?P<stem>model(\.[\w.]+)?)(-\d{5}-of-\d{5})?\.safetensors")


def save_model(save: Callable[..., Any], save_directory: PathLike, *args: Any, **kwargs: Any) -> None:
    """Run transformers' `save_pretrained` so that a full disk leaves the folder as it was.

    Weights of an earlier save that the new ones replace are removed: `from_pretrained` reads an old
    `model.safetensors` before it looks for new shards.

    Args:
        save: bound `save_pretrained` of transformers; called with a draft folder, `args` and `kwargs`.
        save_directory: where the files end up; created where missing.
        args, kwargs: as `save` takes them. A distributed checkpoint, which many processes write together,
            goes straight to its place.

    Raises:
        InputError: the folder cannot be written.
    """
    if kwargs.get("distributed_checkpoint"):
        save(save_directory, *args, **kwargs)
        return
    if kwargs.get("push_to_hub"):
        kwargs.setdefault("repo_id", Path(save_directory).name)  # transformers would take the draft's name
    with atomic_folder(save_directory) as draft:
        save(draft, *args, **kwargs)
        names = {file.name for file in draft.iterdir()}
    _remove_replaced_weights(Path(save_directory), names)


def save_tokenizer(tokenizer: Any, folder: PathLike, max_length: int | None = None) -> None:
    """Write a tokenizer as transformers does, and `vocab.txt` beside it, which other tools read.

    Args:
        max_length: positions of the model that it is for.
    """
    if max_length is not None:
        tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)
    tokenizer.save_vocabulary(os.fspath(folder))


@contextmanager
def atomic_folder(folder: PathLike) -> Iterator[Path]:
    """Give a draft to write files into; they move to `folder` when the block ends well.

    Otherwise `folder` is left as it was. Every file in it is at any moment an old one or a new one, whole.
    Until the end, the disk holds both.

    Raises:
        InputError: `folder` is a file, or it cannot be written (a full disk, no permission).
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; give a folder to save to")
    is_new = not target.exists()
    try:
        with _naming(target):
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=target) as draft:
                yield Path(draft)
                entries = sorted(Path(draft).iterdir())
                files = [file for file in Path(draft).rglob("*") if file.is_file()]
                probe = Path(draft) / ".mode"
                probe.touch()  # has the mode that the umask gives; safetensors writes for its owner alone
                mode = probe.stat().st_mode & 0o777
                for file in files:
                    file.chmod(mode)
                for entry in entries:
                    if entry.is_dir() and (target / entry.name).is_dir():
                        shutil.rmtree(target / entry.name)  # a folder does not replace one that holds files
                    os.replace(entry, target / entry.name)
    except BaseException:
        if is_new:
            shutil.rmtree(target, ignore_errors=True)
        raise


@contextmanager
def folder_lock(folder: PathLike, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that does something in a folder, which is made where missing.

    The lock goes with the process, however that ends, and is not kept by processes that it started.

    Args:
        doing: what, for the process that is refused, as "training".
        wait: for the other to end, instead of refusing.

    Raises:
        InputError: another process is at it, or the folder cannot be written.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; the output must be a folder")
    with _naming(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK, timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"{path}: another process is {doing} in this folder") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes it on release
            (path / LOCK).unlink()  # a process that waits for it notices, and makes another
        lock.release()


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there in full or not at all, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_array(path: Path, array: Any) -> None:
    """Write an array of NumPy, without anything that would be unpickled."""
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    atomic_write(path, stream.getvalue())


def write_json(path: Path, content: Any) -> None:
    """Write an object for people to read, in full or not at all; none of its numbers may be NaN, which is no JSON.

    Raises:
        InputError: the folder cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with _naming(path.parent):
        atomic_write(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turn what the system or safetensors says about a failed write into one sentence."""
    try:
        yield
    except SafetensorError as error:
        cause = str(error).rpartition("I/O error: ")[2]
        raise InputError(f"{folder}: cannot be written: {cause}") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _remove_replaced_weights(folder: Path, new_names: set[str]) -> None:
    stems = {match["stem"] for name in new_names if (match := _WEIGHTS.fullmatch(name))}
    for file in folder.iterdir():
        match = _WEIGHTS.fullmatch(file.name)
        if match and match["stem"] in stems and file.name not in new_names:
            file.unlink()
