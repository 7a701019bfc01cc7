"""The optional compiled kernels, fp32 on a CPU, one library of the `.c` files beside the ops.

Installing the package compiles them once per instruction set; where that failed, or on a system without OpenMP,
everything runs through PyTorch alone, somewhat slower. The kernels borrow PyTorch's own OpenMP threads, so the two
never compete.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convbert.ops._torch_internals import is_transformed
from convbert.ops.varlen import VarlenBounds
from convbert.util.errors import InputError

# Best first, by what PyTorch found in the processor; the generic one is the compiler's default for the platform.
_BUILDS = {"AVX512": ("avx512_vnni", "avx512", "avx2", "generic"), "AVX2": ("avx2", "generic")}
MAX_KERNEL_SIZE = 64  # as in common.h
ABI = 3  # as in kernels.c: grows with every change of a function or a struct that both sides know
_ELEMENTS_PER_THREAD = 16384  # less than that is done before another thread has woken up

_TYPES = {"i": ctypes.c_int, "l": ctypes.c_int64, "d": ctypes.c_double, "p": ctypes.c_void_p}
_FUNCTIONS = {
    "abi": "-> i",
    "runs_here": "-> i",
    "sample": "lppp",
    "dropout": "illppdl",
    "gelu_forward": "ilpp",
    "gelu_backward": "ilppp",
    "add_norm_forward": "illppppddlpppp",
    "add_norm_backward": "illpppppdlppp",
    "span_dynamic_conv_forward": "illllpllplppl -> i",
    "span_dynamic_conv_backward": "illllpllpppppp -> i",
    "depthwise_conv_forward": "illlpllppp -> i",
    "depthwise_conv_filter_gradient": "illlpllppp -> i",
    "attention_scratch": "ill -> l",
    "attention_forward": "illlpllplplpldlpplp -> i",
    "attention_backward_scratch": "ill -> l",
    "attention_backward": "illlpllplplpldlpplpppp -> i",
    "panel_columns": "-> l",
    "adds_in_16_bits": "-> i",
    "linear_size": "-> l",
    "linear_scratch": "pl -> l",
    "linear_forward": "iplpipp",
    "layer_size": "-> l",
    "encoder_scratch": "iplll -> l",
    "encoder_forward": "ipllpllpplpppp -> i",
}
"""Arguments and result of each function by the letters of `_TYPES`. Kernels that take bounds return whether these cover
the tokens."""


def build() -> str | None:
    """Which of the builds runs here: "avx512", "avx2" or "generic"; None where none does."""
    return chosen()[0]


def library() -> ctypes.CDLL:
    """The build that runs here; there must be one."""
    found = chosen()[1]
    assert found is not None
    return found


@cache
def why_missing() -> str | None:
    """The reason no compiled kernels run here, or None where they do."""
    return chosen()[2]


@cache
def chosen() -> tuple[str | None, ctypes.CDLL | None, str | None]:
    """The build that runs here: its name and its library, or the reason there is none."""
    reason = None
    for name in runnable_builds():
        library, reason = open_build(name)
        if library is not None:
            return name, library, None
    return None, None, reason


def runnable_builds() -> tuple[str, ...]:
    """The builds whose instructions this processor has, best first."""
    return _BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("generic",))


def open_build(name: str) -> tuple[ctypes.CDLL | None, str | None]:
    """The library of a build, or the reason there is none."""
    # Of several, the last that was built: a working tree may hold some of another version of Python.
    files = [file for file in Path(__file__).parent.glob(f"_{name}.*") if file.suffix in (".so", ".pyd")]
    if not files:
        return None, "the package was installed without a C compiler"
    try:
        # Its OpenMP symbols are resolved against the runtime that PyTorch brought into the process.
        library = ctypes.CDLL(str(max(files, key=lambda file: file.stat().st_mtime)))
    except OSError as error:
        return None, f"the compiled kernels cannot be loaded ({error})"
    # A library with other functions or structs would misread its arguments.
    if not hasattr(library, "abi") or library.abi() != ABI:
        return None, "the compiled kernels are of another version of convbert: install the package again"
    if not library.runs_here():
        return None, f"this processor lacks instructions of the build {name}"
    for function, types in _FUNCTIONS.items():
        arguments, _, result = types.partition("->")
        getattr(library, function).argtypes = [_TYPES[letter] for letter in arguments.strip()]
        getattr(library, function).restype = _TYPES.get(result.strip())
    from convbert.ops.compiled import encoder, product

    sizes = ctypes.sizeof(encoder.LayerStruct), ctypes.sizeof(product.LinearStruct)
    if (library.layer_size(), library.linear_size()) != sizes:
        return None, "the compiled kernels lay out memory differently: install the package again"
    return library, None


def takes(*tensors: Tensor | None) -> bool:
    """Whether the kernels can work on these: plain fp32 tensors on the CPU, outside of tracing."""
    return (
        runs_eagerly(*tensors)
        and chosen()[1] is not None
        and all(x is None or (x.dtype == torch.float32 and x.device.type == "cpu") for x in tensors)
    )


def runs_eagerly(*tensors: Tensor | None) -> bool:
    """Nobody traces, fakes or transforms the computation, so that memory may be read and written directly."""
    return not is_transformed() and all(x is None or type(x) in (Tensor, torch.nn.Parameter) for x in tensors)


def without_gradient(*tensors: Tensor | None) -> bool:
    """Nobody will differentiate the result."""
    return not torch.is_grad_enabled() or not any(x is not None and x.requires_grad for x in tensors)


def is_direct(*tensors: Tensor) -> bool:
    """Whether a CPU kernel may be called without PyTorch's dispatcher, which costs more than it on a short text."""
    return tensors[0].device.type == "cpu" and runs_eagerly(*tensors)


