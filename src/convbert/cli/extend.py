"""`convbert extend`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer

from convbert.cli.failures import say
from convbert.cli.options import check_model_path


def run(
    model: Annotated[str, typer.Argument(help='Model folder, a name on the Hub, or "embedded".')],
    output: Annotated[Path, typer.Argument(help="New folder.")],
    positions: Annotated[int, typer.Option(min=1, help="Tokens that the new model reads.")],
    method: Annotated[
        str,
        typer.Option(
            help='How the table of positions goes on: "tile" repeats it, "interpolate" stretches it.'
        ),
    ] = "tile",
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object instead.")] = False,
) -> None:
    """Give a model more positions, to train it further on longer texts.

    The new folder opens wherever the old one did. Nothing has been learned of long texts yet: go on with convbert
    pretrain or finetune. Without training, --long windows of convbert predict reads long texts just as well.

    \b
    Examples:
      convbert extend --positions 2048 runs/small/model runs/small-2048
      convbert pretrain --start-from runs/small-2048 --sequence-length 2048 --corpus books/ --output runs/long
      convbert finetune --model runs/small-2048 --set max_length=2048 --task text-classification --data letters/ \\
        --output runs/letters
    """
    check_model_path(model)
    from convbert.conversion.extend import Method, extend

    done = extend(model, output, positions, cast(Method, method))
    if as_json:
        print(json.dumps(asdict(done), ensure_ascii=False))
    else:
        say(f"{done.architecture}: {done.before:,} positions continued to {done.after:,} ({done.method})")
        print(done.output)
