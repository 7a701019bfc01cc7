"""Run the Triton launchers on CPU tensors. To be imported where TRITON_INTERPRET=1 is set before Triton is imported."""

from __future__ import annotations

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def as_op(launchers, reference):
    """`launchers.forward` and `launchers.backward` with autograd; `reference` where the backend says so."""

    class Launched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, first, second, cu_seqlens):
            ctx.save_for_backward(first, second, cu_seqlens)
            return launchers.forward(first, second, cu_seqlens)

        @staticmethod
        def backward(ctx, grad):
            return *launchers.backward(grad, *ctx.saved_tensors), None

    def op(first: Tensor, second: Tensor, cu_seqlens: Tensor | None = None, *, backend: str) -> Tensor:
        form = reference if backend == "reference" else Launched.apply
        return form(first, second, cu_seqlens)

    return op


def mend() -> None:
    """Let the interpreter compute in bfloat16 as a GPU does.

    It keeps these numbers as integers (Triton 3.6 to 3.9): products take the bits for the value, and rounding cuts off.
    """
    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def create_dot(self, left, right, *rest):
        return dot(self, *(_widen(cast, self, x) for x in (left, right)), *rest)

    def cast_impl(self, source, target):
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
            return TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)
        return cast(self, source, target)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl


def _widen(cast, builder, handle):
    return cast(builder, handle, tl.float32) if handle.dtype.scalar == tl.bfloat16 else handle
