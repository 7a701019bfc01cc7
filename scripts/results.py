"""Fine-tune the embedded model on every data set of a folder, and write docs/results.md.

    python scripts/results.py FOLDER                     # all of them, the cheap ones first; hours on two cores
    python scripts/results.py FOLDER --only sst2,cola    # these; the table has all that are finished
    python scripts/results.py FOLDER --only ""           # write the table alone

A run that was stopped goes on where it was. The baselines are computed here, on the same dev data.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from convbert.cli.failures import say
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.baseline import majority
from convbert.finetuning.data import Example
from convbert.finetuning.run import Files, finetune
from convbert.finetuning.tasks import TASKS, Task
from convbert.finetuning.writing import read_predictions

_SAMPLES = 200
_CLEAR = 0.975

OVERRIDES: dict[str, dict[str, Any]] = {
    "cb": {"epochs": 6},
    "cosmosqa": {"epochs": 1},
    "covid_qa": {"epochs": 0.1},
}
"""Where the table is not by the recipe, to save hours on a CPU; said in its last column."""

QUESTIONS = {"qamr": {"train": 2500, "dev": 500}}
"""Files of which the first so many questions are taken; said in the last column."""

HEAD = """# Results of the embedded model

Made by `python scripts/results.py FOLDER`, which runs `convbert finetune` on each data set with the recipe of
[fine-tuning](finetuning.md), or with what the last column says: enough to see that it learns, not the best it can. The
checkpoint of the best epoch is chosen on the dev data that it is scored on; the baselines have no such choice. One
seed each.

The embedded model is small and saw little text (its [card](../src/convbert/models/english/README.md) has the
figures): it is no match for a released checkpoint.

| data set | train | dev | metric | most frequent | linear model | embedded model | beats the first | beats both | |
| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |
"""

NOTES = """
*Most frequent*: answer of the training data; for tagging, each word's most frequent tag; for questions, the first three
words of the context. *Linear model*: logistic regression on TF-IDF of word unigrams and bigrams; for regression, ridge
regression; for choices, each choice alone, right or wrong; for tagging, of the word, its ending, its shape and its
neighbours. *Beats the first*, *beats both*: in what share of 200 bootstrap samples of the dev data the model has a
better score than the most frequent answer, and than the better of the two: 97.5 % and more is clear, about 50 % is a
draw. Correlations, F1 of entities and accuracy are shares of 1; EM and F1 of questions are percentages.
"""

REASONS = {
    "sst2": "decided mostly by words, which TF-IDF sees as well",
    "codah": "decided mostly by words, which TF-IDF sees as well",
    "gum_upos": "parts of speech follow from endings and neighbours",
    "cola": "asks for a sense of grammar that a model of this size, with this little text, hardly has",
    "rte": "asks for inference that a model of this size, with this little text, hardly has",
    "cb": "asks for inference, and its 56 dev examples decide little",
    "copa": "asks for knowledge, and its 100 dev examples decide little",
    "mrpc": "decided by the words that two sentences share",
    "stsb": "decided by the words that two sentences share",
    "cosmosqa": "decided mostly by words, which TF-IDF sees as well",
}
"""What may keep the model from being clearly better than both; said only of sets where it is not."""


class Outcome(NamedTuple):
    """A line of the table; and in what share of the samples the model beats the most frequent answer, and both."""

    name: str
    line: str
    beats_first: float
    beats_both: float


def main(
    data: Annotated[Path, typer.Argument(help="Folder with a folder for each data set.")],
    runs: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/results"),
    output: Annotated[Path, typer.Option(help="The table.")] = Path("docs/results.md"),
    only: Annotated[
        str | None, typer.Option(help="Data sets to train, with commas between them, in this order.")
    ] = None,
) -> None:
    names = [path.name for path in data.iterdir() if path.name in TASKS]
    names.sort(key=lambda name: cost(TASKS[name], data / name))
    for name in names if only is None else [word for word in only.split(",") if word]:
        files = files_of(name, data, runs)
        result = finetune(
            TASKS[name],
            files,
            runs / name,
            resume=(runs / name).exists(),
            overrides=OVERRIDES.get(name),
            report=say,
        )
        if not result.finished:
            raise typer.Exit(130)
    finished = sorted(name for name in names if (runs / name / "metrics.json").is_file())
    outcomes = [outcome(name, files_of(name, data, runs), runs / name) for name in finished]
    missing = [name for name in sorted(names) if name not in finished]
    left = f"\nNot run yet: {', '.join(missing)}.\n" if missing else ""
    table = "".join(each.line for each in outcomes)
    text = HEAD + table + NOTES + summary(outcomes) + left + footer(runs, finished)
    output.write_text(text, encoding="utf-8")


def cost(task: Task, folder: Path) -> float:
    """About how long a set takes: bytes times epochs. The cheap ones come first."""
    epochs = {"epochs": 3, **task.recipe, **OVERRIDES.get(task.name, {})}["epochs"]
    return task.find_files(folder, "train")[0].stat().st_size * epochs


def files_of(name: str, data: Path, runs: Path) -> Files:
    """The files of a set, the large ones shortened."""
    task = TASKS[name]
    train, dev = (task.find_files(data / name, split)[0] for split in ("train", "dev"))
    if name not in QUESTIONS:
        return Files(train, (dev,))
    short = [
        shortened(path, QUESTIONS[name][path.stem], runs / f"{name}-data" / path.name)
        for path in (train, dev)
    ]
    return Files(short[0], (short[1],))


def shortened(path: Path, count: int, target: Path) -> Path:
    """A file of the first `count` questions of a file in SQuAD's format."""
    paragraphs = [p for article in json.loads(path.read_text("utf-8"))["data"] for p in article["paragraphs"]]
    chosen, left = [], count
    for paragraph in paragraphs:
        if left > 0:
            chosen.append({**paragraph, "qas": paragraph["qas"][:left]})
            left -= len(paragraph["qas"])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"data": [{"paragraphs": chosen}]}), encoding="utf-8")
    return target


