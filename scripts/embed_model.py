"""Put a pre-trained model into the package as its embedded model: half precision, and a card with its figures.

    .venv/bin/python scripts/embed_model.py runs/second

The card's prose is `scripts/embedded_card.md`; figures, recipe and cost come from the run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from convbert import ConvBertForMaskedLM, ConvBertTokenizerFast
from convbert.files.atomic import atomic_folder, save_tokenizer

EARLIER_TOKENS = 15_030_915
"""Of the run whose weights the embedded model's last run began with; its figures are in the prose."""
TARGET = Path(__file__).parent.parent / "src/convbert/models/english"


def main(run: Annotated[Path, typer.Argument(help="Folder of a finished pre-training run.")]) -> None:
    """Copy what a user needs, and fill the card in."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    prose = Path(__file__).with_name("embedded_card.md").read_text(encoding="utf-8")
    metrics["tokens_in_all"] = EARLIER_TOKENS + metrics["tokens_seen"]
    model = ConvBertForMaskedLM.from_pretrained(run / "model", dtype="float16")
    with atomic_folder(TARGET) as draft:
        model.save_pretrained(draft)
        file = draft / "config.json"  # only the file is in half precision: nobody should train in it unasked
        config = json.loads(file.read_text(encoding="utf-8")) | {"dtype": "float32"}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        tokenizer = ConvBertTokenizerFast.from_pretrained(run / "model")
        save_tokenizer(tokenizer, draft, model.config.max_position_embeddings)
        shutil.copy(run / "model/loss.png", draft / "loss.png")
        (draft / "README.md").write_text(fill_in(prose, metrics, plan), encoding="utf-8")
    size = sum(file.stat().st_size for file in TARGET.iterdir())
    print(f"{TARGET}: {size / 1e6:.1f} MB")


def fill_in(prose: str, metrics: dict[str, Any], plan: dict[str, Any]) -> str:
    """The card: its prose with each `{figure}` replaced, and the resolved recipe in place of `{plan}`."""
    for name, value in metrics.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        shown = f"{value:.1%}" if name.endswith("accuracy") else shown
        prose = prose.replace(f"{{{name}}}", shown)
    return prose.replace("{plan}", json.dumps(plan, indent=2))


if __name__ == "__main__":
    typer.run(main)
