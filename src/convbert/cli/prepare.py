"""`convbert prepare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convbert.cli.failures import say
from convbert.cli.progress import prepare_line
from convbert.util.cores import usable_cores
from convbert.util.errors import InputError
from convbert.util.optional import require

if TYPE_CHECKING:
    from convbert.pretraining.corpus.shards import Manifest


TextColumn = Annotated[str, typer.Option(help="Of JSON lines, Parquet, CSV, TSV and data sets.")]
DocumentPerLine = Annotated[
    bool,
    typer.Option(
        "--document-per-line", help="Text files: every line is a document. Else empty lines part them."
    ),
]
SkipBadFiles = Annotated[
    bool,
    typer.Option("--skip-bad-files", help="Leave out what is empty, damaged or not UTF-8, and count it."),
]
Lowercase = Annotated[
    bool | None,
    typer.Option("--lowercase/--cased", help="A vocabulary that is learned folds case. As fits the text."),
]
KeepAccents = Annotated[
    bool | None,
    typer.Option("--keep-accents/--strip-accents", help="Likewise, accents and vowel signs."),
]


def run(
    output: Annotated[Path, typer.Option(help="Folder for the prepared corpus.")],
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            help="Text, JSON lines, Parquet, CSV or TSV; .gz and .zst; a folder or quoted glob; may be repeated."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME[:CONFIG]", help="A data set of the hub, streamed, or one saved to disk."),
    ] = None,
    split: Annotated[str, typer.Option(help="Of --dataset.")] = "train",
    text_column: TextColumn = "text",
    document_per_line: DocumentPerLine = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a tokenizer; without it one is learned from the corpus.")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Tokens in the vocabulary that is learned.", show_default="30522")
    ] = None,
    lowercase: Lowercase = None,
    keep_accents: KeepAccents = None,
    sequence_length: Annotated[int, typer.Option(help="Tokens in a full sequence.")] = 128,
    min_sequence_length: Annotated[int, typer.Option(help="Shorter rests are dropped.")] = 16,
    segments: Annotated[
        str, typer.Option(help='"one": [CLS] A [SEP], packed full; "two": the original\'s sentence pairs.')
    ] = "one",
    cross_documents: Annotated[
        bool, typer.Option("--cross-documents", help="Sequences go on into the next document.")
    ] = False,
    skip_bad_files: SkipBadFiles = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one a core.")] = None,
    engine: Annotated[
        str, typer.Option(help='"local", or "ray": the Ray cluster that is running (RAY_ADDRESS).')
    ] = "local",
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check every byte of what --output holds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the counts as JSON to stdout.")] = False,
) -> None:
    """Tokenise a corpus once, for pretrain --corpus OUTPUT: any size, in parallel, read without copying.

    Interrupted and repeated, it goes on. The result does not depend on the number of workers.

    \b
    Examples:
      convbert prepare --corpus corpus/ --output prepared
      convbert prepare --corpus "c4/*.jsonl.zst" --tokenizer my-tokenizer --output prepared --workers 16
      convbert prepare --dataset wikimedia/wikipedia:20231101.en --output wikipedia
      convbert prepare --verify --output prepared
    """
    require("train", "convbert prepare")
    sources = [*(corpus or []), *([f"dataset:{dataset}@{split}"] if dataset else [])]
    # What can be refused without torch, whose import takes seconds.
    if not verify:
        if not sources:
            raise InputError("nothing to prepare: give --corpus or --dataset")
        check_sources(sources)
        check_tokenizer_options(tokenizer, None, vocab_size, lowercase, keep_accents)
    from convbert.pretraining.corpus.packing import Packing
    from convbert.pretraining.corpus.prepare import Preparation
    from convbert.pretraining.corpus.reading import Reading
    from convbert.pretraining.data import open_corpus
    from convbert.pretraining.prepare import NewVocabulary, prepare

    if verify:
        opened = open_corpus(output, verify=True)
        manifest = opened.manifest
        for loss in opened.losses():
            say(loss)
        say(f"{output}: {len(manifest.shards)} shards are as they were written")
    else:
        preparation = Preparation(
            sources,
            output,
            Packing(sequence_length, min_sequence_length, segments, cross_documents),
            Reading(text_column, document_per_line, skip_bad_files),
            workers or usable_cores(),
            engine,
        )
        vocabulary = tokenizer or NewVocabulary(vocab_size or 30_522, lowercase, keep_accents)
        with prepare_line(say) as watch:
            manifest = prepare(preparation, vocabulary, report=say, watch=watch)
    print(json.dumps(_counts(manifest, output), allow_nan=False) if as_json else output)


def check_sources(sources: Sequence[str]) -> None:
    """Refuse sources of text that are not there.

    Raises:
        InputError: naming one.
    """
    from convbert.pretraining.corpus.shards import prepared_folder
    from convbert.pretraining.corpus.sources import find_sources

    if prepared_folder(sources) is None:
        find_sources(sources)


def check_tokenizer_options(
    tokenizer: Path | None,
    start_from: str | None,
    vocab_size: int | None,
    lowercase: bool | None,
    keep_accents: bool | None,
) -> None:
    """Refuse a tokenizer that is not there, and options that it would have decided; say that its size is its own.

    Raises:
        InputError: naming them.
    """
    if tokenizer is not None and not tokenizer.is_dir():
        raise InputError(f"{tokenizer}: no tokenizer here: there is no such folder")
    for given, source in (("--tokenizer", tokenizer), ("--start-from", start_from)):
        if source is not None and vocab_size is not None:
            say(f"warning: --vocab-size {vocab_size} is not used: {given} brings a vocabulary")
        for option, value in (
            ("--lowercase or --cased", lowercase),
            ("--keep-accents or --strip-accents", keep_accents),
        ):
            if source is not None and value is not None:
                raise InputError(f"{option} is for a vocabulary that is learned, and {given} brings its own")


def _counts(manifest: Manifest, output: Path) -> dict[str, Any]:
    return {
        "output": str(output),
        **manifest.totals(),
        "shards": len(manifest.shards),
        "skipped": len(manifest.skipped),
        "vocab_size": manifest.vocab_size,
        "fingerprint": manifest.fingerprint,
    }
