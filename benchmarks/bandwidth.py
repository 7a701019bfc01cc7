"""The two convolutions against the memory they move: each input and output counted once, next to a device copy of as
many bytes, half of them read and half written. "time / ours" of the copy is the share of the copy's bandwidth that is
reached. Packed: the same tokens as sequences of unequal length, with bounds. Results and gradients are compared with
the definition in float32 first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from benchmarks.cases import COPY, OURS, SIZES, dtypes, half_lengths
from benchmarks.oracle import PRODUCTS, refuse
from benchmarks.report import Row
from benchmarks.run import Run, time_subjects
from benchmarks.timing import Call
from convbert.ops import depthwise_conv, span_dynamic_conv

ROUNDS = 50
DEFINITION = "the definition"
RATIOS = (("time / ours", OURS),)
OPS: dict[str, Callable[..., Tensor]] = {
    "span_dynamic_conv": span_dynamic_conv,
    "depthwise_conv": depthwise_conv,
}
# Tokens beyond the caches of a GPU: 100 MB of bfloat16 values.
SHAPES = {"cpu": (32, 128), "cuda": (256, 512)}


@dataclass(frozen=True)
class OpCase:
    """One op, one direction, at the widths of ConvBERT-base."""

    op: str
    step: str
    is_packed: bool
    shape: tuple[int, int]
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.op} {self.step}{', packed' if self.is_packed else ''}"


def cases(device: torch.device) -> list[OpCase]:
    forms = product(OPS, ("forward", "backward"), (False, True))
    return [OpCase(*form, SHAPES[device.type], dtypes(device)[-1]) for form in forms]


def measure(case: OpCase, run: Run) -> list[Row]:
    """One row; its details have the bytes counted."""
    device, dtype = run.device, getattr(torch, case.dtype)
    operands = [x.to(device, dtype).requires_grad_() for x in _operands(case)]
    bounds = _bounds(case).to(device) if case.is_packed else None
    values = operands[0]
    grad = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    moved = _bytes(*operands, values) if case.step == "forward" else _bytes(*operands, *operands, grad)
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def step_of(backend: str, *inputs: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        return _step(case, backend, inputs, bounds, grad.to(inputs[0].dtype))

    def make_ours() -> Call:
        call = step_of("auto", *operands)
        expected = step_of("reference", *(x.detach().float().requires_grad_() for x in operands))()
        refuse(max(map(_distance, call(), expected)), PRODUCTS[case.dtype])
        return call

    makers = {
        OURS: make_ours,
        DEFINITION: lambda: step_of("reference", *operands),
        COPY: lambda: lambda: target.copy_(source),
    }
    row = Row(case.name, case.dtype, details={"bytes": moved, "tokens": list(case.shape)})
    time_subjects(row, makers, run.effort(ROUNDS), device)
    return [row]


def _operands(case: OpCase) -> tuple[Tensor, Tensor]:
    """The op's two tensors, as a rectangle or as tokens end to end."""
    config = SIZES["base"]()
    heads, size, taps = config.num_kept_heads, config.head_size, config.conv_kernel_size
    generator = torch.Generator().manual_seed(0)
    tokens = (int(_bounds(case)[-1]),) if case.is_packed else case.shape
    if case.op == "depthwise_conv":
        hidden = torch.randn(*tokens, config.hidden_size, generator=generator)
        return hidden, torch.randn(config.hidden_size, 1, taps, generator=generator)
    values = torch.randn(*tokens, heads, size, generator=generator)
    return values, torch.randn(*tokens, heads, taps, generator=generator)


def _bounds(case: OpCase) -> Tensor:
    """cu_seqlens of as many tokens as the rectangle has, in twice as many sequences."""
    batch, length = case.shape
    return torch.tensor([0, *half_lengths(2 * batch, length)]).cumsum(0).to(torch.int32)


def _step(
    case: OpCase, backend: str, inputs: tuple[Tensor, ...], bounds: Tensor | None, grad: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """The op without gradients, or its backward alone."""
    op = OPS[case.op]
    if case.step == "forward":

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (op(*inputs, bounds, backend=backend),)

        return forward
    output = op(*inputs, bounds, backend=backend)
    return lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True)


def _bytes(*tensors: Tensor) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _distance(actual: Tensor, expected: Tensor) -> float:
    return ((actual.float() - expected.float()).norm() / expected.float().norm()).item()
