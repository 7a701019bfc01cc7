"""The private names of transformers' Trainer that training relies on: all of them are in this file.

Everything else is public API: the events of `TrainerCallback`, and the methods and attributes without an underscore.
For each private name, this file says what happens when a later transformers renames it. No case fails at import, and
none switches off a guarantee: `tests/training/test_trainer_internals.py` fails for a method that is no longer called.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from convbert.util.errors import InputError


class TrainerInternals(Trainer):
    """Private methods of Trainer under public names."""

    gradient_norm: Tensor | None = None
    """Of the step being taken, before clipping. Whoever reads it sets it back to None."""

    def write_checkpoint(self) -> None:
        """Write the checkpoint of the current step."""
        raise NotImplementedError

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether an evaluation is the best so far; what follows from that is noted."""
        raise NotImplementedError

    def load_best(self) -> None:
        """Go back to the best weights."""
        raise NotImplementedError

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Keeps the norm, so that the check for finite gradients need not compute it again.

        When gone: `ObjectiveTrainer` computes the norm itself, before every optimizer step.
        """
        self.gradient_norm = norm = super()._clip_grad_norm(model)
        return norm

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        """Writes our checkpoints in place of the Trainer's, which are neither whole nor enough for exact resume.

        When gone: the Trainer writes its own first, and ours replaces it on `on_save`.
        """
        self.write_checkpoint()

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        """Lets a metric of any name choose the best checkpoint, and an evaluation lack it.

        When gone: the Trainer's rule decides, which raises a KeyError that names a metric it does not find.
        """
        return self.is_best(metrics)

    def _load_best_model(self) -> None:
        """Loads the best weights from where the run lies now, by our rules for tied and sharded tables.

        When gone: the Trainer loads the same file in its own way, from where the run lay when it was written.
        """
        self.load_best()

    def _get_learning_rate(self) -> float:
        """The highest rate of all parameter groups, that of the head; the Trainer would log that of the first group.

        When gone: the log shows the rate of the first group.
        """
        return float(max(self.lr_scheduler.get_last_lr()))


def use_one_device(arguments: TrainingArguments) -> None:
    """Keep the Trainer from spreading a process over all GPUs by threads (`DataParallel`).

    When `_n_gpu` is gone: a process that sees several GPUs is refused.

    Raises:
        InputError: see above.
    """
    _ = arguments.device  # sets the devices up
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if arguments.n_gpu > 1:
        raise InputError(
            "this process sees several GPUs: start with torchrun, or set CUDA_VISIBLE_DEVICES to one"
        )
