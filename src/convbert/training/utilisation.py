"""The most that a device computes, which utilisation is measured against."""

from __future__ import annotations

from time import perf_counter

import torch

_SECONDS = 0.3
_SIDE = {"cpu": 768, "cuda": 8192}


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a dense product of matrices, the best within 0.3 seconds.

    A CPU is measured with the threads that PyTorch uses now. A busy machine gives too little, and a utilisation that
    looks too good.
    """
    side = _SIDE.get(device.type, 1024)
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.mm(left, right)

    def turn() -> float:
        started = perf_counter()
        torch.mm(left, right, out=out)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return perf_counter() - started

    turn()  # sets things up
    best, end = turn(), perf_counter() + _SECONDS
    while perf_counter() < end:
        best = min(best, turn())
    return 2 * side**3 / best
