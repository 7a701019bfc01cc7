"""A program of ExecuTorch, for phones and small devices: one text at a time, of any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from convbert.export.graph import Traceable, quiet, trace
from convbert.inference.runtimes import INPUTS, Run
from convbert.util.errors import InputError

FILE = "model.pte"


def write_program(source: Traceable, folder: Path) -> Path:
    """Trace a model for one text and lower it to XNNPACK, which runs on any CPU.

    XNNPACK takes one free axis; a batch of texts, or of choices, would need two.

    Raises:
        InputError: the model is for multiple choice.
    """
    if len(source.axes) == 3:
        raise InputError(
            f"executorch takes one text at a time, and a {type(source.model).__name__} several choices"
        )
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(trace(source, batch=1), partitioner=[XnnpackPartitioner()])
        content = edge.to_executorch().buffer
    path = folder / FILE
    path.write_bytes(content)
    return path


def runtime(path: Path, outputs: tuple[str, ...]) -> Run:
    """The program in ExecuTorch's own runtime."""
    with quiet():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = method.execute([torch.from_numpy(batch[name]) for name in INPUTS])
        return {name: x.numpy() for name, x in zip(outputs, found, strict=True)}

    return run
