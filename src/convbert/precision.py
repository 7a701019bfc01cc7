"""In which numbers a model computes: what a device can run, which of it is fast there, and what "auto" takes."""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel

from convbert.errors import InputError, SlowerWarning
from convbert.inference import pack_weights
from convbert.ops.backends import supports_bfloat16
from convbert.quantization import quantize, why_not_int8

Precision = Literal["auto", "fp32", "bf16", "int8"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of the weights, by name. Nobody asks for fp16: "auto" leaves it on a GPU where a model is stored so."""


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse what cannot run.

    Raises:
        InputError: a word that is no `Precision`, or one that cannot run on `device`, with the reason.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision must be one of {', '.join(get_args(Precision))}; got {precision!r}")
    if reason := why_not(precision, device):
        raise InputError(f"{precision} cannot run here: {reason}")


def set_precision(model: PreTrainedModel, precision: Precision, device: torch.device) -> None:
    """Make a model as it was loaded compute in `precision` on `device`, in place, for inference alone.

    On a CPU, the encoder's weights are laid out as the matrix library reads them fastest.

    In int8, the wide linear layers of the encoder are 8-bit. Embeddings, norms, convolutions and the head, which is
    computed at few positions, stay in fp32, and the model can be neither trained nor saved.

    Warns with a `SlowerWarning` where what was asked for runs, but fp32 would be faster.

    Raises:
        InputError: see `check_precision`.
    """
    check_precision(precision, device)
    if precision == "auto":
        name, _ = automatic(device, model.dtype)
        _convert(model, DTYPES[name], device)
        return
    if reason := why_slow(precision, device):
        warnings.warn(f"{precision} is slower than fp32 here: {reason}", SlowerWarning, stacklevel=3)
    if precision != "int8":
        _convert(model, DTYPES[precision], device)
        return
    model.float().requires_grad_(False)
    replaced = quantize(model.base_model.encoder)
    pack_weights(model.base_model.encoder)  # what is left
    if not replaced:
        warnings.warn(
            "int8 is fp32 here: no linear layer of this model is wide enough to gain from it",
            SlowerWarning,
            stacklevel=3,
        )


def _convert(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> None:
    model.to(dtype)
    if device.type == "cpu":
        model.requires_grad_(False)
        pack_weights(model.base_model.encoder)


def automatic(device: torch.device, stored: torch.dtype) -> tuple[str, str]:
    """What "auto" takes for a model stored in `stored`, a key of `DTYPES`, and why.

    Of fp32 and bf16 the fastest: bf16 loses a tenth of a point of masked accuracy, and gives another first token in
    about one of eighty places (benchmarks/results, pipeline). int8 is never taken unasked.
    """
    if device.type != "cpu" and stored in (torch.bfloat16, torch.float16):
        return next(name for name, dtype in DTYPES.items() if dtype == stored), "as the model is stored"
    reason = why_slow("bf16", device)
    return ("fp32", reason) if reason else ("bf16", "the hardware multiplies it")


def why_not(precision: str, device: torch.device) -> str | None:
    """The reason why `precision` cannot run on `device`, or None where it can."""
    return why_not_int8(device) if precision == "int8" else None


def why_slow(precision: str, device: torch.device) -> str | None:
    """The reason why `precision` is slower than fp32 on `device`, or None where it is not."""
    if precision == "bf16" and not supports_bfloat16(device):
        return f"this {'processor' if device.type == 'cpu' else 'device'} has no bf16 instructions"
    if precision == "int8" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "the 8-bit product is fast on x86 processors with AVX2 or better"
    return None
