"""How an op of ours is declared to PyTorch, so that autograd, `torch.compile` and `torch.export` see through it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from convbert.ops import compiled


def register(
    name: str,
    operands: tuple[str, str],
    *,
    cpu_forward: Callable[..., Tensor],
    cpu_backward: Callable[..., tuple[Tensor, Tensor]],
    gpu_module: str,
) -> None:
    """Declare `convbert::<name>` and `convbert::<name>_backward`, with a kernel per device, fakes, and the gradient.

    Args:
        name: of the op, which takes two tensors and `cu_seqlens` and returns a tensor like the first.
        operands: names of the two tensors.
        cpu_forward: (first, second, cu_seqlens) to the result.
        cpu_backward: (grad, first, second, cu_seqlens) to the gradients of the two.
        gpu_module: the module that holds `forward` and `backward` for a GPU; imported when they are first called, as
            it needs Triton.
    """
    first, second = operands
    forward_name, backward_name = f"convbert::{name}", f"convbert::{name}_backward"
    inputs = f"Tensor {first}, Tensor {second}, Tensor? cu_seqlens"
    torch.library.define(forward_name, f"({inputs}) -> Tensor")
    # The backward is an op of its own that holds a formula: autograd is off inside an op.
    torch.library.define(backward_name, f"(Tensor grad, {inputs}) -> (Tensor, Tensor)")
    torch.library.impl(forward_name, "cpu", cpu_forward)
    torch.library.impl(backward_name, "cpu", cpu_backward)
    torch.library.impl(forward_name, "cuda", _imported_when_called(gpu_module, "forward"))
    torch.library.impl(backward_name, "cuda", _imported_when_called(gpu_module, "backward"))
    torch.library.register_fake(forward_name, lambda first, second, cu_seqlens: _like(first))
    torch.library.register_fake(
        backward_name, lambda grad, first, second, cu_seqlens: (_like(first), _like(second))
    )

    def save(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    def backward(ctx, grad: Tensor):
        run = getattr(torch.ops.convbert, f"{name}_backward")
        return *run(grad, *ctx.saved_tensors), None

    torch.library.register_autograd(forward_name, backward, setup_context=save)


def is_direct(*tensors: Tensor) -> bool:
    """Nothing but the result is wanted: no gradient, no trace. The kernel may then be called without PyTorch's
    dispatcher, whose way through Python costs as much as the kernel itself on a short text."""
    return compiled.without_gradient(*tensors) and compiled.runs_eagerly(*tensors)


def _imported_when_called(module: str, function: str) -> Callable[..., Any]:
    def call(*inputs: Tensor | None) -> Any:
        return getattr(import_module(module), function)(*inputs)

    return call


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)
