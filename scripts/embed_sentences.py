"""Put a distilled sentence encoder into the package: half precision, and a card with its figures.

    python scripts/embed_sentences.py runs/sentences
    python -m benchmarks.sentences --data DATA --medquad MEDQUAD --teacher all-MiniLM-L6-v2/
    python scripts/embed_sentences.py runs/sentences --figures benchmarks/results/sentences_PROCESSOR_DATE.md

The card's prose is `scripts/sentences_card.md`; the table of figures is that of the benchmark.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from convbert import ConvBertModel, ConvBertTokenizerFast
from convbert.files.atomic import atomic_folder, save_tokenizer
from convbert.files.embedded import NAMES
from convbert.files.sentence_modules import write_sentence_modules

TARGET = Path(__file__).parent.parent / "src/convbert/models" / NAMES["embedded-sentences"]


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished distillation.")],
    figures: Annotated[Path | None, typer.Option(help="A page of benchmarks.sentences.")] = None,
) -> None:
    """Copy what a user needs, and fill the card in."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    plan = json.loads((run / "run.json").read_text(encoding="utf-8"))["plan"]
    prose = Path(__file__).with_name("sentences_card.md").read_text(encoding="utf-8")
    values = {
        **{name: f"{metrics[name]:,}" for name in ("texts", "steps", "minutes")},
        "parameters": f"{metrics['parameters'] / 1e6:.1f}",
        "heldout_cosine": f"{metrics['heldout_cosine']:.3f}",
        "figures": "Not measured." if figures is None else tables_of(figures),
        "plan": json.dumps(plan, indent=2),
    }
    for name, value in values.items():
        prose = prose.replace(f"{{{name}}}", value)
    model = ConvBertModel.from_pretrained(run / "model", dtype=torch.float16)
    positions = model.config.max_position_embeddings
    with atomic_folder(TARGET) as draft:
        model.save_pretrained(draft)
        file = draft / "config.json"  # nobody should compute in half precision unasked
        config = json.loads(file.read_text(encoding="utf-8")) | {"dtype": "float32"}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_tokenizer(ConvBertTokenizerFast.from_pretrained(run / "model"), draft, positions)
        write_sentence_modules(draft, model.config.hidden_size, positions)
        (draft / "README.md").write_text(prose, encoding="utf-8")
    size = sum(path.stat().st_size for path in TARGET.rglob("*") if path.is_file())
    print(f"{TARGET}: {size / 1e6:.1f} MB")


def tables_of(page: Path) -> str:
    """The tables of a page of results, with the processor that its heading names."""
    heading, *lines = page.read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith("- "))
    body = "\n".join(lines[:end]).strip()
    return f"{heading.removeprefix('# ')}.\n\n{body}"


if __name__ == "__main__":
    typer.run(main)
