"""`convbert convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convbert.util.errors import InputError

if TYPE_CHECKING:
    from convbert.conversion.folders import Conversion

_FORMATS = ("tensorflow", "pytorch")


def run(
    source: Annotated[
        Path,
        typer.Argument(
            help="TensorFlow checkpoint (prefix, .index file or folder), folder or file of PyTorch weights; "
            "with --to tensorflow, a model folder or a folder with model/ and generator/."
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="New folder; with --to tensorflow, a prefix such as tf/model.ckpt.")
    ],
    from_: Annotated[
        str | None,
        typer.Option("--from", help='What SOURCE is: "tensorflow" or "pytorch". By default as it looks.'),
    ] = None,
    to: Annotated[
        str,
        typer.Option(help='"pytorch" for model folders, or "tensorflow" for a checkpoint of the original.'),
    ] = "pytorch",
    config: Annotated[
        Path | None,
        typer.Option(
            help="The original's configuration (JSON), or a config.json for weights of PyTorch. By default the one "
            "beside those; without one, sizes are inferred from the tensors."
        ),
    ] = None,
    vocab: Annotated[Path | None, typer.Option(help="vocab.txt, to write a tokenizer.")] = None,
    repair_vocab: Annotated[
        bool,
        typer.Option(
            "--repair-vocab",
            help="Repair line ends and misread characters of --vocab, as the original's has.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object instead.")] = False,
) -> None:
    """Turn checkpoints of the original ConvBERT, and weights saved in other ways, into model folders, and back.

    A TensorFlow checkpoint becomes OUTPUT/model, the discriminator, and OUTPUT/generator. Weights of PyTorch may have
    the names that DataParallel, FSDP, torch.compile or Lightning give them; nothing is unpickled but tensors.

    \b
    Examples:
      convbert convert model.ckpt-1000000 --config configure.json --vocab vocab.txt --output converted
      convbert convert --from tensorflow checkpoints/ --output converted --json
      convbert convert lightning.ckpt --vocab vocab.txt --output my-model
      convbert convert --to tensorflow runs/small --output tf/model.ckpt
    """
    for name, value in (("--from", from_), ("--to", to)):
        if value not in (*_FORMATS, None):
            raise InputError(f"{name} is {value!r}; there are {' and '.join(_FORMATS)}")
    if repair_vocab and vocab is None:
        raise InputError("--repair-vocab repairs the file that --vocab names")
    if to == "tensorflow":
        if from_ == to:
            raise InputError("--from and --to are both tensorflow")
        if config is not None or vocab is not None:
            raise InputError("--to tensorflow takes configuration and vocabulary from the model folders")
    from convbert.conversion import convert

    if to == "tensorflow":
        report = convert.convert_to_tensorflow(source, output)
    elif from_ == "tensorflow" or (from_ is None and convert.is_tensorflow(source)):
        report = convert.convert_from_tensorflow(
            source, output, settings=config, vocab=vocab, repair_vocab=repair_vocab
        )
    else:
        report = convert.convert_from_pytorch(
            source, output, config=config, vocab=vocab, repair_vocab=repair_vocab
        )
    if as_json:
        print(json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        _show(report)


def _show(report: Conversion) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    models = Table(title=Text(f"{report.source} → {report.output}"), title_justify="left", title_style="bold")
    for heading in ("folder", "class", "parameters", "sizes"):
        models.add_column(heading, justify="right" if heading == "parameters" else "left")
    for model in report.models:
        cells = (model.folder, model.architecture, f"{model.parameters:,}", _sizes(model.sizes))
        models.add_row(*map(Text, cells))
    console.print(models)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, told in _facts(report):
        facts.add_row(name, Text(told))
    console.print(facts)


def _sizes(sizes: dict[str, Any]) -> str:
    groups = f", {sizes['num_groups']} groups" if sizes["num_groups"] > 1 else ""
    return (
        f"{sizes['num_hidden_layers']} × {sizes['hidden_size']}{groups}, {sizes['num_attention_heads']} heads, "
        f"embeddings {sizes['embedding_size']}, {sizes['vocab_size']:,} tokens, "
        f"{sizes['max_position_embeddings']} positions"
    )


def _values(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items() if value is not None)


def _facts(report: Conversion) -> list[tuple[str, str]]:
    """What happened to the tensors, what was guessed, and what else to know: a word and a sentence each."""
    facts = [("tensors", f"{report.used:,} of {report.tensors:,} used")]
    for reason, names in report.unused.items():
        examples = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        facts.append(("unused", f"{len(names):,} × {reason}: {examples}"))
    for model in report.models:
        if model.inferred:
            facts.append(("inferred", f"{model.folder}: {_values(model.inferred)}"))
    assumed = {_values(model.assumed): None for model in report.models if model.assumed}
    facts += [("assumed", values) for values in assumed]
    if report.global_step is not None:
        facts.append(("step", f"{report.global_step:,}"))
    if report.vocabulary is not None:
        repaired = [
            f"{report.vocabulary[key]:,} {what}"
            for key, what in (
                ("crlf", "Windows line ends"),
                ("restored", "misread lines"),
                ("completed", "of them completed from BERT's vocabulary, whose checksum they have"),
            )
            if report.vocabulary.get(key)
        ]
        told = f"{report.vocabulary['tokens']:,} tokens"
        facts.append(("vocabulary", f"{told}; repaired: {', '.join(repaired)}" if repaired else told))
    return facts + [("note", note) for note in report.notes]
