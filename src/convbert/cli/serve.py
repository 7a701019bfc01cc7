"""`convbert serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from convbert.cli.failures import say
from convbert.cli.options import Device, Precision
from convbert.util.errors import InputError
from convbert.util.optional import require


def run(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Folder of a model, or its name on the Hub; may be given several times. "
            "By default the embedded English one.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that hold the models and share the cores.")
    ] = 1,
    max_tokens: Annotated[
        int,
        typer.Option(min=1, help="Tokens in a batch: as many waiting texts as fit are answered together."),
    ] = 4096,
    queue: Annotated[
        int,
        typer.Option(min=1, help="Texts that may wait, and texts in a request; beyond, status 429 and 413."),
    ] = 1000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 30.0,
    pooling: Annotated[str, typer.Option(help='Embeddings: "mean", "max" or "first".')] = "mean",
    long: Annotated[
        str,
        typer.Option(
            help='Texts longer than a model reads: "windows" reads all of them, "cut" their beginning, "refuse" '
            "answers with an error. Requests that say truncate are cut."
        ),
    ] = "windows",
    api_key: Annotated[
        str | None,
        typer.Option(envvar="CONVBERT_API_KEY", help="What clients must send; better in the environment."),
    ] = None,
    precision: Precision = "auto",
    device: Device = None,
    log: Annotated[
        bool, typer.Option("--log", help="Log requests: address, path and status, no text.")
    ] = False,
) -> int:
    """Answer texts over HTTP, with a page to try it at /, and the interface described at /docs.

    Routes: /v1/embeddings (OpenAI), /embed, /predict and /rerank (text-embeddings-inference), /fill-mask, /classify,
    /tag, /answer, /choose, /maps; /health, /info, /metrics.

    \b
    Examples:
      convbert serve
      convbert serve --model runs/reviews/model --model names=runs/btc/model --port 8080
      CONVBERT_API_KEY=secret convbert serve --host 0.0.0.0 --workers 4
    """
    require("serve", "convbert serve")
    if api_key is not None and (not api_key.isascii() or not api_key.strip()):
        raise InputError("the API key must be ASCII, and not empty: it is sent in a header")
    from convbert.inference.pipelines.feature_extraction import POOLINGS
    from convbert.inference.windows import check_long
    from convbert.serving.run import serve

    if pooling not in POOLINGS:
        raise InputError(f"--pooling must be one of {', '.join(POOLINGS)}; got {pooling}")
    serve(
        model or [],
        host=host,
        port=port,
        workers=workers,
        queue=queue,
        timeout=timeout,
        api_key=api_key,
        log_level="info" if log else "warning",
        report=say,
        max_tokens=max_tokens,
        pooling=pooling,
        long=check_long(long, "--long"),
        precision=precision,
        device=device,
    )
    return 0
