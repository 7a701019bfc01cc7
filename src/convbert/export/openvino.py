"""OpenVINO's files, laid out as Optimum reads them."""

from __future__ import annotations

from pathlib import Path

from convbert.export.graph import Traceable, quiet, trace
from convbert.inference.runtimes import INPUTS, OPENVINO_FILE


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
    path = folder / OPENVINO_FILE
    openvino.save_model(model, path, compress_to_fp16=precision == "fp16")
    return path
