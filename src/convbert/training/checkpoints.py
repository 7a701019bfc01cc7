"""The checkpoints of a run: written beside, moved into place when complete, kept to a limit, checked before use.

A folder named `checkpoint-<step>` is complete, whenever the run was killed. What a kill leaves half-written or
half-removed has another name, and is cleaned up by the next start.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from annotated_types import Len
from pydantic import NonNegativeInt, PositiveInt
from torch import nn
from transformers.trainer_callback import TrainerState

from convbert.util.errors import InputError
from convbert.util.schema import Schema, check, read_json

STATE_FILE = "trainer_state.json"
PROGRESS_FILE = "progress.json"
WEIGHTS_FILE = "model.safetensors"
SCHEDULER_FILE = "scheduler.pt"
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")
"""Of one process, and of FSDP."""
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
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        for path in (*draft.rglob("*"), draft):
            _to_disk(path)
        waste = _set_aside(folder)  # of the same step, where a run went on from an older one
        os.replace(draft, folder)
        _to_disk(root)
        shutil.rmtree(waste, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"checkpoint-{step}"


def draft_folder(root: Path) -> Path:
    """Where a checkpoint is written to."""
    return root / _DRAFT


def keep_newest(root: Path, limit: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest `limit` and the best."""
    for step in list(checkpoints_in(root))[:-limit]:
        if step != best_step:  # killed on the way, none is left that looks complete
            shutil.rmtree(_set_aside(checkpoint_folder(root, step)), ignore_errors=True)


def remove_leftovers(root: Path) -> None:
    """Remove what a kill left half-written or half-removed."""
    for name in (_DRAFT, _WASTE):
        for path in root.glob(f"{name}*"):
            shutil.rmtree(path, ignore_errors=True)


def set_later_ones_aside(root: Path, step: int) -> None:
    """Rename the checkpoints after this step, from which a run goes on: those of steps that it takes anew."""
    for later, path in checkpoints_in(root).items():
        if later > step:
            _set_aside(path, "unused")


def _set_aside(folder: Path, prefix: str = _WASTE) -> Path:
    """Give a folder, if it is there, a name that is no checkpoint's."""
    aside = folder.with_name(f"{prefix}-{folder.name}")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
    return aside


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    if os.name == "nt" and path.is_dir():  # Windows syncs no folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------ checks


def usable_checkpoint(root: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, or None where there is none; `report` is told of damaged ones.

    Raises:
        InputError: all of them are damaged.
    """
    problem = ""
    for folder in reversed(checkpoints_in(root).values()):
        try:
            _check_whole(folder)
        except InputError as error:
            problem = str(error)
            report(f"warning: {problem}; it is not used")
        else:
            return folder
    if problem:
        raise InputError(
            f"{problem}, and there is no other checkpoint: remove its folder to train from the beginning"
        )
    return None


class _Callback(Schema):
    attributes: dict[str, bool | int | float]


class _State(Schema):
    """Of `trainer_state.json`, what is read."""

    global_step: NonNegativeInt
    epoch: float | None = None
    total_flos: float = 0.0
    log_history: list[dict[str, Any]]
    stateful_callbacks: dict[str, _Callback | list[_Callback]]
    train_batch_size: PositiveInt | None = None
    best_global_step: NonNegativeInt | None = None
    best_metric: float | None = None
    best_model_checkpoint: str | None = None


class _Progress(Schema):
    """Of each entry of `progress.json`; see `MetricMeter.state` for `figures`."""

    figures: dict[str, Annotated[list[float] | list[list[float]], Len(2, 2)]]
    skipped_steps: NonNegativeInt
    skipped_in_a_row: NonNegativeInt


def _check_whole(folder: Path) -> None:
    """Refuse a checkpoint that lacks a file, or has a torn one; nothing is unpickled."""
    state, progress = folder / STATE_FILE, folder / PROGRESS_FILE
    step = check(_State, read_json(state), state).global_step
    if folder != checkpoint_folder(folder.parent, step):
        raise InputError(f"{state}: is of step {step}")
    with translate_damage(state):
        TrainerState.load_from_json(str(state))
    parts = read_json(progress)
    if not isinstance(parts, list) or not parts:
        raise InputError(f"{progress}: a list of what each process has counted is wanted")
    for part in parts:
        check(_Progress, part, progress)
    with translate_damage(folder / WEIGHTS_FILE), safetensors.safe_open(folder / WEIGHTS_FILE, "pt"):
        pass
    optimizers = [folder / name for name in OPTIMIZER_FILES if (folder / name).exists()]
    is_sharded = any(path.is_dir() and any(path.iterdir()) for path in folder.glob("optimizer_*"))
    if not optimizers and not is_sharded:
        raise InputError(f"{folder / OPTIMIZER_FILES[0]}: there is no such file")
    for path in (*optimizers, folder / SCHEDULER_FILE):
        with translate_damage(path):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(content, dict) or not content:
            raise InputError(f"{path}: is damaged: it holds no state")


@contextmanager
def translate_damage(source: Path) -> Iterator[None]:
    """One sentence for all that a damaged file of a checkpoint, or one of another run, makes libraries say."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{source}: there is no such file") from error
    except Exception as error:  # torch's own unpickler raises nearly every class there is
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{source}: is damaged, or belongs to another run ({cause:.100})") from error


# ----------------------------------------------------------------------------------------------- weights


def save_weights(objective: nn.Module, file: Path, gathered: dict[str, torch.Tensor] | None) -> None:
    """Write the weights of a whole objective; safetensors keeps tied tables once and restores the tie.

    Args:
        gathered: of a sharded one, all weights; in these, a tied table is there under each of its names.
    """
    if gathered is None:
        safetensors.torch.save_model(objective, str(file))
    else:
        names = [name for name, _ in (*objective.named_parameters(), *objective.named_buffers())]
        safetensors.torch.save_file({name: gathered[name] for name in names}, str(file))


def load_weights(objective: nn.Module, checkpoint: Path) -> None:
    """Load the weights of a checkpoint into an objective like the one that was trained."""
    with translate_damage(checkpoint / WEIGHTS_FILE):
        safetensors.torch.load_model(objective, str(checkpoint / WEIGHTS_FILE))


@torch.no_grad()
def load_sharded_weights(objective: nn.Module, checkpoint: Path) -> None:
    """As `load_weights`, for an objective of which every process has its part; all of them must call it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    with translate_damage(checkpoint / WEIGHTS_FILE):
        whole = safetensors.torch.load_file(checkpoint / WEIGHTS_FILE)
    for name, own in (*objective.named_parameters(), *objective.named_buffers()):
        given = whole[name].to(own.device)
        own.copy_(
            distribute_tensor(given, own.device_mesh, own.placements) if isinstance(own, DTensor) else given
        )
