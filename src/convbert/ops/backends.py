"""What the device at hand can run: the fast form of an op or only its definition, and bfloat16 in hardware or not."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, get_args

import torch

Backend = Literal["auto", "fast", "reference"]

# Devices for which each op folder holds a fast form.
FAST_DEVICES = ("cpu", "cuda")

# What the Triton kernels take. A larger kernel would not fit their tiles; the published models have 9.
GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GPU_KERNEL_SIZE = 31
GPU_CAPABILITY = (8, 0)  # the oldest NVIDIA generation that Triton supports: Ampere

HAS_TRITON = find_spec("triton") is not None


def why_not_fast(
    device: torch.device, dtypes: Sequence[torch.dtype] = (torch.float32,), kernel_size: int = 1
) -> str | None:
    """The reason no fast form can run on `device` for tensors of these types; None where one can."""
    if device.type not in (*FAST_DEVICES, "meta"):
        return f"the fast convolutions exist for {', '.join(FAST_DEVICES)}, not for {device.type}"
    return _why_not_triton(device, dtypes, kernel_size) if device.type == "cuda" else None


def _why_not_triton(device: torch.device, dtypes: Sequence[torch.dtype], kernel_size: int) -> str | None:
    if not HAS_TRITON:
        return "the fast convolutions on a GPU need Triton: pip install triton"
    if is_older_gpu(device):
        return "the fast convolutions on a GPU need compute capability {}.{} or newer".format(*GPU_CAPABILITY)
    if unknown := [dtype for dtype in dtypes if dtype not in GPU_DTYPES]:
        known = ", ".join(map(str, GPU_DTYPES))
        return f"the fast convolutions on a GPU compute in {known}, not in {unknown[0]}"
    if kernel_size > GPU_KERNEL_SIZE:
        return f"the fast convolutions on a GPU take kernel sizes up to {GPU_KERNEL_SIZE}, not {kernel_size}"
    return None


@torch.compiler.assume_constant_result
def is_older_gpu(device: torch.device) -> bool:
    """Whether `device` is an NVIDIA GPU older than `GPU_CAPABILITY`."""
    if torch.version.hip or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) < GPU_CAPABILITY


def use_fast(
    backend: Backend,
    device: torch.device,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    kernel_size: int = 1,
) -> bool:
    """Resolve the caller's word for tensors of these types on this device.

    Args:
        backend: "auto" takes the fast form where one can run, "fast" insists, "reference" is plain PyTorch.

    Raises:
        ValueError: another word.
        RuntimeError: "fast" where no fast form can run, with the reason.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "reference" or is_exported():
        return False
    reason = why_not_fast(device, dtypes, kernel_size)
    if backend == "fast" and reason:
        raise RuntimeError(reason)
    return reason is None


def is_exported() -> bool:
    """Whether a program is made that must run where this package is not."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type that autocast asks for on `device`; None where it is off, or unknown to the device."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def supports_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware, so that autocast makes training faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False
