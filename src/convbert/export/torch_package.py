"""A package of AOTInductor: compiled for this kind of processor, loaded by PyTorch in Python or C++."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from convbert.export.graph import Traceable, quiet, trace
from convbert.inference.runtimes import INPUTS, Run
from convbert.ops._torch_internals import compile_package, load_package
from convbert.util.errors import InputError

FILE = "model.pt2"


def write_package(source: Traceable, folder: Path) -> Path:
    """Trace a model and compile it.

    Raises:
        InputError: there is no C++ compiler, or it fails.
    """
    path = folder / FILE
    program = trace(source)
    try:
        with quiet():
            compile_package(program, package_path=str(path))
    except Exception as error:  # of the compiler; its classes are not public
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"AOTInductor could not compile the model (it needs a C++ compiler): {first}"
        ) from error
    return path


def runtime(path: Path, outputs: tuple[str, ...]) -> Run:
    """The package in PyTorch."""
    model = load_package(str(path))

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = model(*(torch.from_numpy(batch[name]) for name in INPUTS))
        return {name: x.numpy() for name, x in zip(outputs, found, strict=True)}

    return run