def outcome(name: str, files: Files, run: Path) -> Outcome:
    """How a finished run did."""
    task = TASKS[name]
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    adapter = adapter_of(task)
    train = adapter.read(files.train)
    adapter.learn(train)
    dev = adapter.read(files.dev[0])
    metric = metrics["metric"]
    ours = read_predictions(run, "dev")
    frequent = majority(adapter, train, dev)
    assert frequent is not None  # tasks without one are not on this page
    baselines = [frequent]
    linear = linear_answers(adapter, train, dev)
    if linear is not None:
        baselines.append([{"answer": answer} for answer in linear])
    scores = [adapter.score(dev, answers)[metric] for answers in baselines]
    best = baselines[int(np.argmax(scores))]
    notes = [
        f"{value} {field[:-1] if value == 1 else field}" for field, value in OVERRIDES.get(name, {}).items()
    ]
    notes += [f"first {count:,} questions of {split}" for split, count in QUESTIONS.get(name, {}).items()]
    shown = (scores[0], scores[1] if linear is not None else None, metrics["scores"]["dev"][metric])
    cells = [name, f"{len(train):,}", f"{len(dev):,}", metric.replace("_", " "), *map(as_text, shown)]
    shares = [share_of_wins(adapter, dev, ours, theirs, metric) for theirs in (baselines[0], best)]
    cells += [f"{share:.1%}" for share in shares]
    say(f"{name}: {', '.join(cells[4:])}")
    return Outcome(name, f"| {' | '.join(cells)} | {', '.join(notes)} |\n", *shares)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Which sets are clear, by the shares; and what may be the reason where they are not."""
    first = [each.name for each in outcomes if each.beats_first >= _CLEAR]
    both = [each.name for each in outcomes if each.beats_both >= _CLEAR]
    others = [each for each in outcomes if each.beats_both < _CLEAR]
    sentence = (
        f"The model is clearly better than the most frequent answer on {len(first)} of {len(outcomes)} sets "
        f"({', '.join(first)}), and than both baselines on {len(both)} ({', '.join(both)})."
    )
    text = f"\n{textwrap.fill(sentence, 118)}\n"
    if others:
        text += "\nNot clearly better than both:\n\n"
    for each in others:
        place = "behind" if each.beats_both <= 1 - _CLEAR else "no clear difference"
        text += f"- {each.name}: {'; '.join(filter(None, (place, REASONS.get(each.name))))}\n"
    return text


def share_of_wins(
    adapter: TaskAdapter,
    dev: Sequence[Example],
    ours: Sequence[Any],
    theirs: Sequence[Any],
    metric: str,
    samples: int = _SAMPLES,
) -> float:
    """In what share of bootstrap samples of `dev` ours has the better score; a draw counts half."""
    random, wins = np.random.default_rng(0), 0.0
    for _ in range(samples):
        chosen = random.integers(len(dev), size=len(dev))
        # An example that is drawn twice counts twice: for that it needs two names.
        examples = [dataclasses.replace(dev[n], key=str(place)) for place, n in enumerate(chosen)]
        mine, other = (adapter.score(examples, [side[n] for n in chosen])[metric] for side in (ours, theirs))
        wins += (mine > other) + 0.5 * (mine == other)
    return wins / samples


def as_text(score: float | None) -> str:
    if score is None:
        return "–"
    return f"{score:.1f}" if abs(score) > 1 else f"{score:.3f}"


def linear_answers(
    adapter: TaskAdapter, train: Sequence[Example], dev: Sequence[Example]
) -> list[Any] | None:
    """What a linear model of words answers; None for questions."""
    if adapter.task.kind in ("classification", "regression"):
        model = Ridge() if adapter.task.kind == "regression" else LogisticRegression(max_iter=1000)
        words = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), model)
        words.fit([joined(example) for example in train], [example.target for example in train])
        return list(words.predict([joined(example) for example in dev]))
    if adapter.task.kind == "multiple-choice":
        words = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000)
        )
        words.fit(
            [choice for example in train for choice in example.inputs["choices"]],
            [n == example.target for example in train for n in range(len(example.inputs["choices"]))],
        )
        return [int(np.argmax(words.predict_proba(example.inputs["choices"])[:, 1])) for example in dev]
    if adapter.task.kind == "tagging":
        model = make_pipeline(
            DictVectorizer(),
            FunctionTransformer(narrow),
            SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0),
        )
        model.fit(
            [around(e.inputs["tokens"], n) for e in train for n in range(len(e.target))],
            [tag for example in train for tag in example.target],
        )
        return [
            list(model.predict([around(e.inputs["tokens"], n) for n in range(len(e.target))])) for e in dev
        ]
    return None


def narrow(matrix: Any) -> Any:
    """The same matrix with 32-bit indices, the only ones that the linear models take."""
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return matrix


def joined(example: Example) -> str:
    """Both texts; the words of the second are marked as its own."""
    second = example.inputs.get("text_pair", "")
    return " ".join([example.inputs["text"], *(f"second_{word}" for word in second.split())])


def around(words: Sequence[str], place: int) -> dict[str, str]:
    """A word and what is beside it."""
    padded = ["", *words, ""]
    before, word, after = padded[place : place + 3]
    shape = "".join(
        "X" if c.isupper() else "x" if c.islower() else "9" if c.isdigit() else c for c in word[:6]
    )
    return {
        "word": word.lower(),
        "ending": word[-3:].lower(),
        "shape": shape,
        "before": before.lower(),
        "after": after.lower(),
    }


def footer(runs: Path, names: Sequence[str]) -> str:
    """When the runs were made, as far as they say so, and with what."""
    if not names:
        return ""
    found = [json.loads((runs / name / "metrics.json").read_text(encoding="utf-8")) for name in names]
    seeds = [seed for metrics in found for seed in metrics["seeds"].values()]
    dates = sorted({metrics["date"] for metrics in found if "date" in metrics})
    parts = (
        " to ".join(dict.fromkeys((*dates[:1], *dates[-1:]))),
        *(
            f"{name} {distinct(m[name.lower()] for m in found)}"
            for name in ("torch", "transformers", "Python")
        ),
        distinct(seed["device"].partition(":")[0] for seed in seeds),
        distinct("bf16" if seed["bf16"] else "fp32" for seed in seeds),
    )
    return f"\n{', '.join(filter(None, parts))}.\n"


def distinct(values: Iterable[str]) -> str:
    return " and ".join(sorted(set(values)))


if __name__ == "__main__":
    typer.run(main)
