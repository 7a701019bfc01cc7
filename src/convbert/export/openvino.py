"""OpenVINO's files, laid out as Optimum reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convbert.export.graph import INPUTS, Traceable, quiet, trace
from convbert.export.parity import Run

FILE = "openvino_model.xml"


def write_openvino(source: Traceable, folder: Path, precision: str) -> Path:
    """Trace a model and write its graph, with the weights beside it.

    Args:
        precision: "fp32", or "fp16" for weights in half precision.
    """
    import openvino

    program = trace(source)
    with quiet():
        model = openvino.convert_model(program)
    for port, name in zip(model.inputs, INPUTS, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, source.outputs, strict=True):
        port.get_tensor().set_names({name})
    path = folder / FILE
    openvino.save_model(model, path, compress_to_fp16=precision == "fp16")
    return path


def runtime(path: Path) -> Run:
    """The file in OpenVINO, on the CPU, in fp32: by itself it may take half precision where the processor has it."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = compiled(batch)
        return {port.get_any_name(): found[port] for port in compiled.outputs}

    return run
