"""In which numbers a model computes: what a device can run, which of it is fast there, and what "auto" takes."""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel

from convbert.model.frozen import freeze
from convbert.ops import compiled
from convbert.ops.backends import supports_bfloat16
from convbert.util.errors import InputError, SlowerWarning

Precision = Literal["auto", "fp32", "bf16", "int8"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of the weights, by name. Nobody asks for fp16: "auto" leaves it on a GPU where a model is stored so."""


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a word that is no `Precision`, or one that cannot run on `device`, with the reason."""
    if precision not in get_args(Precision):
        raise InputError(f"precision must be one of {', '.join(get_args(Precision))}; got {precision!r}")
    if reason := why_not(precision, device):
        raise InputError(f"{precision} cannot run here: {reason}")


def set_precision(model: PreTrainedModel, precision: Precision, device: torch.device) -> None:
    """Make a model as it was loaded compute in `precision` on `device`, in place, to be run.

    On a CPU the encoder is frozen at once, see `convbert.model.frozen`, and no weight asks for a gradient. In int8,
    the encoder's wide linear layers compute in 8-bit numbers; embeddings, norms, convolutions and the head stay in
    fp32, and so do the stored weights: while somebody listens to a layer, or a program is traced, the encoder runs in
    fp32.

    Refuses what `check_precision` refuses, and warns with a `SlowerWarning` where fp32 would be faster.
    """
    check_precision(precision, device)
    name = automatic(device, model.dtype)[0] if precision == "auto" else precision
    if precision != "auto" and (reason := why_slow(precision, device)):
        warnings.warn(f"{precision} is slower than fp32 here: {reason}", SlowerWarning, stacklevel=3)
    model.to(DTYPES.get(name, torch.float32))
    model.config.dtype = (
        model.dtype
    )  # also where the configuration alone is written, as beside an exported model
    if device.type != "cpu":
        return
    model.requires_grad_(False)
    in_8_bits = freeze(model.base_model.encoder, int8=name == "int8")
    if name == "int8" and not in_8_bits:
        warnings.warn(
            "int8 is fp32 here: no linear layer of this model is wide enough to gain from it",
            SlowerWarning,
            stacklevel=3,
        )


def automatic(device: torch.device, stored: torch.dtype) -> tuple[str, str]:
    """What "auto" takes for a model stored in `stored`, a key of `DTYPES`, and why.

    The same answers on every processor: bf16 gives another first token in about one of eighty places, int8 in one of
    two hundred (benchmarks/results, pipeline), so that neither is taken unasked.
    """
    if device.type != "cpu" and stored in (torch.bfloat16, torch.float16):
        return next(name for name, dtype in DTYPES.items() if dtype == stored), "as the model is stored"
    return "fp32", "the answers of the model as it was trained"


def why_not(precision: str, device: torch.device) -> str | None:
    """The reason why `precision` cannot run on `device`, or None where it can."""
    if precision != "int8":
        return None
    return f"it runs on a CPU, not on {device.type}" if device.type != "cpu" else compiled.why_missing()


def why_slow(precision: str, device: torch.device) -> str | None:
    """The reason why `precision` is slower than fp32 on `device`, or None where it is not."""
    if precision == "bf16" and not supports_bfloat16(device):
        return f"this {'processor' if device.type == 'cpu' else 'device'} has no bf16 instructions"
    if precision == "int8" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "the 8-bit product is fast on x86 processors with AVX2 or better"
    return None
