"""How much faster fine-tuning is without padding: `python -m benchmarks.finetuning SST2_FOLDER`.

The same training steps on the same sentences, interleaved in one process, AdamW included:

- ours: batches of similar length (`BalancedBatches`), unpadded in the encoder;
- theirs: transformers' ConvBERT with the same weights, 32 sentences as they come, padded to 128 tokens, as the
  original and transformers' GLUE example (`pad_to_max_length`) do;
- theirs, to the longest: the same, padded to the longest sentence of each batch;
- ours, padded: our model on theirs' second batches, which it unpads.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
import transformers
from transformers.models.convbert import ConvBertForSequenceClassification as TheirModel

from convbert import ConvBertForSequenceClassification
from convbert.files import embedded
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.data import Feature
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import TASKS
from convbert.finetuning.warm_start import read_tokenizer
from convbert.training.batching import BalancedBatches
from convbert.training.optimizer import build_optimizer

BATCH, STEPS, ROUNDS = 32, 4, 4


def main(folder: Path) -> None:
    adapter = adapter_of(TASKS["sst2"])
    train = adapter.read(folder / "train.tsv")
    adapter.learn(train)
    tokenizer = read_tokenizer(str(embedded.folder()))
    features = adapter.features(train, tokenizer, FinetuningPlan(), training=True)
    ours = ConvBertForSequenceClassification.from_pretrained(
        embedded.folder(), num_labels=2, dtype=torch.float32
    )
    theirs = TheirModel.from_pretrained(embedded.folder(), num_labels=2, dtype=torch.float32)
    similar = [
        [features[n] for n in batch] for batch in BalancedBatches([f.length for f in features], BATCH, 0)
    ]
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).tolist()
    mixed = [[features[n] for n in order[first : first + BATCH]] for first in range(0, len(order), BATCH)]

    def step(model: torch.nn.Module, width: int | None) -> Callable[[list[Feature]], None]:
        optimizer = build_optimizer(model, learning_rate=1e-5)
        model.train()

        def run(chosen: list[Feature]) -> None:
            batch = adapter.collate(chosen, 0)
            if width is not None:
                missing = width - batch["input_ids"].shape[1]
                batch = {
                    name: tensor if name == "labels" else torch.nn.functional.pad(tensor, (0, missing))
                    for name, tensor in batch.items()
                }
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    cases: dict[str, tuple[Callable[[list[Feature]], None], list[list[Feature]]]] = {
        "ours": (step(ours, None), similar),
        "ours, padded": (step(ours, None), mixed),
        "theirs, to the longest": (step(theirs, None), mixed),
        "theirs, to 128": (step(theirs, 128), mixed),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(ROUNDS + 1):
        for name, (run, batches) in cases.items():
            chosen = batches[number * STEPS : (number + 1) * STEPS]
            started = perf_counter()
            for batch in chosen:
                run(batch)
            spent = (perf_counter() - started) / sum(f.length for batch in chosen for f in batch)
            if number:  # the first round warms up
                seconds[name].append(spent)
    report(seconds)


def report(seconds: dict[str, list[float]]) -> None:
    ours = statistics.median(seconds["ours"])
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads"
    )
    print("| | tokens/s, padding not counted | ours is faster |\n| --- | ---: | ---: |")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"| {name} | {1 / middle:,.0f} | {middle / ours:.2f}x |")


if __name__ == "__main__":
    (folder,) = sys.argv[1:]
    main(Path(folder))
