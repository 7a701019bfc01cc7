"""Names of torch's that are not public, each with what happens where a release has it no more.

`tests/ops/test_torch_internals.py` fails by name when one is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")


flash = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
flash_backward = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
"""Attention of (B, H, T, D) on a CPU with the logarithms of its sums; without them, attention takes plain steps."""


def assert_async(holds: Tensor, message: str) -> None:
    """Have a GPU stop later where something does not hold, without waiting for it; unchecked where the name is gone."""
    if hasattr(torch, "_assert_async"):
        torch._assert_async(holds, message)


def hooks_of(module: nn.Module) -> list[Mapping[Any, Any]] | None:
    """The dictionaries that hold who listens to a module; they stay the same while listeners come and go.

    None where they are not to be found: nobody can then know that nobody listens.
    """
    found = [getattr(module, name, None) for name in _HOOKS]
    return None if None in found else found  # type: ignore[return-value]


def is_listened_to(module: nn.Module) -> bool:
    """Whether somebody sees or changes what goes into a module or comes out, or has replaced its `forward`."""
    hooks, everywhere = hooks_of(module), hooks_of_all_modules()
    return hooks is None or everywhere is None or any(hooks + everywhere) or "forward" in module.__dict__


def hooks_of_all_modules() -> list[Mapping[Any, Any]] | None:
    """As `hooks_of`, of those who listen to every module there is."""
    found = [getattr(nn.modules.module, name, None) for name in _GLOBAL_HOOKS]
    return None if None in found else found  # type: ignore[return-value]


def compiled_from(module: nn.Module) -> nn.Module | None:
    """The module behind `torch.compile`; None for any other."""
    return getattr(module, "_orig_mod", None)


def version_of(tensor: Tensor) -> int | None:
    """A number that grows with every change in place; None where changes are not counted (made in inference mode)."""
    return None if tensor.is_inference() else getattr(tensor, "_version", None)


def is_traced() -> bool:
    """The computation becomes a program, which must not depend on the values it was traced with."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_transformed() -> bool:
    """Whether somebody traces, fakes or transforms the computation: memory must then not be read or written directly.

    Where the names are gone, only what the public functions know of is seen.
    """
    if is_traced():
        return True
    try:
        return (
            torch.autograd.forward_ad._current_level >= 0
            or torch._C._len_torch_dispatch_stack() > 0
            or torch._C._functorch.peek_interpreter_stack() is not None
        )
    except AttributeError:
        return False


def compile_package(program: Any, *, package_path: str) -> None:
    """AOTInductor's documented entry, which lives in a module with an underscore; its import takes seconds."""
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(program, package_path=package_path)


def load_package(path: str) -> Any:
    """A package of AOTInductor, ready to be called."""
    from torch._inductor import aoti_load_package

    return aoti_load_package(path)