class DirectConvolution(torch.autograd.Function):
    """`forward` and `backward` of a convolution's `cpu` module, without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, cpu: Any, first: Tensor, second: Tensor, bounds: VarlenBounds | None) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.cpu, ctx.bounds = cpu, bounds
        out: Tensor = cpu.forward(first, second, bounds)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.cpu.backward(grad, *ctx.saved_tensors, ctx.bounds), None


def threads_for(elements: int) -> int:
    """How many of PyTorch's threads are worth waking for so many elements."""
    return max(1, min(torch.get_num_threads(), elements // _ELEMENTS_PER_THREAD))


def call(function: str, *arguments: Any) -> None:
    """Run a kernel; tensors are passed by address, None as a null pointer.

    Raises:
        InputError: the bounds do not cover the tokens; nothing was read or written.
    """
    fits = getattr(library(), function)(*[x.data_ptr() if isinstance(x, Tensor) else x for x in arguments])
    if fits == 0:
        raise InputError("cu_seqlens must run from 0 to the number of tokens, in steps from 0 to max_length")


def bounds_arguments(first: Tensor, bounds: VarlenBounds | None) -> tuple[Tensor | None, int, int]:
    """`cu_seqlens`, the number of sequences, the longest length: of (B, T, ...), or of (N, ...) with bounds."""
    if bounds is None:
        return None, first.shape[0], first.shape[1]
    return bounds.cu_seqlens, len(bounds.cu_seqlens) - 1, bounds.longest()


def evenly_spaced(x: Tensor) -> Tensor:
    """(B, T, H, D) or (N, H, D) whose tokens are rows with any one distance, such as slices of a joined projection."""
    # Not `contiguous()`, which is content with any stride of an axis that has one element.
    return x if _is_evenly_spaced(x) else x.clone(memory_format=torch.contiguous_format)


def _is_evenly_spaced(x: Tensor) -> bool:
    *outer, head, channel = x.stride()
    one_axis = len(outer) == 1 or x.shape[0] == 1 or outer[0] == x.shape[1] * outer[1]
    return one_axis and (head, channel) == (x.shape[-1], 1)


def draw_seed() -> int:
    """A seed for one dropout, from PyTorch's generator: `torch.manual_seed` and checkpointing govern it."""
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_())


class Sample:
    """Some numbers of each of these fp32 tensors, to notice that they have changed behind autograd's back (`.data`).

    A change of a sixteenth of a tensor is noticed; looking at every row and column would take a tenth of a forward pass
    of a short text.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._count = len(tensors)
        self._addresses = (ctypes.c_void_p * self._count)(*(x.data_ptr() for x in tensors))
        self._sizes = (ctypes.c_int64 * self._count)(*(x.numel() for x in tensors))
        self._found = self._take()

    def is_unchanged(self) -> bool:
        """Whether the numbers are what they were; the tensors must still lie where they lay."""
        return self._take() == self._found

    def _take(self) -> int:
        found = ctypes.c_uint64()
        library().sample(self._count, self._addresses, self._sizes, ctypes.byref(found))
        return found.value
