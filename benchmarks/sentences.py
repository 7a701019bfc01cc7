"""How good sentence vectors are, and how fast: the embedded model beside its teacher, the mask filler and word counts.

    python -m benchmarks.sentences --data DATA --medquad MEDQUAD --teacher all-MiniLM-L6-v2/

Nothing it measures on was trained on, see `scripts/sentence_texts.py`: STS-B's dev pairs, the topics of MedQuAD that
were kept back, and the held-out documents of the corpus. Writes benchmarks/results/sentences_*.md and .json.
"""

from __future__ import annotations

import csv
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import numpy as np
import torch
import typer
from numpy.typing import NDArray

import convbert
from benchmarks.report import RESULTS, ROOT, commit, processor_name, slug, world

sys.path.insert(0, str(ROOT / "scripts"))
from sentence_texts import documents, is_kept_back

Encode = Callable[[Sequence[str]], Any]
STUDENT, TEACHER, FILLER, COUNTS = "convbert", "teacher", "mask filler, mean", "TF-IDF"
SPEEDS = ("convbert", "convbert, int8", "teacher, sentence-transformers", "teacher, ONNX Runtime")
TEXTS_FOR_SPEED = 1024
_LONGEST_TITLE = 80
_PARAGRAPHS = 8
"""Of a held-out document, at most."""


def unit(vectors: Any) -> NDArray[np.float32]:
    """(N, D) rows of length 1."""
    array = np.asarray(vectors, dtype=np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)


def encoders(model: str, teacher: Path) -> dict[str, Encode]:
    """Each system, from texts to rows of length 1."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(teacher), device="cpu")
    ours: Any = convbert.pipeline("sentence-similarity", model)
    filler: Any = convbert.pipeline("sentence-similarity", "embedded")
    return {
        STUDENT: lambda texts: unit(ours.vectors(texts)),
        TEACHER: lambda texts: unit(theirs.encode(list(texts), batch_size=64)),
        FILLER: lambda texts: unit(filler.vectors(texts)),
    }


def with_counts(encode: dict[str, Encode], texts: Sequence[str]) -> dict[str, Encode]:
    """The systems, with word counts that have seen the texts of this measurement."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    counts = TfidfVectorizer(sublinear_tf=True, min_df=1).fit(texts)
    return {**encode, COUNTS: lambda texts: counts.transform(texts)}


# ------------------------------------------------------------------------------------------- measurements


