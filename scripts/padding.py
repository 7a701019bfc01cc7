"""What padding does to a text: alone, and in a padded batch, in transformers' ConvBERT and here.

    python scripts/padding.py [MODEL]

Real sentences in fp32, in the order of the file, so that each batch holds short and long ones.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers.models.convbert import ConvBertConfig as TheirConfig
from transformers.models.convbert import ConvBertForMaskedLM as TheirForMaskedLM

from convbert import ConvBertConfig, ConvBertForMaskedLM, ConvBertTokenizerFast
from convbert.files import embedded

SENTENCES = Path(__file__).parents[1] / "tests/data/sentences.txt"


@torch.no_grad()
def main(
    model: Annotated[str | None, typer.Argument(help="Folder; by default the embedded model.")] = None,
    random: Annotated[bool, typer.Option(help="Random weights of ConvBERT-small instead.")] = False,
    sentences: Annotated[int, typer.Option(min=2)] = 128,
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
) -> None:
    tokenizer = ConvBertTokenizerFast.from_pretrained(model or embedded.folder())
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()[:sentences]
    with tempfile.TemporaryDirectory() as folder:
        if random:
            torch.manual_seed(0)
            config = ConvBertConfig.small(vocab_size=len(tokenizer))
            TheirForMaskedLM(TheirConfig(**config.to_dict())).save_pretrained(folder)
        source = folder if random else model or str(embedded.folder())
        print("| | states differ by up to | scores of words, by up to | another first word |")
        print("| --- | ---: | ---: | ---: |")
        for name, kind in (("transformers' ConvBERT", TheirForMaskedLM), ("convbert", ConvBertForMaskedLM)):
            network = kind.from_pretrained(source, dtype=torch.float32).eval()
            print(f"| {name} | {_compare(network, tokenizer, texts, batch_size)} |", flush=True)


def _compare(network: Any, tokenizer: Any, texts: list[str], batch_size: int) -> str:
    states, scores, others, tokens = 0.0, 0.0, 0, 0
    for start in range(0, len(texts), batch_size):
        chosen = texts[start : start + batch_size]
        together = _outputs(network, tokenizer(chosen, padding=True, return_tensors="pt"))
        for text, *batched in zip(chosen, *together, strict=True):
            alone = _outputs(network, tokenizer(text, return_tensors="pt"))
            length = alone[0].shape[1]
            (state, word), (other_state, other_word) = (
                [row[0] for row in alone],
                [row[:length] for row in batched],
            )
            states = max(states, (state - other_state).abs().max().item())
            scores = max(scores, (word.softmax(-1) - other_word.softmax(-1)).abs().max().item())
            others += int((word.argmax(-1) != other_word.argmax(-1)).sum())
            tokens += length
    return f"{states:.1e} | {scores:.1e} | {others} of {tokens:,} tokens"


def _outputs(network: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Last states and logits of a batch."""
    output = network(**batch, output_hidden_states=True)
    return output.hidden_states[-1], output.logits


if __name__ == "__main__":
    typer.run(main)
