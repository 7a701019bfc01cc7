"""Ways to fine-tune the embedded model side by side: the same data, the same seeds, dev scores in a table.

    python scripts/variants.py FOLDER --sets sst2,cb --variants recipe,linear-head --seeds 3
    python scripts/variants.py FOLDER --sets sst2 --variants recipe,plain-trainer,padded,layer-decay --epochs 2

Writes one line per set and variant to stdout, as Markdown. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

from convbert import ConvBertForSequenceClassification, ConvBertTokenizerFast
from convbert.cli.failures import say
from convbert.files import embedded
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.data import Split
from convbert.finetuning.recipes import FinetuningPlan, recipe
from convbert.finetuning.run import Files, finetune
from convbert.finetuning.tasks import TASKS, Task
from convbert.finetuning.warm_start import read_config

VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "linear-head": {"head": "linear"},
    "padded": {"batching": "examples"},
    "layer-decay": {"layer_decay": 0.8},
    "rate-1e-3": {"learning_rate": 1e-3},
}
"""What differs from the recipe; "plain-trainer" is none of ours, see `plain_trainer`."""


def main(
    data: Annotated[Path, typer.Argument(help="Folder with a folder for each data set.")],
    sets: Annotated[str, typer.Option(help="Names of data sets, with commas between them.")] = "sst2",
    variants: Annotated[
        str, typer.Option(help=f"Of {', '.join(VARIANTS)} and plain-trainer.")
    ] = "recipe,linear-head,plain-trainer",
    seeds: Annotated[int, typer.Option(min=1)] = 2,
    epochs: Annotated[float | None, typer.Option(help="In place of the recipe's.")] = None,
    runs: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/variants"),
) -> None:
    if unknown := sorted(set(variants.split(",")) - {*VARIANTS, "plain-trainer"}):
        raise typer.BadParameter(f"no variant named {', '.join(unknown)}")
    for name in sets.split(","):
        task = TASKS[name]
        train, dev = (task.find_files(data / name, split)[0] for split in ("train", "dev"))
        for variant in variants.split(","):
            overrides = {**VARIANTS.get(variant, {}), **({} if epochs is None else {"epochs": epochs})}
            folder = runs / f"{name}-{variant}"
            if variant == "plain-trainer":
                plan = recipe(task, read_config(str(embedded.folder())), **overrides)
                scores = [plain_trainer(task, plan, train, dev, folder, seed) for seed in range(seeds)]
            else:
                scores = by_finetune(task, Files(train, (dev,)), folder, overrides, seeds)
            shown = ", ".join(f"{score:.4f}" for score in scores)
            print(
                f"| {name} | {task.metrics[0]} | {variant} | {statistics.median(scores):.4f} | {shown} |",
                flush=True,
            )


def by_finetune(task: Task, files: Files, folder: Path, overrides: dict[str, Any], seeds: int) -> list[float]:
    """The first metric of every seed, by `convbert finetune`."""
    result = finetune(
        task, files, folder, seeds=seeds, resume=folder.exists(), overrides=overrides, report=say
    )
    if not result.finished:
        raise typer.Exit(130)
    return [seed["scores"]["dev"][task.metrics[0]] for seed in result.metrics["seeds"].values()]


def plain_trainer(task: Task, plan: FinetuningPlan, train: Path, dev: Path, folder: Path, seed: int) -> float:
    """The same by transformers' own means: its Trainer and collator, 32 padded texts as they come, one learning rate.

    The last checkpoint is scored, where `finetune` takes the best.
    """
    done = folder / f"seed-{seed}.json"
    if done.is_file():
        return json.loads(done.read_text())["score"]
    source = embedded.folder()
    tokenizer = ConvBertTokenizerFast.from_pretrained(source)
    adapter = adapter_of(task)
    examples, held_out = adapter.read(train), adapter.read(dev)
    adapter.learn(examples)
    rows = []
    for example in examples:
        row = tokenizer(*example.inputs.values(), truncation=True, max_length=plan.max_length)
        rows.append({**row, "labels": adapter.labels.index(example.target)})
    set_seed(seed)
    dropout = {"hidden_dropout_prob": plan.dropout, "attention_probs_dropout_prob": plan.dropout}
    model = ConvBertForSequenceClassification.from_pretrained(
        source, num_labels=len(adapter.labels), dtype=torch.float32, **dropout
    )
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=plan.warmup_fraction,  # below 1, a share of the steps
        weight_decay=plan.weight_decay,
        adam_epsilon=plan.adam_epsilon,
        seed=seed,
        save_strategy="no",
        disable_tqdm=True,
        report_to=[],
    )
    Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer)).train()
    features = adapter.features(held_out, tokenizer, plan)
    split = Split("dev", adapter, held_out, features, plan)
    score = split.score(split.predict(model))[task.metrics[0]]
    folder.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps({"score": score}))
    return score


if __name__ == "__main__":
    typer.run(main)
