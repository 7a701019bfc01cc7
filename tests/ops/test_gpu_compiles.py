"""The Triton kernels, compiled for NVIDIA GPUs where there is none: they reach machine code and need no stack."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not published for this system")

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
WIDTH = 64  # of the published models
NUMBERS = ("sequences", "length", "heads", "channels")
# Rows of the logits are an odd number of numbers long, which no alignment divides.
UNALIGNED = ("logits_row", "logits_head", *NUMBERS[:3])


def span(name: str, kernel_size: int, dtype: torch.dtype):
    from convbert.ops.span_dynamic_conv import gpu as span_gpu

    block, warps = span_gpu.tile(name == "_backward", kernel_size, dtype)
    return getattr(span_gpu, name), span_gpu.constants(block, kernel_size, WIDTH, dtype), warps


def depthwise(name: str, kernel_size: int, dtype: torch.dtype):
    from convbert.ops.depthwise_conv import gpu as depthwise_gpu

    return getattr(depthwise_gpu, name), depthwise_gpu.constants(kernel_size), 4


def compile_kernel(kernel, constants: dict, warps: int, dtype: torch.dtype, capability: int, bounded: bool):
    """As a launch with aligned tensors of this type would."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {}
    for argument in kernel.arg_names:
        if argument.isupper() or (argument == "cu_seqlens" and not bounded):
            kinds[argument] = "constexpr"
        elif argument in NUMBERS or argument.endswith(("_row", "_head")):
            kinds[argument] = "i32"
        else:
            kinds[argument] = {"cu_seqlens": "*i32", "partial": "*fp32"}.get(argument, TYPES[dtype])
    source = ASTSource(
        fn=kernel,
        signature=kinds,
        constexprs=constants if bounded else {**constants, "cu_seqlens": None},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, (argument, kind) in enumerate(kinds.items())
            if kind != "constexpr" and argument not in UNALIGNED
        },
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


@pytest.mark.parametrize("op", [span, depthwise])
@pytest.mark.parametrize("name", ["_forward", "_backward"])
@pytest.mark.parametrize(
    ("dtype", "kernel_size", "capability", "bounded"),
    [
        (torch.bfloat16, 9, 80, True),
        (torch.float16, 9, 90, False),
        (torch.float32, 9, 90, True),
        (torch.bfloat16, 31, 90, True),
        (torch.float32, 31, 90, True),
    ],
    ids=str,
)
def test_compiles_without_spilling(op, name, dtype, kernel_size, capability, bounded, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = compile_kernel(*op(name, kernel_size, dtype), dtype, capability, bounded)
    (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    inspect = Path(find_spec("triton").origin).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run(
        [inspect, "-res-usage", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True
    )
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr).groups())
    assert 0 < registers <= 255
    assert stack == 0, "registers do not suffice"
