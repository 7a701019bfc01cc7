"""transformers' Trainer with checkpoints that are there in full or not at all, and that forget nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from annotated_types import Len
from pydantic import NonNegativeInt, PositiveInt
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer
from transformers.trainer_callback import ExportableState, TrainerState

from convbert.training.callbacks import STATE_FILE
from convbert.training.checkpoints import (
    checkpoint_folder,
    checkpoints_in,
    draft_folder,
    keep_newest,
    remove_leftovers,
    set_later_ones_aside,
    whole_checkpoint,
)
from convbert.util.errors import InputError
from convbert.util.schema import Schema, check, read_json

_WEIGHTS_FILE = "model.safetensors"
_PROGRESS_FILE = "progress.json"
_SCHEDULER_FILE = "scheduler.pt"
_OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")
"""Of one process, and of FSDP."""
_WEIGHTS_AGAIN = "pytorch_model_fsdp.bin"
"""What the Trainer writes beside the optimizer of FSDP, and would read by unpickling."""


class CheckpointingTrainer(Trainer):
    """Writes whole checkpoints, keeps the newest and the best, and takes a run up where one was written.

    Beside weights, optimizer, schedule and the Trainer's state, a checkpoint holds the state of all callbacks that can
    be exported, and `progress` of every process. There are no states of random numbers: see `randomness`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Taken out of the Trainer's sight, which at the end of a run would remove the newest for the best.
        self.keep_checkpoints, self.args.save_total_limit = self.args.save_total_limit or 1, None

    def progress(self) -> dict[str, Any]:
        """What else this process needs to go on as if nothing had happened, as JSON has it."""
        raise NotImplementedError

    def load_progress(self, progress: list[dict[str, Any]]) -> None:
        """Go on from what `progress` gave in every process of the run before, which may have had more or fewer."""
        raise NotImplementedError

    def everyone(self, yes: bool) -> bool:
        """Whether all processes say yes; they take the same way from here on."""
        if self.args.world_size == 1:
            return yes
        votes = torch.tensor(float(yes), device=self.args.device)
        return int(self.accelerator.reduce(votes, "sum")) == self.args.world_size

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        checkpoint = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        if self.is_world_process_zero():
            remove_leftovers(Path(self.args.output_dir))
            if checkpoint is not None:
                set_later_ones_aside(checkpoint)
        return super().train(None if checkpoint is None else str(checkpoint), **kwargs)

    def take_up(self, checkpoint: Path) -> int:
        """Restore what the Trainer itself does not.

        Returns:
            The step of the checkpoint.
        """
        state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        for callback in self.callback_handler.callbacks:
            stored = state.stateful_callbacks.get(type(callback).__name__)
            if isinstance(callback, ExportableState) and isinstance(stored, dict):
                vars(callback).update(stored["attributes"])
        with _naming(checkpoint / _PROGRESS_FILE):
            self.load_progress(read_json(checkpoint / _PROGRESS_FILE))
        return state.global_step

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        from accelerate.utils import gather_object

        root, step = Path(self.args.output_dir), self.state.global_step
        folder = checkpoint_folder(root, step)
        if self.state.best_global_step == step:
            self.state.best_model_checkpoint = str(folder)
        progress = gather_object([self.progress()])
        failure: Exception | None = None
        try:
            if self.is_world_process_zero():
                with whole_checkpoint(root, step) as draft:
                    self._write_weights(draft)
                    self._write_state(draft, progress)
                keep_newest(root, self.keep_checkpoints, self.state.best_global_step)
            elif self.is_fsdp_enabled:  # every process has its part of the weights
                self._write_weights(draft_folder(root))
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk comes as any of the three
            failure = error
        if not self.everyone(failure is None):
            raise InputError(f"{folder}: the checkpoint cannot be written: {failure}") from failure

    def _write_weights(self, draft: Path) -> None:
        self.save_model(str(draft), _internal_call=True)
        self._save_optimizer_and_scheduler(str(draft))
        (draft / _WEIGHTS_AGAIN).unlink(missing_ok=True)

    def _write_state(self, draft: Path, progress: list[dict[str, Any]]) -> None:
        (draft / _PROGRESS_FILE).write_text(json.dumps(progress, allow_nan=False) + "\n", encoding="utf-8")
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(draft / STATE_FILE))
        for path in draft.glob("*.safetensors"):  # which safetensors shows to nobody else, whatever the umask
            path.chmod((draft / STATE_FILE).stat().st_mode)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As Trainer's, for a figure of any name; a better one than before is saved at once."""
        name, state = self.args.metric_for_best_model, self.state
        if name is None or not math.isfinite(value := metrics.get(name, math.nan)):
            return False  # a figure of which nothing was counted is not there
        sign = 1 if self.args.greater_is_better else -1
        better = state.best_metric is None or sign * value > sign * state.best_metric
        if better:
            state.best_metric, state.best_global_step = value, state.global_step
            self.control.should_save = True
        return better

    # Checkpoints hold the whole objective; safetensors keeps tied tables once and restores the tie.
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.is_world_process_zero():
            return
        file = str(Path(output_dir or self.args.output_dir, _WEIGHTS_FILE))
        if state_dict is None:
            safetensors.torch.save_model(self.model, file)
        else:  # gathered from all processes, where a tied table has become one for each of its names
            safetensors.torch.save_file({name: state_dict[name] for name, _ in _tensors_of(self.model)}, file)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load = load_sharded_weights if self.is_fsdp_enabled else load_weights
        load(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _naming(Path(checkpoint or "")):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        """As Trainer's, from where the run lies now, and never the last weights in place of the best."""
        best = checkpoint_folder(Path(self.args.output_dir), self.state.best_global_step)
        self._load_from_checkpoint(str(best))


def usable_checkpoint(root: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, or None where there is no checkpoint.

    Args:
        report: told of damaged ones.

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
    """What a callback goes on from: numbers and switches."""

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
    """Of each entry of `progress.json`; see `FigureMeter` for the figures."""

    figures: dict[str, Annotated[list[float] | list[list[float]], Len(2, 2)]]
    skipped_steps: NonNegativeInt
    skipped_in_a_row: NonNegativeInt


def _check_whole(folder: Path) -> None:
    """Refuse a checkpoint that lacks a file, or has a torn one; nothing is unpickled.

    Raises:
        InputError: naming the file.
    """
    state, progress = folder / STATE_FILE, folder / _PROGRESS_FILE
    step = check(_State, read_json(state), state).global_step
    if folder != checkpoint_folder(folder.parent, step):
        raise InputError(f"{state}: is of step {step}")
    with _naming(state):
        TrainerState.load_from_json(str(state))
    parts = read_json(progress)
    if not isinstance(parts, list) or not parts:
        raise InputError(f"{progress}: a list of what each process has counted is wanted")
    for part in parts:
        check(_Progress, part, progress)
    with _naming(folder / _WEIGHTS_FILE), safetensors.safe_open(folder / _WEIGHTS_FILE, "pt"):
        pass
    optimizers = [folder / name for name in _OPTIMIZER_FILES if (folder / name).exists()]
    is_sharded = any(path.is_dir() and any(path.iterdir()) for path in folder.glob("optimizer_*"))
    if not optimizers and not is_sharded:
        raise InputError(f"{folder / _OPTIMIZER_FILES[0]}: there is no such file")
    for path in (*optimizers, folder / _SCHEDULER_FILE):
        with _naming(path):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(content, dict) or not content:
            raise InputError(f"{path}: is damaged: it holds no state")


@contextmanager
def _naming(source: Path) -> Iterator[None]:
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


def load_weights(objective: nn.Module, checkpoint: Path) -> None:
    """Load the weights of a checkpoint into an objective like the one that was trained.

    Raises:
        InputError: they are missing, damaged or another model's.
    """
    with _naming(checkpoint / _WEIGHTS_FILE):
        safetensors.torch.load_model(objective, str(checkpoint / _WEIGHTS_FILE))


@torch.no_grad()
def load_sharded_weights(objective: nn.Module, checkpoint: Path) -> None:
    """As `load_weights`, for an objective of which every process has its part; all of them must call it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    with _naming(checkpoint / _WEIGHTS_FILE):
        whole = safetensors.torch.load_file(checkpoint / _WEIGHTS_FILE)
    for name, own in _tensors_of(objective):
        given = whole[name].to(own.device)
        own.copy_(
            distribute_tensor(given, own.device_mesh, own.placements) if isinstance(own, DTensor) else given
        )


def _tensors_of(objective: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, those of several names by the first of them."""
    return chain(objective.named_parameters(), objective.named_buffers())
