"""`convbert tokenizer train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convbert.cli.failures import say
from convbert.cli.prepare import KeepAccents, Lowercase, TextColumn
from convbert.util.errors import InputError
from convbert.util.optional import require


def train(
    files: Annotated[
        list[str], typer.Argument(help="Text, JSON lines or Parquet files, folders or quoted globs.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens in the vocabulary, at most.")] = 30_522,
    lowercase: Lowercase = None,
    keep_accents: KeepAccents = None,
    min_frequency: Annotated[int, typer.Option(help="A pair of pieces seen less often is not joined.")] = 2,
    coverage: Annotated[
        float,
        typer.Option(help="Of more than 1,000 characters, keep as many as cover this share of the text."),
    ] = 0.9995,
    limit_alphabet: Annotated[int | None, typer.Option(help="Distinct characters kept, at most.")] = None,
    text_column: TextColumn = "text",
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
        lowercase=lowercase,
        keep_accents=keep_accents,
        min_frequency=min_frequency,
        coverage=coverage,
        limit_alphabet=limit_alphabet,
        reading=Reading(text_column),
        report=say,
    )
    say(f"{len(tokenizer)} tokens written to {output}")
