"""What this machine can run, which form each op takes on it, and why."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

import convbert
from convbert.files import embedded
from convbert.inference.precision import DTYPES, automatic, why_not, why_slow
from convbert.ops import compiled
from convbert.ops.attention.gpu import choose
from convbert.ops.backends import why_not_fast
from convbert.ops.compiled.product import PrepackedLinear
from convbert.util.cores import usable_cores
from convbert.util.errors import InputError
from convbert.util.optional import EXTRAS, install_hint, missing_packages

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_RACE = "speeds, as multiples of this one: a layer of 768 x 3072 on 256 tokens, measured now"
_REBUILD = "slower without: with a C compiler at hand, install the package again"
_ROUNDS = 15
_HOW = {
    "bf16": "weights and activations in bfloat16",
    "int8": "8-bit weights and activations in the wide layers of the encoder, for inference",
}


class Finding(NamedTuple):
    """One thing looked at; `name` is unique in its `room`, and `reason` says why it is so, or what to do about it."""

    room: str
    name: str
    value: str | int | float | bool
    reason: str = ""


def examine() -> list[Finding]:
    """Look at everything; takes about a second and changes nothing."""
    findings = [*_versions(), *_cpu(), *_gpu()]
    devices = [torch.device(name) for name in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]]
    for look in (_ops, _precisions):
        for device in devices:
            findings += look(device)
    return [*findings, *_extras(), _embedded_model()]


def as_dict(findings: Iterable[Finding]) -> dict[str, Any]:
    """Findings by room and name, as plain data."""
    rooms: dict[str, Any] = {}
    for room, name, value, reason in findings:
        rooms.setdefault(room, {})[name] = {"value": value, "reason": reason}
    return rooms


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "convbert", convbert.__version__)
    yield Finding("versions", "python", platform.python_version(), platform.platform())
    for package in _PACKAGES:
        yield Finding("versions", package, version(package))


def _cpu() -> Iterator[Finding]:
    usable = usable_cores()
    yield Finding("cpu", "name", _cpu_name())
    yield Finding("cpu", "cores", usable, "that this process may use")
    yield _threads(usable, cpu_quota())
    yield Finding("cpu", "instructions", torch.backends.cpu.get_cpu_capability())
    yield Finding("cpu", "onednn", torch.backends.mkldnn.is_available())
    missing = compiled.why_missing()
    why = f"{missing}; {_REBUILD}" if missing else ""
    yield Finding("cpu", "compiled kernels", compiled.build() or "none", why)


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that the container's quota gives, such as 1.5, by the control groups (version 2 or 1) below `root`."""
    for read in (
        lambda: (root / "cpu.max").read_text().split(),
        lambda: [(root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")],
    ):
        try:
            quota, period = (int(number) for number in read())
        except (OSError, ValueError):  # not mounted, or "max"
            continue
        return quota / period if quota > 0 and period > 0 else None
    return None


def _threads(usable: int, quota: float | None) -> Finding:
    threads, cores = torch.get_num_threads(), min(float(usable), quota or float(usable))
    if threads <= max(1.0, cores):
        return Finding("cpu", "threads", threads, "OMP_NUM_THREADS sets how many PyTorch starts")
    by = "this process may use" if cores == usable else "the container's quota gives"
    reason = f"more than the {cores:g} cores that {by}, so they wait for each other"
    return Finding("cpu", "threads", threads, f"{reason}: set OMP_NUM_THREADS={max(1, int(cores))}")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpu() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        has_support = torch.version.cuda is not None or torch.version.hip is not None
        why = "finds no GPU or no driver for one" if has_support else "is built for the CPU alone"
        yield Finding("gpu", "available", False, f"PyTorch {why}")
        return
    yield Finding("gpu", "available", True, f"CUDA {torch.version.cuda}")
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        size = f"{about.total_memory / 2**30:.0f} GiB, compute capability {about.major}.{about.minor}"
        yield Finding("gpu", f"cuda:{index}", about.name, size)


def _ops(device: torch.device) -> Iterator[Finding]:
    """Which form each op takes on `device` when its backend is "auto", and the layers without gradients."""
    on, reason, is_built = f"on {device.type}", why_not_fast(device), compiled.build() is not None
    how = "Triton kernels"
    if device.type == "cpu":
        how = f"{'in fp32 compiled' if is_built else 'PyTorch alone'}, see cpu"
    for op in ("span_dynamic_conv", "depthwise_conv"):
        yield Finding("ops", f"{op} {on}", *(("reference", reason) if reason else ("fast", how)))
    sdpa = "PyTorch's scaled_dot_product_attention"
    if device.type != "cpu":  # unpadded batches are of the published models' type and head width
        yield Finding("ops", f"attention {on}", "sdpa", sdpa)
        form, dropping = (choose(device, torch.bfloat16, 64, dropout) for dropout in (0.0, 0.1))
        more = f"; while training with dropout, {dropping.name}: {dropping.reason}"
        yield Finding(
            "ops", f"packed attention {on}", form.name, form.reason + (more if dropping != form else "")
        )
    elif is_built:
        yield Finding("ops", f"attention {on}", "compiled", "in fp32; else PyTorch's, text by text")
        how = "without gradients and in fp32 or int8, all layers in one call"
        yield Finding("ops", f"encoder {on}", "compiled", how)
    else:
        yield Finding("ops", f"attention {on}", "sdpa", sdpa)
        yield Finding("ops", f"encoder {on}", "layer by layer", "compiled kernels are missing, see cpu")


def _precisions(device: torch.device) -> Iterator[Finding]:
    """For each precision its speed in a short race against fp32, or False; and what "auto" takes."""
    reasons = {precision: why_not(precision, device) for precision in _HOW}
    seconds = _race(["fp32", *(name for name, reason in reasons.items() if reason is None)], device)
    yield Finding("precision", f"fp32 on {device.type}", 1.0, _RACE)
    for precision, reason in reasons.items():
        speed: float | bool = False
        if reason is None:
            speed = round(seconds["fp32"] / seconds[precision], 1)
            slow = why_slow(precision, device)
            reason = f"runs, but slower: {slow}" if slow else _HOW[precision]
        yield Finding("precision", f"{precision} on {device.type}", speed, reason)
    yield Finding("precision", f"auto on {device.type}", *automatic(device, torch.float32))


@torch.inference_mode()
def _race(precisions: list[str], device: torch.device) -> dict[str, float]:
    """Seconds per call of the layer that costs most in a model of base size, as `convbert.load` runs it: medians of
    rounds in which all take their turn, so that a busy moment hits them alike."""
    layers: dict[str, Any] = {}
    inputs: dict[str, torch.Tensor] = {}
    for precision in precisions:
        layer = nn.Linear(768, 3072)
        dtype = DTYPES.get(precision, torch.float32)
        inputs[precision] = torch.ones(256, 768, device=device, dtype=dtype)
        if device.type == "cpu" and compiled.build() and precision in ("fp32", "int8"):
            layers[precision] = PrepackedLinear(layer.weight, layer.bias, int8=precision == "int8")
        else:
            layers[precision] = layer.to(device, dtype)
    seconds: dict[str, list[float]] = {precision: [] for precision in precisions}
    for round_ in range(_ROUNDS + 2):
        for precision, layer in layers.items():
            started = time.perf_counter()
            layer(inputs[precision])[0, 0].item()  # waits for the device
            if round_ >= 2:  # the first ones are for warming up
                seconds[precision].append(time.perf_counter() - started)
    return {precision: median(times) for precision, times in seconds.items()}


def _extras() -> Iterator[Finding]:
    for extra in EXTRAS:
        missing = missing_packages(extra)
        hint = f"{', '.join(missing)} missing: {install_hint(extra)}" if missing else ""
        yield Finding("extras", extra, not missing, hint)


def _embedded_model() -> Finding:
    try:
        folder = embedded.folder()
    except InputError as error:
        return Finding("model", "embedded", False, str(error))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding("model", "embedded", True, f"{size / 1e6:.1f} MB in {folder}")
