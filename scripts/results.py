"""Fine-tune the embedded model on every data set of a folder, and write docs/results.md.

    python scripts/results.py ../shared/data/tasks                     # all of them; hours on two cores
    python scripts/results.py ../shared/data/tasks --only sst2,cola    # these; the table has all that are finished
    python scripts/results.py ../shared/data/tasks --only ""           # write the table alone

A run that was stopped goes on where it was. The baselines are computed here, on the same dev data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from convbert.cli.failures import say
from convbert.finetuning.data import Example, Kind
from convbert.finetuning.kinds import kind_of
from convbert.finetuning.run import Files, finetune
from convbert.finetuning.tasks import TASKS

OVERRIDES: dict[str, dict[str, Any]] = {
    # A pass over these takes a quarter of an hour on two cores.
    "qamr": {"epochs": 1},
    "stsb": {"epochs": 2},
    "cosmosqa": {"epochs": 1},
}
"""Where the table is not by the recipe, to save time; said in its last column."""

HEAD = """# Results of the embedded model

Made by `python scripts/results.py`, which runs `convbert finetune` on each data set with the recipe of
[fine-tuning](finetuning.md). The checkpoint of the best epoch is chosen on the dev data that it is scored on; the
baselines have no such choice. One seed each: a difference of a point or two is noise.

The embedded model has 6.3 M parameters and saw 15 million tokens: it is no match for a released checkpoint.

| data set | train | dev | metric | most frequent answer | TF-IDF, logistic regression | embedded model | minutes | |
| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- |
"""

NOTES = """
*Most frequent answer*: of the training data; for tagging, each word's most frequent tag; for questions, the first three
words of the context. *TF-IDF, logistic regression*: word unigrams and bigrams; for regression, ridge regression; for
choices, each choice alone, right or wrong; for tagging, a linear model of the word, its ending, its shape and its
neighbours. Correlations, F1 of entities and accuracy are shares of 1; EM and F1 of questions are percentages.
"""


def main(
    data: Annotated[Path, typer.Argument(help="Folder with a folder for each data set.")],
    runs: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/results"),
    output: Annotated[Path, typer.Option(help="The table.")] = Path("docs/results.md"),
    only: Annotated[str | None, typer.Option(help="Data sets to train, with commas between them.")] = None,
) -> None:
    names = sorted(path.name for path in data.iterdir() if path.name in TASKS)
    for name in names if only is None else [word for word in only.split(",") if word]:
        task = TASKS[name]
        files = Files(task.find_files(data / name, "train")[0], tuple(task.find_files(data / name, "dev")))
        result = finetune(
            task, files, runs / name, resume=(runs / name).exists(), overrides=OVERRIDES.get(name), report=say
        )
        if not result.finished:
            raise typer.Exit(130)
    finished = [name for name in names if (runs / name / "metrics.json").is_file()]
    rows = [row(name, data, runs) for name in finished]
    output.write_text(HEAD + "".join(rows) + NOTES + footer(runs, finished), encoding="utf-8")


def row(name: str, data: Path, runs: Path) -> str:
    """A line of the table."""
    task = TASKS[name]
    metrics = json.loads((runs / name / "metrics.json").read_text(encoding="utf-8"))
    kind = kind_of(task)
    train = kind.read(task.find_files(data / name, "train")[0])
    kind.learn(train)
    dev = kind.read(task.find_files(data / name, "dev")[0])
    metric = metrics["metric"]
    linear = linear_answers(kind, train, dev)
    linear_score = (
        None if linear is None else kind.score(dev, [{"answer": answer} for answer in linear])[metric]
    )
    minutes = sum(seed["minutes"] for seed in metrics["seeds"].values())
    notes = ", ".join(f"{field} {value}" for field, value in OVERRIDES.get(name, {}).items())
    shown = (metrics["baseline"][metric], linear_score, metrics["scores"]["dev"][metric])
    cells = [name, f"{len(train):,}", f"{len(dev):,}", metric.replace("_", " "), *map(as_text, shown)]
    say(f"{name}: {', '.join(cells[4:])}")
    return f"| {' | '.join(cells)} | {minutes:.0f} | {notes} |\n"


def as_text(score: float | None) -> str:
    if score is None:
        return "–"
    return f"{score:.1f}" if abs(score) > 1 else f"{score:.3f}"


def linear_answers(kind: Kind, train: Sequence[Example], dev: Sequence[Example]) -> list[Any] | None:
    """What a linear model of words answers; None for questions."""
    if kind.task.kind in ("classification", "regression"):
        model = Ridge() if kind.task.kind == "regression" else LogisticRegression(max_iter=1000)
        words = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), model)
        words.fit([joined(example) for example in train], [example.target for example in train])
        return list(words.predict([joined(example) for example in dev]))
    if kind.task.kind == "multiple-choice":
        words = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000)
        )
        words.fit(
            [choice for example in train for choice in example.inputs["choices"]],
            [n == example.target for example in train for n in range(len(example.inputs["choices"]))],
        )
        return [int(np.argmax(words.predict_proba(example.inputs["choices"])[:, 1])) for example in dev]
    if kind.task.kind == "tagging":
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
    """With what, and when."""
    if not names:
        return ""
    metrics = json.loads((runs / names[-1] / "metrics.json").read_text(encoding="utf-8"))
    versions = f"torch {metrics['torch']}, transformers {metrics['transformers']}, Python {metrics['python']}"
    return f"\n{time.strftime('%Y-%m-%d')}, {versions}, 2 CPU cores, fp32.\n"


if __name__ == "__main__":
    typer.run(main)
