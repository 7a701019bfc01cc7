"""What transformers' Trainer is told."""

from __future__ import annotations

import os
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from convbert.ops.backends import supports_bfloat16
from convbert.training._trainer_internals import use_one_device
from convbert.training.callbacks import TrainingBudget
from convbert.util.errors import InputError

_NEVER = 10**8
"""A number of steps that no run reaches, for runs that end by time."""
_FSDP: dict[str, Any] = {
    "fsdp": "full_shard auto_wrap",
    "fsdp_config": {
        "version": 2,
        "transformer_layer_cls_to_wrap": ["ConvBertLayer"],
        "state_dict_type": "FULL_STATE_DICT",  # whole weights in checkpoints: sharded ones are read by unpickling
    },
}


def training_arguments(
    output_dir: str | Path,
    budget: TrainingBudget,
    *,
    batch_size: int,
    gradient_accumulation_steps: int = 1,
    max_grad_norm: float = 1.0,
    bf16: bool = False,
    log_every: int = 50,
    evaluate_every: int | None = None,
    save_every: int = 500,
    keep_checkpoints: int = 2,
    seed: int = 0,
    device: str | None = None,
    best_metric: str | None = None,
    greater_is_better: bool = True,
    load_best_at_end: bool = True,
    dataloader_workers: int | None = None,
    compile: bool | str = False,
    fsdp: bool = False,
    report_to: str | None = None,
) -> TrainingArguments:
    """Arguments for `ObjectiveTrainer`; intervals count optimizer steps, `batch_size` is per process.

    Args:
        keep_checkpoints: the newest so many are kept, and the best.
        evaluate_every: None turns evaluation during training off.
        best_metric: name of a metric of `evaluate`, as "heldout_masked_loss"; a checkpoint is written whenever it is
            better than before, and the best is kept.
        load_best_at_end: go back to the best checkpoint when training ends. `save_every` must be a multiple of
            `evaluate_every`.
        device: "cpu" keeps a GPU unused; None takes what is there.
        dataloader_workers: processes that prepare batches; None takes none on a CPU, where they would take cores
            from the model, and up to four beside a GPU.
        compile: run the objective through `torch.compile`; True for its default backend, or the name of another.
        fsdp: shard parameters, gradients and optimizer over the processes (FSDP2); needs GPUs.
        report_to: one of the Trainer's own integrations, as "tensorboard".

    Raises:
        InputError: `fsdp` without GPUs or in a single process; `report_to` is none of the Trainer's, or its package is
            missing.
    """
    use_cpu = uses_cpu(device)
    if fsdp:
        check_fsdp(use_cpu)
    if report_to is not None and report_to not in INTEGRATION_TO_CALLBACK:
        raise InputError(f"report_to must be one of {', '.join(INTEGRATION_TO_CALLBACK)}; got {report_to!r}")
    if report_to == "tensorboard" and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise InputError("reporting to TensorBoard needs tensorboard: pip install tensorboard")
    if dataloader_workers is None:
        cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        dataloader_workers = 0 if use_cpu else max(1, min(4, cores - 1))
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=_NEVER if budget.max_steps is None else budget.max_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_grad_norm=max_grad_norm,
        bf16=bf16,
        logging_strategy="steps",
        logging_steps=log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # the trainer drops such steps whole
        eval_strategy="no" if evaluate_every is None else "steps",
        eval_steps=evaluate_every,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=keep_checkpoints,
        ignore_data_skip=True,  # the stream of batches starts where it should
        seed=seed,
        use_cpu=use_cpu,
        load_best_model_at_end=best_metric is not None and load_best_at_end,
        metric_for_best_model=best_metric,
        greater_is_better=None if best_metric is None else greater_is_better,
        dataloader_num_workers=dataloader_workers,
        dataloader_pin_memory=not use_cpu,
        ddp_find_unused_parameters=False,  # every trained parameter takes part in every step
        torch_compile=bool(compile),
        torch_compile_backend=compile if isinstance(compile, str) else None,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[] if report_to is None else [report_to],
        **(deepcopy(_FSDP) if fsdp else {}),
    )
    use_one_device(arguments)
    return arguments


def check_fsdp(use_cpu: bool) -> None:
    """Refuse a single process, and CPUs, over which accelerate does not shard."""
    if use_cpu:
        raise InputError("fsdp needs GPUs; on CPUs, several processes train with whole copies of the model")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise InputError("fsdp needs several processes: start with torchrun or accelerate launch")


def device_of(device: str | None) -> torch.device:
    """Where a run that was asked for on `device` runs: on a CPU, or on the accelerator that is there."""
    found = None if uses_cpu(device) else torch.accelerator.current_accelerator()
    return found or torch.device("cpu")


def uses_cpu(device: str | None) -> bool:
    """Whether a run that was asked for on `device` ("cpu", or None for what is there) runs on a CPU."""
    return device == "cpu" or not torch.accelerator.is_available()


def uses_bfloat16(asked: bool | str, device: str | None) -> bool:
    """Whether a run on `device` autocasts to bfloat16: as asked, or with "auto" where the hardware multiplies it."""
    if asked != "auto":
        return bool(asked)
    on_gpu = torch.cuda.is_available() and device != "cpu"
    return supports_bfloat16(torch.device("cuda" if on_gpu else "cpu"))
