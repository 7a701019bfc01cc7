"""transformers' Trainer with checkpoints that are there in full or not at all, and that forget nothing."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState, TrainerControl, TrainerState

from convbert.training._trainer_internals import TrainerInternals
from convbert.training.checkpoints import (
    OPTIMIZER_FILES,
    PROGRESS_FILE,
    SCHEDULER_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    checkpoint_folder,
    draft_folder,
    keep_newest,
    load_sharded_weights,
    load_weights,
    remove_leftovers,
    save_weights,
    set_later_ones_aside,
    translate_damage,
    whole_checkpoint,
)
from convbert.util.errors import DataWarning, InputError
from convbert.util.schema import read_json

_RESTORED = ("global_step", "epoch", "total_flos", "log_history", "best_metric", "best_global_step")


class CheckpointingTrainer(TrainerInternals):
    """Writes whole checkpoints, keeps the newest and the best, and resumes a run from one.

    Beside weights, optimizer, schedule and the Trainer's state, a checkpoint holds the state of all callbacks that can
    be exported, and `progress` of every process. There are no states of random numbers: see `seed_all`.

    The Trainer itself is never told to resume: everything is restored when training begins.
    """

    def __init__(self, *args: Any, callbacks: list[TrainerCallback], **kwargs: Any) -> None:
        super().__init__(*args, callbacks=[_Restoring(self), *callbacks], **kwargs)
        # Hidden from the Trainer, which at the end of a run would remove the newest for the best.
        self.keep_checkpoints, self.args.save_total_limit = self.args.save_total_limit or 1, None
        self.resumed_from: Path | None = None

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

    def resume_from(self, checkpoint: Path) -> int:
        """Restore callbacks and `progress` now, everything else when training begins; returns the step."""
        self.resumed_from = checkpoint
        state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        for callback in self.callback_handler.callbacks:
            stored = state.stateful_callbacks.get(type(callback).__name__)
            if isinstance(callback, ExportableState) and isinstance(stored, dict):
                vars(callback).update(stored["attributes"])
        with translate_damage(checkpoint / PROGRESS_FILE):
            self.load_progress(read_json(checkpoint / PROGRESS_FILE))
        return state.global_step

    def restore(self) -> None:
        """Restore the Trainer's state, weights, optimizer and schedule, once the Trainer has set them up."""
        if (checkpoint := self.resumed_from) is None:
            return
        stored = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        for name in _RESTORED:
            setattr(self.state, name, getattr(stored, name))
        self._find_best()
        self._read_weights(checkpoint)
        with translate_damage(checkpoint):
            if self.is_fsdp_enabled:
                from accelerate.utils import load_fsdp_optimizer

                plugin = self.accelerator.state.fsdp_plugin
                load_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, str(checkpoint))
            else:
                self.optimizer.load_state_dict(_load(checkpoint / OPTIMIZER_FILES[0]))
            self.lr_scheduler.load_state_dict(_load(checkpoint / SCHEDULER_FILE))

    def _find_best(self) -> None:
        """Where the best checkpoint lies now."""
        state = self.state
        if state.best_global_step is None:
            return
        best = checkpoint_folder(Path(self.args.output_dir), state.best_global_step)
        state.best_model_checkpoint = str(best)
        if not best.is_dir():
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
            if self.is_world_process_zero():
                warnings.warn(
                    f"{best}: the best checkpoint so far is gone; the best of the steps to come is taken",
                    DataWarning,
                    stacklevel=2,
                )

    def _read_weights(self, checkpoint: Path) -> None:
        (load_sharded_weights if self.is_fsdp_enabled else load_weights)(self.model, checkpoint)

    def write_checkpoint(self) -> None:
        """Write the checkpoint of the current step, and remove those that are no longer kept."""
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
        gathered = self.accelerator.get_state_dict(self.model) if self.is_fsdp_enabled else None
        if self.is_world_process_zero():
            save_weights(self.model, draft / WEIGHTS_FILE, gathered)
            torch.save(self.lr_scheduler.state_dict(), draft / SCHEDULER_FILE)
        if self.is_fsdp_enabled:
            from accelerate.utils import save_fsdp_optimizer

            plugin = self.accelerator.state.fsdp_plugin
            save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, str(draft))
        else:
            torch.save(self.optimizer.state_dict(), draft / OPTIMIZER_FILES[0])

    def _write_state(self, draft: Path, progress: list[dict[str, Any]]) -> None:
        (draft / PROGRESS_FILE).write_text(json.dumps(progress, allow_nan=False) + "\n", encoding="utf-8")
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(draft / STATE_FILE))
        for path in draft.glob("*.safetensors"):  # which safetensors shows to nobody else, whatever the umask
            path.chmod((draft / STATE_FILE).stat().st_mode)

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether the metric that chooses the best checkpoint is better than before; if so, it is saved at once."""
        name, state = self.args.metric_for_best_model, self.state
        if name is None or not math.isfinite(value := metrics.get(name, math.nan)):
            return False  # a metric of which nothing was counted is not there
        sign = 1 if self.args.greater_is_better else -1
        better = state.best_metric is None or sign * value > sign * state.best_metric
        if better:
            state.best_metric, state.best_global_step = value, state.global_step
            self.control.should_save = True
        return better

    def load_best(self) -> None:
        """Go back to the best checkpoint, from where the run lies now; the last weights never take its place."""
        self._read_weights(checkpoint_folder(Path(self.args.output_dir), self.state.best_global_step))


class _Restoring(TrainerCallback):
    """Restores a checkpoint when training begins; replaces checkpoints that the Trainer wrote in its own way."""

    def __init__(self, trainer: CheckpointingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.trainer.is_world_process_zero():
            remove_leftovers(Path(args.output_dir))
            if self.trainer.resumed_from is not None:
                step = TrainerState.load_from_json(str(self.trainer.resumed_from / STATE_FILE)).global_step
                set_later_ones_aside(Path(args.output_dir), step)
        self.trainer.restore()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not (checkpoint_folder(Path(args.output_dir), state.global_step) / PROGRESS_FILE).exists():
            self.trainer.write_checkpoint()


def _load(file: Path) -> Any:
    with translate_damage(file):
        return torch.load(file, map_location="cpu", weights_only=True)
