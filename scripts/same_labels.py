"""A fine-tuned folder in transformers and here: the same labels on the whole dev set.

    python scripts/same_labels.py runs/sst2/model ../shared/data/tasks/sst2

1. Padded batches: transformers' ConvBERT against ours with conv_reads_padding=True.
2. Ours as it is, in padded batches, against transformers' ConvBERT on each text alone.

Exits with 1 where a label differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from convbert import ConvBertForSequenceClassification
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.warm_start import read_task


@torch.no_grad()
def main(
    model: Annotated[Path, typer.Argument(help="A folder that convbert finetune wrote.")],
    data: Annotated[Path, typer.Argument(help="The data set's folder.")],
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
) -> None:
    noted = read_task(str(model))
    if noted is None:
        raise typer.BadParameter(f"{model} names no task")
    task, plan = noted
    examples = adapter_of(task).read(task.find_files(data, "dev")[0])
    rows = [tuple(example.inputs.values()) for example in examples]
    tokenizer = AutoTokenizer.from_pretrained(model)
    theirs = AutoModelForSequenceClassification.from_pretrained(model).eval()
    ours = ConvBertForSequenceClassification.from_pretrained(model).eval()
    leaking = ConvBertForSequenceClassification.from_pretrained(model, conv_reads_padding=True).eval()

    def encode(chosen: Sequence[tuple[str, ...]]) -> Any:
        return tokenizer(
            *map(list, zip(*chosen, strict=True)),
            padding=True,
            truncation=True,
            max_length=plan.max_length,
            return_tensors="pt",
        )

    def logits(net: Callable[..., Any], size: int) -> Tensor:
        return torch.cat([net(**encode(chosen)).logits for chosen in cut(rows, size)])

    padded, alone = logits(theirs, batch_size), logits(theirs, 1)
    pairs = {
        "padded, conv_reads_padding=True": (logits(leaking, batch_size), padded),
        "as it is, theirs alone": (logits(ours, batch_size), alone),
    }
    differing = 0
    for name, (mine, other) in pairs.items():
        same = int((mine.argmax(-1) == other.argmax(-1)).sum())
        differing += len(rows) - same
        print(
            f"{name}: {same:,} of {len(rows):,} labels equal, logits within {(mine - other).abs().max():.1e}"
        )
    moved = (padded.argmax(-1) != alone.argmax(-1)).sum().item()
    print(
        f"transformers with and without padding: {moved:,} labels differ, logits by {(padded - alone).abs().max():.1e}"
    )
    raise typer.Exit(int(differing > 0))


def cut(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Batches of `size`, the last one shorter."""
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


if __name__ == "__main__":
    typer.run(main)