def similarity(encode: dict[str, Encode], data: Path) -> dict[str, float]:
    """Spearman's correlation of cosines and people's scores, STS-B dev."""
    from scipy.stats import spearmanr

    with (data / "tasks/stsb/dev.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    left, right, gold = ([row[n] for row in rows] for n in range(3))
    found = {}
    for name, run in with_counts(encode, [*left, *right]).items():
        a, b = run(left), run(right)
        cosines = np.asarray(a.multiply(b).sum(1)).ravel() if name == COUNTS else (a * b).sum(1)
        found[name] = float(spearmanr(cosines, [float(score) for score in gold]).statistic)
    return found


def recall(
    encode: dict[str, Encode], queries: Sequence[str], texts: Sequence[str], right: Sequence[set[int]]
) -> dict[str, dict[int, float]]:
    """Share of queries that have a right text among the first 1 and 10."""
    found: dict[str, dict[int, float]] = {}
    for name, run in with_counts(encode, [*queries, *texts]).items():
        scores = run(queries) @ run(texts).T
        scores = scores.toarray() if name == COUNTS else scores
        order = np.argsort(-scores, axis=1, kind="stable")[:, :10].tolist()
        found[name] = {
            k: float(np.mean([bool(own & set(first[:k])) for own, first in zip(right, order, strict=True)]))
            for k in (1, 10)
        }
    return found


def questions_and_answers(medquad: Path) -> tuple[list[str], list[str], list[set[int]], list[str]]:
    """Questions of the topics that were kept back, all of their answers, which of them answer each, and its kind."""
    questions: list[str] = []
    kinds: list[str] = []
    right: list[set[int]] = []
    texts: list[str] = []
    for path in sorted(medquad.rglob("*.xml")):
        root = ElementTree.parse(path).getroot()
        if not is_kept_back(root.findtext("Focus") or ""):
            continue
        for pair in root.iter("QAPair"):
            answer = " ".join((pair.findtext("Answer") or "").split())
            question = pair.find("Question")
            if answer and question is not None:
                right.append({len(texts)})
                texts.append(answer)
                questions.append((question.text or "").strip().replace(" ?", "?"))
                kinds.append(question.get("qtype") or "")
    return questions, texts, right, kinds


def titles_and_paragraphs(data: Path) -> tuple[list[str], list[str], list[set[int]], list[int]]:
    """Titles of held-out documents, paragraphs, which belong to each title, and the document of each paragraph."""
    titles: list[str] = []
    texts: list[str] = []
    right: list[set[int]] = []
    owners: list[int] = []
    for number, (first, *paragraphs) in enumerate(documents(data / "pretrain/heldout.txt.gz")):
        if len(first) <= _LONGEST_TITLE and paragraphs:
            own = paragraphs[:_PARAGRAPHS]
            right.append(set(range(len(texts), len(texts) + len(own))))
            titles.append(first)
            texts += own
            owners += [number] * len(own)
    return titles, texts, right, owners


def clustering(encode: dict[str, Encode], texts: Sequence[str], owners: Sequence[int]) -> dict[str, float]:
    """V-measure of paragraphs in as many clusters as there are documents."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    found = {}
    for name, run in with_counts(encode, texts).items():
        clusters = KMeans(len(set(owners)), n_init=3, random_state=0).fit_predict(run(texts))
        found[name] = float(v_measure_score(owners, clusters))
    return found


def probe(
    encode: dict[str, Encode], train: tuple[list[str], list[str]], test: tuple[list[str], list[str]]
) -> dict[str, float]:
    """Accuracy of logistic regression on frozen vectors."""
    from sklearn.linear_model import LogisticRegression

    found = {}
    for name, run in with_counts(encode, train[0]).items():
        model = LogisticRegression(max_iter=2000, C=10.0).fit(run(train[0]), train[1])
        found[name] = float(model.score(run(test[0]), test[1]))
    return found


def sst2(data: Path, split: str) -> tuple[list[str], list[str]]:
    """Sentences and labels."""
    lines = (data / f"tasks/sst2/{split}.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


# ------------------------------------------------------------------------------------------------- speed


def onnx_encoder(teacher: Path, folder: Path) -> Encode:
    """The teacher in ONNX Runtime: exported by PyTorch, texts sorted by length, batches of 64, as its users run it."""
    import onnxruntime
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    model = AutoModel.from_pretrained(teacher, attn_implementation="eager").eval()
    names = ("input_ids", "attention_mask", "token_type_ids")
    example = tokenizer(["a b c", "d"], padding=True, return_tensors="pt")
    batch, length = torch.export.Dim("batch", min=1, max=512), torch.export.Dim("length", min=2, max=512)
    program = torch.onnx.export(
        model,
        kwargs={name: example[name] for name in names},
        dynamo=True,
        dynamic_shapes={name: {0: batch, 1: length} for name in names},
    )
    assert program is not None
    program.save(folder / "teacher.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        folder / "teacher.onnx", options, providers=["CPUExecutionProvider"]
    )
    wanted = [each.name for each in session.get_inputs()]

    def encode(texts: Sequence[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            own = tokenizer(
                [texts[n] for n in chosen], padding=True, truncation=True, max_length=256, return_tensors="np"
            )
            states = session.run(None, {name: own[name] for name in wanted})[0]
            mask = own["attention_mask"][..., None]
            vectors[chosen] = (states * mask).sum(1) / mask.sum(1)
        return unit(vectors)

    return encode


def speeds(model: str, teacher: Path, texts: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Texts per second, interleaved rounds."""
    from sentence_transformers import SentenceTransformer

    ours: Any = convbert.pipeline("sentence-similarity", model)
    quantized: Any = convbert.pipeline("sentence-similarity", model, precision="int8")
    theirs = SentenceTransformer(str(teacher), device="cpu")
    found: dict[str, list[float]] = {name: [] for name in SPEEDS}
    with tempfile.TemporaryDirectory() as folder:
        runs = dict(
            zip(
                SPEEDS,
                (
                    ours.vectors,
                    quantized.vectors,
                    lambda texts: theirs.encode(list(texts), batch_size=64),
                    onnx_encoder(teacher, Path(folder)),
                ),
                strict=True,
            )
        )
        agreement = (unit(runs[SPEEDS[2]](texts[:64])) * runs[SPEEDS[3]](texts[:64])).sum(1).min()
        assert agreement > 0.999, f"the exported teacher gives other vectors: cosine {agreement}"
        for number in range(rounds + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run(texts)
                if number:  # the first round warms up
                    found[name].append(len(texts) / (time.perf_counter() - started))
    return found


# ------------------------------------------------------------------------------------------------- results


def main(
    data: Annotated[Path, typer.Option(help="Folder with pretrain/heldout.txt.gz and tasks/.")],
    medquad: Annotated[Path, typer.Option(help="A checkout of github.com/abachaa/MedQuAD.")],
    teacher: Annotated[Path, typer.Option(help="Folder of all-MiniLM-L6-v2.")],
    model: Annotated[str, typer.Option(help="Folder of the student.")] = "embedded-sentences",
    rounds: Annotated[int, typer.Option(min=1, help="Of the measurement of speed.")] = 5,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measure, print and write."""
    torch.set_num_threads(2)
    convbert.register_auto_classes()
    encode = encoders(model, teacher)
    questions, answers, right, kinds = questions_and_answers(medquad)
    titles, paragraphs, own, owners = titles_and_paragraphs(data)
    half = random.Random(0).sample(range(len(questions)), len(questions) // 2)
    rest = sorted(set(range(len(questions))) - set(half))
    medical = recall(encode, questions, answers, right)
    by_title = recall(encode, titles, paragraphs, own)
    rows: dict[str, dict[str, float]] = {"STS-B dev, Spearman": similarity(encode, data)}
    for name, found in (
        (f"MedQuAD, {len(questions):,} questions to {len(answers):,} answers", medical),
        (f"{len(titles)} held-out titles to {len(paragraphs):,} paragraphs", by_title),
    ):
        rows |= {f"{name}, recall@{k}": {who: values[k] for who, values in found.items()} for k in (1, 10)}
    rows["held-out paragraphs by document, V-measure"] = clustering(encode, paragraphs, owners)
    rows["SST-2 dev, linear probe"] = probe(encode, sst2(data, "train"), sst2(data, "dev"))
    rows["kind of a MedQuAD question, linear probe"] = probe(
        encode,
        ([questions[n] for n in half], [kinds[n] for n in half]),
        ([questions[n] for n in rest], [kinds[n] for n in rest]),
    )
    sentences = [row[0] for row in csv.reader((data / "tasks/stsb/dev.csv").open(encoding="utf-8"))]
    mixed = random.Random(1).sample([*sentences, *paragraphs, *titles], TEXTS_FOR_SPEED)
    rates = speeds(model, teacher, mixed, rounds)
    facts = world(torch.device("cpu"), {"threads": 2, "commit": commit()})
    text = page(rows, rates, facts)
    print(text)
    name = f"sentences_{slug(facts)}_{time.strftime('%Y-%m-%d')}"
    (output / f"{name}.md").write_text(text, encoding="utf-8")
    record = {"world": facts, "quality": rows, "texts_per_second": rates}
    (output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def page(rows: dict[str, dict[str, float]], rates: dict[str, list[float]], facts: dict[str, Any]) -> str:
    """The results as Markdown."""
    systems = (STUDENT, TEACHER, FILLER, COUNTS)
    lines = [
        f"# Sentence vectors, {processor_name(facts)}, {facts['threads']} threads",
        "",
        "`python -m benchmarks.sentences`. Higher is better. Nothing here was trained on.",
        "",
        f"| | {' | '.join(systems)} | convbert / teacher |",
        f"| --- |{' ---: |' * (len(systems) + 1)}",
    ]
    for name, row in rows.items():
        shown = " | ".join(f"{row[who]:.3f}" for who in systems)
        lines.append(f"| {name} | {shown} | {row[STUDENT] / row[TEACHER]:.2f} |")
    lines += [
        "",
        f"Speed: {TEXTS_FOR_SPEED:,} texts of mixed length, interleaved rounds, median.",
        "",
        "| | texts/s | convbert over it |",
        "| --- | ---: | ---: |",
    ]
    ours = rates[SPEEDS[0]]
    for name, values in rates.items():
        ratio = float(np.median([a / b for a, b in zip(ours, values, strict=True)]))
        lines.append(f"| {name} | {float(np.median(values)):.0f} | {ratio:.2f} |")
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
