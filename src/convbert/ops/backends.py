"""What the device at hand can run: the fast form of an op or only its definition, and bfloat16 in hardware or not."""

from __future__ import annotations

from typing import Literal, get_args

import torch

Backend = Literal["auto", "fast", "reference"]

# Devices for which each op folder holds a fast form.
FAST_DEVICES = ("cpu",)


def why_not_fast(device: torch.device) -> str | None:
    """The reason no fast form can run on `device`, or None where one can."""
    if device.type in (*FAST_DEVICES, "meta"):
        return None
    return f"the fast convolutions exist for {', '.join(FAST_DEVICES)}, not for {device.type}"


def use_fast(backend: Backend, device: torch.device) -> bool:
    """Resolve the caller's word for this device.

    Args:
        backend: "auto" takes the fast form where one can run, "fast" insists, "reference" is plain PyTorch.

    Raises:
        ValueError: another word.
        RuntimeError: "fast" where no fast form can run, with the reason.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "reference":
        return False
    reason = why_not_fast(device)
    if backend == "fast" and reason:
        raise RuntimeError(reason)
    return reason is None


def supports_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware, so that autocast makes training faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False
