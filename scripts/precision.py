"""What each precision costs in answers and gains in time on unseen text, beside fp32, interleaved in one process.

    .venv/bin/python scripts/precision.py tests/data/heldout.txt
    .venv/bin/python scripts/precision.py heldout.txt.gz --model runs/small/model --precision int8

Every precision guesses the same masked tokens. The error of a difference is its standard error over positions.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from torch import Tensor

import convbert
from convbert import ConvBertTokenizerFast
from convbert.files import embedded
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.masking import IGNORED, Masking, MaskingCollator

BATCH = 32  # sequences of up to 128 tokens
Batches = list[dict[str, Tensor]]


def main(
    text: Annotated[list[Path], typer.Argument(help="Files that the model has not seen.")],
    model: Annotated[Path | None, typer.Option(help="Folder; by default the embedded model.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Beside fp32; default bf16 and int8.")] = None,
    mask_prob: Annotated[float, typer.Option(help="Share of the tokens that are masked.")] = 0.2,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    names = ["fp32", *(precision or ["bf16", "int8"])]
    models = {name: convbert.load(model, precision=name, device="cpu") for name in names}
    batches = masked_batches(text, model or embedded.folder(), mask_prob)
    guesses, seconds = guess(models, batches)
    targets = torch.cat([batch["labels"][batch["labels"] != IGNORED] for batch in batches])
    print(f"{len(targets)} masked positions, torch {torch.__version__}, {threads} threads\n")
    print("| precision | accuracy | against fp32 | same first token | speed against fp32 |")
    print("| --- | ---: | ---: | ---: | ---: |")
    right = {name: (found == targets).double() for name, found in guesses.items()}
    for name in names:
        lost = right[name] - right["fp32"]
        error = lost.std() / len(lost) ** 0.5
        same = (guesses[name] == guesses["fp32"]).double().mean()
        speed = median(a / b for a, b in zip(seconds["fp32"], seconds[name], strict=True))
        print(
            f"| {name} | {right[name].mean():.2%} | {100 * lost.mean():+.2f} ± {100 * error:.2f} points "
            f"| {same:.2%} | {speed:.2f}× |"
        )


def masked_batches(text: list[Path], folder: Path, mask_prob: float) -> Batches:
    """Batches with masks in place: `input_ids`, `attention_mask`, `labels`, each (B, T)."""
    tokenizer = ConvBertTokenizerFast.from_pretrained(folder)
    collate = MaskingCollator(tokenizer, Masking(mask_prob), seed=1)
    with tempfile.TemporaryDirectory() as cache:
        sequences = prepare_sequences(text, tokenizer, Path(cache), Packing(128, 16))
        items = [sequences[index] for index in range(len(sequences))]
    return [collate(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]


@torch.inference_mode()
def guess(
    models: dict[str, torch.nn.Module], batches: Batches
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """The first token at every masked position, and the seconds of every batch, by name of the model."""
    guesses: dict[str, list[Tensor]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for batch in [batches[0], *batches]:  # the first time warms up
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        for name, model in models.items():
            started = time.perf_counter()
            logits = model(**inputs, logits_to_keep=batch["labels"] != IGNORED).logits
            seconds[name].append(time.perf_counter() - started)
            guesses[name].append(logits.argmax(-1))
    return {name: torch.cat(found[1:]) for name, found in guesses.items()}, {
        name: taken[1:] for name, taken in seconds.items()
    }


if __name__ == "__main__":
    typer.run(main)
