"""`convbert tokenizer train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convbert.cli.failures import say
from convbert.errors import InputError
from convbert.optional import require


def train(
    files: Annotated[
        list[str], typer.Argument(help="Text, JSON lines or Parquet files, folders or quoted globs.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens in the vocabulary, at most.")] = 30_522,
    cased: Annotated[bool, typer.Option("--cased", help="Keep upper case and accents.")] = False,
    min_frequency: Annotated[int, typer.Option(help="A pair of pieces seen less often is not joined.")] = 2,
    limit_alphabet: Annotated[int, typer.Option(help="Distinct characters kept.")] = 1000,
    text_column: Annotated[str, typer.Option(help="Of JSON lines and Parquet.")] = "text",
) -> None:
    """Learn a WordPiece vocabulary from text files.

    \b
    Examples:
      convbert tokenizer train corpus/*.txt --vocab-size 16000 --output my-tokenizer
      convbert tokenizer train corpus/ --cased --output my-tokenizer
    """
    require("train", "convbert tokenizer train")
    from convbert.pretraining.corpus.reading import Reading
    from convbert.pretraining.vocabulary import train_wordpiece

    if there := [name for name in ("config.json", "tokenizer.json", "vocab.txt") if (output / name).exists()]:
        raise InputError(
            f"{output}: holds a model or a tokenizer already ({there[0]}); choose another folder"
        )
    tokenizer = train_wordpiece(
        files,
        vocab_size,
        output,
        lowercase=not cased,
        min_frequency=min_frequency,
        limit_alphabet=limit_alphabet,
        reading=Reading(text_column),
    )
    say(f"{len(tokenizer)} tokens written to {output}")
