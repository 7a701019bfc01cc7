"""`convbert export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from convbert.cli.failures import say

if TYPE_CHECKING:
    from convbert.export import Exported


def run(
    output: Annotated[str, typer.Option(help="Folder to write; must not be there yet.")],
    model: Annotated[
        str | None,
        typer.Option(help="Model folder, or a name on the Hub; by default the embedded English one."),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format", help='"onnx", "openvino", "torch" (AOTInductor), "executorch" or "web" (a page).'
        ),
    ] = "onnx",
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help='"fp32", "fp16", "int8" (8-bit weights) or "int8-dynamic" (8-bit activations, too); may be repeated. '
            "[default: fp32; int8 for the web]",
            show_default=False,
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(min=1, help="Version of ONNX's operators; by default the exporter's.")
    ] = None,
    with_attentions: Annotated[
        bool,
        typer.Option(
            "--with-attentions",
            help="For onnx and web: attention maps and dynamic kernels as further outputs; the page draws them.",
        ),
    ] = False,
    node_modules: Annotated[
        str | None,
        typer.Option(
            help="For the web: where npm has installed @huggingface/transformers; by default npm fetches it."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write what was found as JSON.")] = False,
) -> int:
    """Write a model for another runtime, and check its answers there.

    The folder needs nothing of convbert to run. An ONNX folder is laid out as transformers.js and Optimum read it.
    Texts may have any length, alone or in padded batches, and their answers are those of convbert: the export ends
    with a check in the runtime, and leaves nothing behind if it fails.

    \b
    Examples:
      convbert export --model runs/reviews/model --output exported
      convbert export --model runs/reviews/model --precision fp32 --precision int8 --output exported
      convbert export --format openvino --precision fp16 --output exported
      convbert export --model runs/reviews/model --format web --output site     # python -m http.server -d site
      convbert export --model runs/reviews/model --format web --with-attentions --output site
    """
    from convbert.export import export

    done = export(
        model,
        output,
        format,
        precision or None,
        opset=opset,
        with_attentions=with_attentions,
        node_modules=node_modules,
        report=lambda step: say(f"{step} ..."),
    )
    if as_json:
        parity = {name: asdict(found) for name, found in done.parity.items()}
        print(
            json.dumps(
                {"folder": str(done.folder), "opset": done.opset, "files": done.files, "parity": parity}
            )
        )
        return 0
    _show(done)
    return 0


def _show(done: Exported) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    files = Table(
        title=f"{done.folder}" + (f" (opset {done.opset})" if done.opset else ""), title_justify="left"
    )
    files.add_column("file")
    files.add_column("size", justify="right")
    for name, size in done.files.items():
        files.add_row(name, decimal(size))
    Console().print(files)
    for precision, parity in done.parity.items():
        print(f"{precision}: {parity.sentence()}")
