"""The texts that taught the embedded sentence model: `python scripts/sentence_texts.py DATA MEDQUAD texts.txt`.

Paragraphs of every source of a pre-training corpus, as many of each, so that no kind of text prevails; the sentences,
without labels, of task sets' training splits; and the questions of MedQuAD. What `benchmarks.sentences` measures on is
left out: the corpus' own held-out file, all dev and test splits, and the topics of MedQuAD that `is_kept_back` names.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import typer

WORDS_OF_SOURCE = 280_000
"""At most; tasks and questions are taken whole."""
_KEPT_BACK = 20
"""One topic of MedQuAD in so many is measured on."""


def is_kept_back(topic: str) -> bool:
    """Whether a topic of MedQuAD is never trained on."""
    return int(hashlib.sha1(topic.strip().lower().encode()).hexdigest(), 16) % _KEPT_BACK == 0


def documents(path: Path) -> Iterator[list[str]]:
    """Paragraphs of each document: lines, between empty ones."""
    document: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in map(str.strip, lines):
            if line:
                document.append(line)
            elif document:
                yield document
                document = []
    if document:
        yield document


def of_source(path: Path) -> Iterator[str]:
    """Paragraphs of a source, in a random order, up to `WORDS_OF_SOURCE`."""
    found = [
        document
        for document in documents(path)
        if path.stem != "medquad.txt" or not is_kept_back(document[0])
    ]
    paragraphs = [paragraph for document in found for paragraph in document]
    random.Random(1).shuffle(paragraphs)
    words = 0
    for paragraph in paragraphs:
        words += len(paragraph.split())
        if words > WORDS_OF_SOURCE:
            return
        yield paragraph


def of_tasks(folder: Path) -> Iterator[str]:
    """Sentences of training splits, without their labels."""

    def rows(path: Path, columns: Iterable[int], skip: int = 0) -> Iterator[str]:
        for line in path.read_text(encoding="utf-8").splitlines()[skip:]:
            cells = line.split("\t")
            yield from (cells[column] for column in columns)

    with (folder / "stsb/train.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.reader(stream):
            yield from row[:2]
    yield from rows(folder / "cola/train.tsv", [3])
    yield from rows(folder / "sst2/train.tsv", [0])
    yield from rows(folder / "mrpc/train.tsv", [3, 4], skip=1)
    yield from rows(folder / "rte/train.tsv", [1, 2], skip=1)
    for line in (folder / "codah/train.tsv").read_text(encoding="utf-8").splitlines():
        _, prompt, *answers = line.split("\t")
        yield from (f"{prompt} {answer}" for answer in answers[:4])
    for line in (folder / "copa/train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield from (row[name] for name in ("premise", "choice1", "choice2"))
    with (folder / "cosmosqa/train.csv").open(encoding="utf-8", newline="") as stream:
        for named in csv.DictReader(stream):
            yield named["question"]
            yield named["context"]
    for name in ("qamr", "covid_qa"):
        for article in json.loads((folder / name / "train.json").read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                yield from (pair["question"] for pair in paragraph["qas"])
    for name in ("btc", "wnut17", "wikigold"):
        for block in (folder / name / "train.conll").read_text(encoding="utf-8").split("\n\n"):
            yield " ".join(line.split("\t")[0] for line in block.splitlines() if line)


def questions(medquad: Path) -> Iterator[str]:
    """The questions of all topics but those that are kept back."""
    for path in sorted(medquad.rglob("*.xml")):
        root = ElementTree.parse(path).getroot()
        if not is_kept_back(root.findtext("Focus") or ""):
            yield from ((node.text or "").replace(" ?", "?") for node in root.iter("Question"))


def main(
    data: Annotated[Path, typer.Argument(help="Folder with pretrain/*.txt.gz and tasks/.")],
    medquad: Annotated[Path, typer.Argument(help="A checkout of github.com/abachaa/MedQuAD.")],
    output: Annotated[Path, typer.Argument(help="File for the texts, a paragraph a line.")],
) -> None:
    """Collect the texts."""
    found: dict[str, None] = {}
    for path in sorted((data / "pretrain").glob("*.txt.gz")):
        if path.name != "heldout.txt.gz":
            before = len(found)
            found.update(dict.fromkeys(of_source(path)))
            print(f"{path.name}: {len(found) - before:,} paragraphs")
    for name, texts in (("tasks", of_tasks(data / "tasks")), ("MedQuAD, questions", questions(medquad))):
        before = len(found)
        found.update(dict.fromkeys(" ".join(text.split()) for text in texts))
        print(f"{name}: {len(found) - before:,} texts")
    output.write_text("".join(f"{text}\n\n" for text in found if text), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
