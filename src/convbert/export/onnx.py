"""ONNX files, laid out as transformers.js and Optimum read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from convbert.export.graph import Traceable, quiet, trace
from convbert.inference.runtimes import INPUTS, ONNX_FILES
from convbert.util.errors import InputError

LARGEST_FILE = 2**31 - 2**20
"""A file of ONNX is one protocol buffer, of less than 2 GiB; weights beyond that go to a file beside it."""

_WEIGHT_BLOCK = 32
"""Weights that share a scale in the int8 form."""


def write_onnx(source: Traceable, folder: Path, precisions: list[str], opset: int | None) -> dict[str, Path]:
    """Trace a model and write a file per precision.

    Args:
        folder: where they go; it exists.
        precisions: keys of `ONNX_FILES`.
        opset: the version of the operators; None leaves it to the exporter.

    Returns:
        Precision to file.

    Raises:
        InputError: the exporter cannot write this opset.
    """
    import onnx_ir

    try:
        program = _program(source, opset)
    except Exception as error:
        if opset is None:
            raise
        raise InputError(f"opset {opset} cannot be written: {str(error).strip().splitlines()[0]}") from error
    written = program.opset_imports[""]
    if opset is not None and opset != written:
        raise InputError(f"opset {opset} cannot be written: the exporter makes {written} of it")
    _name_axes(program, source)
    paths = {precision: folder / ONNX_FILES[precision] for precision in precisions}
    original = paths.get("fp32", folder / "unquantised.onnx")
    size = sum(value.const_value.nbytes for value in program.graph.initializers.values() if value.const_value)
    external = f"{original.name}_data" if size > LARGEST_FILE else None
    onnx_ir.save(program, str(original), external_data=external)
    for precision, path in paths.items():
        if precision != "fp32":
            with quiet():
                _WRITERS[precision](original, path)
    if "fp32" not in paths:
        for file in folder.glob("unquantised.onnx*"):
            file.unlink()
    return paths


def opset_of(path: Path) -> int:
    """The version of ONNX's operators that a file needs."""
    import onnx

    imports = onnx.load(str(path), load_external_data=False).opset_import
    return next(entry.version for entry in imports if entry.domain == "")


def _program(source: Traceable, opset: int | None) -> Any:
    """The graph, from the one trace that all formats are written from."""
    with quiet():
        program = torch.onnx.export(
            trace(source),
            args=(),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(source.outputs),
            opset_version=opset,
            verbose=False,
        )
    assert program is not None  # it is where nothing is written to a file
    return program.model


def _name_axes(program: Any, source: Traceable) -> None:
    """Names that a person can read, in the place of the tracer's symbols."""
    import onnx_ir

    names = dict(zip(map(str, program.graph.inputs[0].shape), source.axes, strict=True))
    for value in (*program.graph.inputs, *program.graph.outputs):
        value.shape = onnx_ir.Shape(
            [names.get(str(size), size) if not isinstance(size, int) else size for size in value.shape]
        )


def _write_fp16(original: Path, path: Path) -> None:
    """Weights and products in half precision; inputs and outputs stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(original)), keep_io_types=True), str(path))


def _write_int8(original: Path, path: Path) -> None:
    """8-bit weights, with a scale for each block of them. Products stay in fp32: no answer depends on its batch."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(str(original)), bits=8, block_size=_WEIGHT_BLOCK, is_symmetric=True
    )
    quantizer.process()
    onnx.save(quantizer.model.model, str(path))


def _write_int8_dynamic(original: Path, path: Path) -> None:
    """8-bit weights and activations: smaller and faster, and a text's answer depends on its batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    wide = ["MatMul", "Gather"]  # not the depthwise convolution, which has few weights
    quantize_dynamic(str(original), str(path), weight_type=QuantType.QInt8, op_types_to_quantize=wide)


_WRITERS = {"fp16": _write_fp16, "int8": _write_int8, "int8-dynamic": _write_int8_dynamic}
