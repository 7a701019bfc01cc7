"""Tolerances, cases and comparisons that several tests share."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convbert.ops import compiled

if TYPE_CHECKING:
    from convbert import ConvBertModel

# Largest difference allowed, per dtype of the inputs, relative to the largest number of the expected tensor.
# Low precision is judged against the definition in fp32 on the same rounded inputs.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 1e-2,
    torch.float16: 1.5e-3,
}

# Of the CPU ops: every build of the compiled kernels that runs on this machine, best first, and PyTorch alone.
FORMS = [name for name in compiled.runnable_builds() if compiled.open_build(name)[0] is not None]
FORMS.append("portable")
# The compiled kernels know fp32 alone.
FORMS_AND_DTYPES = [(form, torch.float32) for form in FORMS[:-1]]
FORMS_AND_DTYPES += [("portable", dtype) for dtype in TOLERANCE]


def bounds(lengths: Sequence[int]) -> Tensor:
    """cu_seqlens of sequences of these lengths."""
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def assert_close(
    actual: Tensor, expected: Tensor, dtype: torch.dtype, name: str = "", terms: Tensor | None = None
) -> None:
    """Equal shape, and equal within the tolerance of `dtype`, relative to the largest number that is expected.

    Where nothing but zero is expected, the tolerance is absolute: terms of order one cancel there.

    Args:
        terms: what the tolerance is relative to instead, where few numbers are expected and their terms may cancel.
    """
    assert actual.shape == expected.shape, name
    if expected.numel() == 0:
        return
    assert torch.isfinite(actual).all(), f"{name}: not finite"
    error = (actual.double() - expected.double()).abs().max().item()
    scale = (expected if terms is None else terms).double().abs().max().item() or 1.0
    assert error <= TOLERANCE[dtype] * scale, f"{name}: off by {error:.2e} at scale {scale:.2g}"


def assert_fast_equals_reference(
    op: Callable[..., Tensor], inputs: Sequence[Tensor], cu_seqlens: Tensor | None
) -> None:
    """Output and every gradient of the fast form against the definition in fp32 or wider."""
    dtype = inputs[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    fast_inputs = [x.detach().requires_grad_() for x in inputs]
    wide_inputs = [x.detach().to(wide).requires_grad_() for x in inputs]
    fast = op(*fast_inputs, cu_seqlens, backend="fast")
    expected = op(*wide_inputs, cu_seqlens, backend="reference")
    assert fast.dtype == dtype
    assert_close(fast, expected, dtype, "output")
    grad = torch.randn_like(fast)
    fast_grads = torch.autograd.grad(fast, fast_inputs, grad)
    expected_grads = torch.autograd.grad(expected, wide_inputs, grad.to(wide))
    for number, (actual, wanted) in enumerate(zip(fast_grads, expected_grads, strict=True)):
        assert_close(actual, wanted, dtype, f"gradient of input {number}")


def assert_a_damaged_text_stays_alone(
    op: Callable[..., Tensor], inputs: Sequence[Tensor], *, dense: bool
) -> None:
    """Not a number in the second of three texts of 20 tokens, forward and backward, leaves the others as they were.

    Inputs without a token axis are passed on whole.
    """
    results = []
    for damage in (0, torch.nan):
        first, *others = (x.clone(memory_format=torch.contiguous_format) for x in inputs)
        first[20:40] += damage
        given = [x.unflatten(0, (3, 20)) if dense and len(x) == 60 else x for x in (first, *others)]
        given = [x.detach().requires_grad_() for x in given]
        out = op(*given, None if dense else bounds([20, 20, 20]), backend="fast")
        # The gradient carries the damage, too.
        grads = torch.autograd.grad(out, given, out.detach())
        per_token = [grad for grad, x in zip(grads, inputs, strict=True) if len(x) == 60]
        results.append([x.detach().reshape(60, -1) for x in (out, *per_token)])
    for healthy, beside in zip(*results, strict=True):
        assert torch.equal(beside[:20], healthy[:20])
        assert torch.equal(beside[40:], healthy[40:])
        assert torch.isnan(beside[20:40]).all()


def each_alone(op: Callable[..., Tensor], inputs: Sequence[Tensor], cu_seqlens: Tensor) -> Tensor:
    """The op on each sequence as a dense batch of one row; inputs without a token axis are passed on whole."""
    total = int(cu_seqlens[-1])
    rows = []
    for start, end in pairwise(cu_seqlens.tolist()):
        parts = [x[None, start:end] if x.shape[0] == total else x for x in inputs]
        rows.append(op(*parts, backend="reference")[0])
    return torch.cat(rows)


def gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """The result, and the gradient of every input where `grad` is the result's."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    return [out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


def slice_of_larger(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A seeded random tensor that is not contiguous: every other column of a wider one."""
    return torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.float64).to(dtype)[..., ::2]


def packed(lengths: Sequence[int]) -> dict[str, Any]:
    """A packed row of `tiny`'s words, by transformers' convention."""
    import tiny

    longest = max(lengths)
    return {
        "input_ids": torch.randint(5, len(tiny.WORDS), (1, sum(lengths))),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": bounds(lengths),
        "cu_seq_lens_k": bounds(lengths),
        "max_length_q": longest,
        "max_length_k": longest,
    }


def spread_model(std: float, **sizes: Any) -> ConvBertModel:
    """A `tiny` encoder whose weights are so large that a mix-up shows."""
    # Here, as tests of ops alone need no model and should not wait for transformers.
    import tiny
    from convbert import ConvBertModel

    torch.manual_seed(0)
    model = ConvBertModel(tiny.config(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, std)
    return model


def masked_sentences() -> list[str]:
    """Real sentences, each with its middle word masked."""
    lines = (Path(__file__).parent / "data/sentences.txt").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines]
    return [" ".join([*line[: len(line) // 2], "[MASK]", *line[len(line) // 2 + 1 :]]) for line in words]


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file grows beyond so many bytes: writing on fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
