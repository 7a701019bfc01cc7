"""Model-FLOPs utilisation: which share of a device's arithmetic a run turns into training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import torch

TERA = 10**12
_DATASHEETS = {
    # Product names as they appear in the device's, most special first: bf16 (dense, on tensor cores, summed up in fp32)
    # and fp32 (without tensor cores), in 10^12 operations per second; from NVIDIA's data sheets.
    "H200": (989.0, 67.0),
    "H100 NVL": (835.0, 60.0),
    "H100 PCIe": (756.0, 51.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "A10G": (70.0, 35.0),
    "A10": (125.0, 31.2),
    "A30": (165.0, 10.3),
    "A40": (150.0, 37.4),
    "L40S": (362.0, 91.6),
    "L40": (181.0, 90.5),
    "L4": (121.0, 30.3),
    "RTX 4090": (165.2, 82.6),
    "RTX 4080": (97.5, 48.7),
    "RTX 3090": (71.0, 35.6),
    "RTX A6000": (154.8, 38.7),
}
_SECONDS = 0.3
_SIDE = {"cpu": 768, "cuda": 8192}


@dataclass(frozen=True)
class Peak:
    """The most that a device computes.

    Args:
        flops_per_second: of dense products of matrices.
        source: where the number is from, for a reader.
    """

    flops_per_second: float
    source: str

    def __str__(self) -> str:
        return f"{self.flops_per_second / TERA:.4g} TFLOP/s ({self.source})"


def peak_of(device: torch.device, dtype: torch.dtype) -> Peak:
    """By the data sheet where `device` is a GPU that is known here, else by a product of matrices that takes 0.3 s.

    A CPU is measured with the threads that PyTorch uses now. On a busy machine that gives too little, and a
    utilisation that looks too good.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = known_peak(name, dtype, tf32=torch.backends.cuda.matmul.allow_tf32)
        if known is not None:
            return Peak(known, f"data sheet of {name}, {_short(dtype)}")
    measured = _measure(device, dtype)
    return Peak(measured, f"measured: a {_short(dtype)} product of matrices for {_SECONDS} s at the start")


def known_peak(name: str, dtype: torch.dtype, *, tf32: bool = False) -> float | None:
    """Operations per second by the data sheet; None where this GPU, or its `dtype`, is not listed.

    Args:
        tf32: fp32 products run on tensor cores in TF32, at half the speed of bf16.
    """
    words = name.replace("-", " ").split()
    for product, (bf16, fp32) in _DATASHEETS.items():
        if all(word in words for word in product.split()):
            if dtype in (torch.bfloat16, torch.float16):
                return bf16 * TERA
            return (bf16 / 2 if tf32 else fp32) * TERA if dtype == torch.float32 else None
    return None


class Utilisation:
    """`mfu` for log entries: operations per second that the model needs, as a share of the peak of all devices.

    Args:
        flops_per_token: in training, on average.
        processes: each with a device of this peak.
    """

    def __init__(self, flops_per_token: float, peak: Peak, processes: int = 1) -> None:
        self.flops_per_token, self.peak, self.processes = flops_per_token, peak, processes

    def __call__(self, logs: Mapping[str, float]) -> dict[str, float]:
        done = self.flops_per_token * logs["tokens_per_second"]
        return {"mfu": done / (self.processes * self.peak.flops_per_second)}


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    side = _SIDE.get(device.type, 1024)
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.mm(left, right)  # the first time includes setting up

    def turn() -> float:
        started = perf_counter()
        torch.mm(left, right, out=out)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return perf_counter() - started

    turn()
    best, end = turn(), perf_counter() + _SECONDS
    while perf_counter() < end:
        best = min(best, turn())
    return 2 * side**3 / best


def _short(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}.get(dtype, str(dtype))
