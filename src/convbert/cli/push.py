"""`convbert push`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from convbert.cli.failures import say


def run(
    name: Annotated[str, typer.Argument(help="Repository on the Hub, as OWNER/NAME.")],
    model: Annotated[str, typer.Option(help="Model folder.")],
    license: Annotated[
        str | None,
        typer.Option("--license", help="Licence, as the Hub names it: cc-by-sa-4.0, apache-2.0, ..."),
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="Language of the model's text, as en; may be repeated.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Data set that it was trained on, by its name on the Hub; may be repeated."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that you alone see.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes and card; send nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write what goes as JSON.")] = False,
) -> int:
    """Send a model folder with its card and scores to the Hugging Face Hub.

    All files of the folder but hidden ones go in one commit. Licence, language and data sets are written into the head
    of the card that goes. The token is that of `hf auth login`, or of the environment variable HF_TOKEN.

    \b
    Examples:
      convbert push --model runs/reviews/model me/reviews --license cc-by-sa-4.0 --language en --dry-run
      convbert push --model runs/reviews/model me/reviews --private
    """
    from convbert.files.push import plan_upload, push
    from convbert.inference.loading import find_model

    given = {"license": license, "language": language, "datasets": dataset}
    facts = {key: x[0] if isinstance(x, list) and len(x) == 1 else x for key, x in given.items() if x}
    upload = plan_upload(Path(find_model(model)), name, facts)
    if as_json:
        print(
            json.dumps({"repository": name, "files": upload.sizes, "card": upload.card}, ensure_ascii=False)
        )
    else:
        _show(upload.repository, upload.sizes)
        if dry_run:
            print(f"\n{upload.card}")
    if "license" not in upload.card.partition("\n---")[0]:
        say("the card names no licence; --license does")
    if not dry_run:
        say(f"pushed to {push(upload, private=private)}")
    return 0


def _show(repository: str, sizes: dict[str, int]) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    files = Table(title=repository, title_justify="left")
    files.add_column("file")
    files.add_column("size", justify="right")
    for name, size in (*sizes.items(), ("all", sum(sizes.values()))):
        files.add_row(name, decimal(size))
    Console().print(files)
