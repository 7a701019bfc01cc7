"""The checkpoints of a run: written beside, moved into place when complete, kept to a limit.

A folder named `checkpoint-<step>` is complete, whenever the run was killed. What a kill leaves half-written or
half-removed has another name, and is cleaned up by the next start.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_DRAFT = ".writing-checkpoint"
_WASTE = ".removing-checkpoint"


def checkpoints_in(root: str | os.PathLike[str]) -> dict[int, Path]:
    """Step to folder of every complete checkpoint, oldest first."""
    folders = Path(root).glob("checkpoint-*")
    found = {int(match[1]): path for path in folders if (match := _CHECKPOINT.fullmatch(path.name))}
    return dict(sorted(found.items()))


def last_checkpoint(root: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint, or None."""
    return next(reversed(checkpoints_in(root).values()), None)


@contextmanager
def whole_checkpoint(root: Path, step: int) -> Iterator[Path]:
    """Give a draft to write into; it becomes `checkpoint-<step>` when the block ends well, and vanishes otherwise.

    Also after a loss of power: the files are on the disk before the folder gets its name.
    """
    draft, folder = draft_folder(root), checkpoint_folder(root, step)
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        for path in (*draft.rglob("*"), draft):
            _to_disk(path)
        waste = _set_aside(folder)  # of the same step, where a run went on from an older one
        os.replace(draft, folder)
        _to_disk(root)
        shutil.rmtree(waste, ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"checkpoint-{step}"


def draft_folder(root: Path) -> Path:
    """Where a checkpoint is written to."""
    return root / _DRAFT


def keep_newest(root: Path, limit: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest `limit` and the best."""
    steps = list(checkpoints_in(root))
    for step in steps[:-limit]:
        if step != best_step:
            remove_checkpoint(checkpoint_folder(root, step))


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, if it is there; killed on the way, none is left that looks complete."""
    shutil.rmtree(_set_aside(folder), ignore_errors=True)


def remove_leftovers(root: Path) -> None:
    """Remove what a kill left half-written or half-removed."""
    for name in (_DRAFT, _WASTE):
        for path in root.glob(f"{name}*"):
            shutil.rmtree(path, ignore_errors=True)


def set_later_ones_aside(folder: Path) -> None:
    """Rename the checkpoints after this one, from which a run goes on: those of steps that it takes anew."""
    found = checkpoints_in(folder.parent)
    step = next((step for step, path in found.items() if path.name == folder.name), None)
    for later, path in found.items():
        if step is not None and later > step:
            unused = path.with_name(f"unused-{path.name}")
            shutil.rmtree(unused, ignore_errors=True)
            os.replace(path, unused)


def _set_aside(folder: Path) -> Path:
    """Give a folder, if it is there, a name that is no checkpoint's."""
    waste = folder.with_name(f"{_WASTE}-{folder.name}")
    if folder.exists():
        shutil.rmtree(waste, ignore_errors=True)
        os.replace(folder, waste)
    return waste


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    if os.name == "nt" and path.is_dir():  # Windows syncs no folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
