"""`convbert.export.export`: a folder that other runtimes read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convbert.configuration import ConvBertConfig
from convbert.export.graph import Traceable, traceable
from convbert.export.onnx import opset_of
from convbert.export.parity import Parity, check_parity
from convbert.files.atomic import atomic_folder, save_tokenizer
from convbert.inference.loading import TASKS, find_model, load
from convbert.inference.runtimes import Run, open_runtime
from convbert.tokenization import ConvBertTokenizerFast
from convbert.util.errors import InputError
from convbert.util.optional import require

FORMATS: dict[str, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "int8", "int8-dynamic"),
    "openvino": ("fp32", "fp16"),
    "torch": ("fp32",),
    "executorch": ("fp32",),
    "web": ("fp32", "fp16", "int8"),
}
"""Format to the precisions that it has."""

Report = Callable[[str], None]


@dataclass
class Exported:
    """What an export has written.

    Attributes:
        folder: where it lies.
        files: path (from `folder`) to size in bytes.
        parity: precision to what the check in the runtime found.
        opset: of ONNX, else None.
    """

    folder: Path
    files: dict[str, int] = field(default_factory=dict)
    parity: dict[str, Parity] = field(default_factory=dict)
    opset: int | None = None


def export(
    model: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    format: str = "onnx",
    precision: str | Sequence[str] | None = None,
    *,
    opset: int | None = None,
    with_attentions: bool = False,
    node_modules: str | None = None,
    report: Report = lambda step: None,
) -> Exported:
    """Write a model for another runtime, and check its answers there.

    The folder holds the configuration and the tokenizer as well. Nothing of this package is needed to run it.

    Args:
        model: a folder, a name on the Hub, or None for the embedded model. Its configuration says which head it has.
        output: a folder that is not there yet.
        format: "onnx" (`onnx/model.onnx`, ... as transformers.js and Optimum read them), "openvino", "torch" (a package
            of AOTInductor for this kind of processor), "executorch" (one text at a time, of any length), or "web" (a
            page that answers in the browser).
        precision: one or several of "fp32", "fp16", "int8" (8-bit weights) and "int8-dynamic" (8-bit activations, too).
            None: "int8" for the web, else "fp32".
        opset: version of ONNX's operators.
        with_attentions: for onnx and web, attention maps and dynamic kernels as further outputs, see
            `convbert.inference.runtimes.MAPS`.
        node_modules: for the web, a folder in which npm has installed transformers.js; None has npm fetch it.
        report: called with the name of each step.

    Raises:
        InputError: a format or precision that does not exist, an extra that is missing, an output that is there, a
            model that cannot be read; or answers in the runtime that differ from ours. Nothing is left behind.
    """
    if precision is None:
        precision = "int8" if format == "web" else "fp32"
    precisions = [precision] if isinstance(precision, str) else list(dict.fromkeys(precision))
    _check(format, precisions, Path(output))
    for name, given in (("opset", opset is not None), ("with_attentions", with_attentions)):
        if given and format not in ("onnx", "web"):
            raise InputError(f"{name} is for onnx and web, not for {format}")
    if node_modules is not None and format != "web":
        raise InputError(f"node_modules is for web, not for {format}")
    report("reading the model")
    source = find_model(model)
    loaded = load(source, task_of(source), precision="fp32", device="cpu")
    target = traceable(loaded, with_maps=with_attentions)
    result = Exported(Path(output))
    with atomic_folder(output) as draft:
        place = draft / "model" if format == "web" else draft
        place.mkdir(exist_ok=True)
        _write_companions(loaded, source, place)
        if format == "web":  # first, as what is missing is soon found out
            from convbert.export.web import write_page

            report("adding the page and transformers.js")
            write_page(draft, precisions[0], with_attentions, node_modules)
        report("tracing and compiling" if format in ("torch", "executorch") else "tracing")
        for name, path, run in _write(format, target, place, precisions, opset):
            report(f"checking {path.name}")
            result.parity[name] = check_parity(target, run, name, one_at_a_time=format == "executorch")
            if path.suffix == ".onnx":
                result.opset = opset_of(path)
        result.files = {
            file.relative_to(draft).as_posix(): file.stat().st_size
            for file in sorted(draft.rglob("*"))
            if file.is_file()
        }
    return result


def task_of(source: str) -> str:
    """The key of `TASKS` for the head that a folder's configuration names.

    Raises:
        InputError: it names none, or none that there is.
    """
    named = ConvBertConfig.from_pretrained(source).architectures or []
    for task, entry in TASKS.items():
        if entry.model.__name__ in named:
            return task
    known = ", ".join(entry.model.__name__ for entry in TASKS.values())
    raise InputError(
        f"{source}: config.json names the architecture {', '.join(named) or '(none)'}; known are {known}"
    )


def _check(format: str, precisions: list[str], output: Path) -> None:
    if format not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    for precision in precisions:
        if precision not in FORMATS[format]:
            raise InputError(f"{format} is written in {', '.join(FORMATS[format])}, not in {precision!r}")
    if format != "onnx" and len(precisions) > 1:
        raise InputError(f"{format} is written in one precision at a time, got {' and '.join(precisions)}")
    if output.exists():
        raise InputError(f"{output}: is there already; give a new folder")
    if format != "torch":
        require("onnx" if format == "web" else format, f"export --format {format}")


def _write_companions(model: Any, source: str, folder: Path) -> None:
    """What a runtime's tokenizer and post-processing read."""
    model.config.save_pretrained(folder)
    tokenizer = ConvBertTokenizerFast.from_pretrained(source)
    save_tokenizer(tokenizer, folder, model.config.max_position_embeddings)


def _write(
    format: str, target: Traceable, folder: Path, precisions: list[str], opset: int | None
) -> Iterator[tuple[str, Path, Run]]:
    """Write the files of a format: the precision of each, its path, and the file in its runtime."""
    if format == "openvino":
        from convbert.export.openvino import write_openvino

        path = write_openvino(target, folder, precisions[0])
        yield precisions[0], path, open_runtime("openvino", path)
    elif format == "torch":
        from convbert.export.torch_package import runtime, write_package

        path = write_package(target, folder)
        yield precisions[0], path, runtime(path, target.outputs)
    elif format == "executorch":
        from convbert.export import executorch

        path = executorch.write_program(target, folder)
        yield precisions[0], path, executorch.runtime(path, target.outputs)
    else:
        from convbert.export.onnx import write_onnx

        (folder / "onnx").mkdir()
        for precision, path in write_onnx(target, folder / "onnx", precisions, opset).items():
            yield precision, path, open_runtime("onnx", path, with_maps=True)
