"""Whole distillations, on models of a few kilobytes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertForSequenceClassification

import convbert
import tiny
from convbert.cli import main
from convbert.distillation.sentences import principal_axes, project
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.folder import Files
from convbert.finetuning.run import finetune
from convbert.finetuning.tasks import find_task
from labelled import sentence, write_objects, write_sentences

SMALL = [
    *(
        "--size",
        "small",
        "--set",
        "hidden_size=32",
        "--set",
        "embedding_size=16",
        "--set",
        "num_hidden_layers=1",
    ),
    *("--set", "intermediate_size=48", "--set", "conv_kernel_size=3", "--set", "batch_size=16"),
    *("--set", f"max_position_embeddings={tiny.POSITIONS}", "--set", "max_length=32", "--device", "cpu"),
]


def distill(*words: object) -> int:
    return main(["distill", *map(str, words)])


# ------------------------------------------------------------------------------------------- sentences


def test_axes_keep_cosines_as_well_as_any():
    vectors = np.random.default_rng(0).normal(size=(500, 12)) * np.linspace(3, 0.1, 12)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    axes, share = principal_axes(vectors, 8)
    # The best rank 8 keeps the eight largest singular values (Eckart and Young 1936).
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False) ** 2
    assert share == pytest.approx(values[:8].sum() / values.sum(), rel=1e-5)
    on_axes = project(vectors, axes).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(on_axes, axis=1), 1, atol=2e-3)
    # A wider student loses nothing.
    wide = project(vectors, principal_axes(vectors, 20)[0]).astype(np.float64)
    exact = vectors.astype(np.float64)
    np.testing.assert_allclose(wide @ wide.T, exact @ exact.T, atol=4e-3)


@pytest.fixture(scope="module")
def run(sentence_teacher, sentences, tmp_path_factory):
    """A finished run: the student of a BERT."""
    folder = tmp_path_factory.mktemp("run") / "run"
    rows = [
        f"the cat sat on the mat,a {animal} ran,{score}"
        for animal, score in (("dog", 1), ("cat", 2), ("mat", 5))
    ]
    dev = folder.with_name("dev.csv")
    dev.write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = [
        "--teacher",
        sentence_teacher,
        "--corpus",
        sentences,
        "--dev",
        dev,
        "--output",
        folder,
        "--epochs",
        12,
    ]
    plan = ["--set", "learning_rate=5e-3", "--set", "save_every=20", "--set", "log_every=10"]
    assert distill(*words, *SMALL, *plan) == 0
    return folder, [*words, *SMALL, *plan]


def test_a_student_learns_its_teachers_vectors(run, sentence_teacher, sentences):
    folder, _ = run
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["heldout_cosine"] for entry in log if "heldout_cosine" in entry][-1] > 0.9
    # The vectors of so few words are much alike: what counts are their differences.
    texts = sentences.read_text().split("\n\n")[::3]
    theirs = SentenceTransformer(str(sentence_teacher), device="cpu").encode(texts, normalize_embeddings=True)
    ours = np.array(convbert.pipeline("feature-extraction", str(folder / "model"))(texts))
    pairs = np.triu_indices(len(texts), 1)
    assert np.corrcoef((ours @ ours.T)[pairs], (theirs @ theirs.T)[pairs])[0, 1] > 0.8
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["scores"].keys() == {"teacher", "student"}
    assert all(set(scores) == {"spearman", "texts_per_second"} for scores in metrics["scores"].values())
    report = (folder / "report.html").read_text()
    assert "<script" not in report
    assert "convbert distill" in (folder / "model/README.md").read_text()


def test_the_folder_opens_everywhere_with_the_same_vectors(run):
    model = str(run[0] / "model")
    texts = ["the cat sat on the mat", "a dog", "the dogs ran to the house and the cat sat ."]
    ours = np.array(convbert.pipeline("feature-extraction", model)(texts))
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    convbert.register_auto_classes()
    theirs = SentenceTransformer(model, device="cpu").encode(texts)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    found = convbert.pipeline("sentence-similarity", model)(texts[0], texts[1:])
    np.testing.assert_allclose(found, ours[1:] @ ours[0], atol=1e-5)
    assert json.loads((run[0] / "model/config.json").read_text())["dtype"] == "float32"
    # The states of all tokens, as transformers gives them, are one word away.
    states = convbert.pipeline("feature-extraction", model)(texts[1], pooling=None)
    mean = np.array(states[0]).mean(0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), ours[1], atol=1e-5)


def test_a_run_that_was_killed_goes_on_to_the_same_weights(run, tmp_path, capsys):
    folder, words = run
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / "metrics.json").unlink()  # which is written after model/
    checkpoints = sorted(copy.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    shutil.rmtree(checkpoints[-1])  # the others are of earlier steps
    (copy / "teacher/vectors-00000.npy").unlink()
    words = [copy if word == folder else word for word in words]
    assert distill(*words) == 0
    assert "teacher: " in capsys.readouterr().err  # its vectors were computed anew
    ours, before = (load_file(root / "model/model.safetensors") for root in (copy, folder))
    assert all(torch.equal(ours[name], before[name]) for name in before)
    assert distill(*words) == 0  # is finished
    assert distill(*words, "--set", "seed=7") == 2
    assert "seed" in capsys.readouterr().err


def test_a_narrower_student_keeps_what_it_knows_where_it_starts_again(run, sentences, tmp_path, capsys):
    """A student of half the width; then, as the start of another run, it need not turn to other axes."""
    words = ["--teacher", run[0] / "model", "--corpus", sentences]
    narrow = [word.replace("hidden_size=32", "hidden_size=16") for word in SMALL]
    narrow += ["--epochs", 12, "--set", "learning_rate=5e-3"]
    assert distill(*words, *narrow, "--output", tmp_path / "narrow") == 0
    first = json.loads((tmp_path / "narrow/metrics.json").read_text())
    fields = ["max_steps=1", "learning_rate=1e-9", "batch_size=16", "max_length=32"]
    again = [
        "--start-from",
        tmp_path / "narrow/model",
        *(word for field in fields for word in ("--set", field)),
    ]
    assert distill(*words, *again, "--device", "cpu", "--output", tmp_path / "again") == 0
    second = json.loads((tmp_path / "again/metrics.json").read_text())
    assert second["heldout_cosine"] > first["heldout_cosine"] - 0.02
    assert "dimensions" in capsys.readouterr().err


def test_layers_of_a_convbert_are_taken_over(run, sentences, tmp_path):
    teacher = tiny.write_model(tmp_path / "teacher", num_hidden_layers=4)
    words = ["--teacher", teacher, "--corpus", sentences, "--output", tmp_path / "run", "--layers", 2]
    one = [
        "--set",
        "max_steps=1",
        "--set",
        "learning_rate=1e-12",
        "--set",
        "max_length=32",
        "--device",
        "cpu",
    ]
    assert distill(*words, *one) == 0
    theirs, ours = (
        load_file(teacher / "model.safetensors"),
        load_file(tmp_path / "run/model/model.safetensors"),
    )
    for own, layer in ((0, 1), (1, 3)):
        name = "encoder.layer.{}.intermediate.dense.weight"
        torch.testing.assert_close(ours[name.format(own)], theirs[f"convbert.{name.format(layer)}"])


# ------------------------------------------------------------------------------------------------ tasks


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned")
    start = tiny.write_model(folder / "start")
    files = Files(write_sentences(folder / "train.tsv", 256), (write_sentences(folder / "dev.tsv", 16),))
    plan = {"learning_rate": 3e-3, "epochs": 6, "batch_size": 16, "max_length": 16}
    return finetune(
        find_task("sst2"), files, folder / "run", model=str(start), device="cpu", overrides=plan
    ).model_dir, files


def test_a_task_is_learned_from_text_without_labels(finetuned, tmp_path, capsys):
    teacher, files = finetuned
    more = tmp_path / "more.txt"
    more.write_text("\n".join(sentence(number)[0] for number in range(8)))
    words = ["--teacher", teacher, "--corpus", more, "--corpus", files.train, "--dev", files.dev[0]]
    plan = ["--set", "batch_size=16", "--set", "learning_rate=3e-3", "--epochs", 15, "--device", "cpu"]
    assert distill(*words, "--output", tmp_path / "run", *plan, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["scores"]["teacher"]["accuracy"] == 1.0
    assert metrics["scores"]["student"]["accuracy"] == 1.0
    assert metrics["heldout_agreement"] > 0.9
    student = FinetunedModel.load(str(tmp_path / "run/model"))
    assert student.model.config.num_hidden_layers == 1
    assert student.adapter.task.name == "sst2"
    found = convbert.pipeline("text-classification", str(tmp_path / "run/model"))("the cat sat .")
    assert found[0]["label"] in student.adapter.labels


def rows(kind: str, number: int) -> dict:
    words = f"the {('cat', 'dog')[number % 2]} sat on the mat and ran".split()[: 3 + number % 4]
    text = " ".join(words)
    return {
        "entities": {"tokens": words, "tags": ["B-X" if word in ("cat", "dog") else "O" for word in words]},
        "question-answering": {
            "question": "a cat",
            "context": text,
            "answers": {"text": [words[1]], "answer_start": [4]},
        },
        "multiple-choice": {"text": text, "choices": ["a cat", "a dog"], "label": number % 2},
    }[kind]


@pytest.mark.parametrize("kind", ["entities", "question-answering", "multiple-choice"])
def test_every_kind_of_task_has_a_student(kind, tmp_path, capsys):
    start = tiny.write_model(tmp_path / "start")
    train = write_objects(tmp_path / "train.jsonl", [rows(kind, number) for number in range(80)])
    plan = {"epochs": 1, "max_steps": 2, "max_length": 24, "batch_size": 8}
    plan |= {"stride": 4, "max_question_length": 8} if kind == "question-answering" else {}
    made = finetune(
        find_task(kind),
        Files(train, (train,)),
        tmp_path / "run",
        model=str(start),
        device="cpu",
        overrides=plan,
    )
    words = ["--teacher", made.model_dir, "--corpus", train, "--dev", train, "--output", tmp_path / "student"]
    plan = ["batch_size=16", "log_every=5", "learning_rate=3e-3"]
    more = [word for field in plan for word in ("--set", field)]
    assert distill(*words, *more, "--epochs", 4, "--device", "cpu", "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    log = [json.loads(line) for line in (tmp_path / "student/log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    assert metrics["scores"]["student"].keys() == metrics["scores"]["teacher"].keys()


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--teacher", "./nowhere", "--corpus", "TEXTS"], "nowhere"),
        (["--teacher", "TEACHER", "--corpus", "none.txt"], "none.txt"),
        (["--teacher", "TEACHER", "--corpus", "TEXTS", "--layers", "9"], "layers"),
        (["--teacher", "TEACHER", "--corpus", "TEXTS", "--set", "batch_size=9999"], "9999"),
        (["--teacher", "TEACHER", "--corpus", "TEXTS", "--set", "hidden_size=64"], "hidden_size"),
        (["--teacher", "TEACHER", "--corpus", "TEXTS", "--set", "temperature=-1"], "temperature"),
        (["--teacher", "TEACHER", "--corpus", "TEXTS", "--size", "huge"], "size"),
        (["--teacher", "TASK", "--corpus", "TEXTS", "--layers", "9"], "9"),
        (
            ["--teacher", "TEACHER", "--corpus", "TEXTS", "--size", "small", "--set", "vocab_size=9"],
            "vocab_size",
        ),
        (
            ["--teacher", "TEACHER", "--corpus", "TEXTS", "--start-from", "embedded", "--size", "small"],
            "start_from",
        ),
        (["--teacher", "TEACHER", "--corpus", "TEXTS", "--set", "max_length=999"], "999"),
        (["--teacher", "OTHER", "--corpus", "TEXTS"], "BertForSequenceClassification"),
        (["--teacher", "TASK", "--corpus", "TEXTS", "--dev", "UNLABELLED"], "label"),
        (["--teacher", "TASK", "--corpus", "TEXTS", "--tokenizer", "x"], "vocabulary"),
        (["--teacher", "TASK", "--corpus", "none.tsv"], "none.tsv"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    words, named, sentence_teacher, finetuned, sentences, tmp_path, capsys
):
    other, unlabelled = tmp_path / "other", tmp_path / "test.tsv"
    BertForSequenceClassification(BertConfig.from_pretrained(sentence_teacher)).save_pretrained(other)
    unlabelled.write_text("index\tsentence\n0\tthe cat sat\n")
    places = {"TEACHER": sentence_teacher, "TASK": finetuned[0], "TEXTS": sentences}
    places |= {"OTHER": other, "UNLABELLED": unlabelled}
    output = tmp_path / "run"
    assert distill(*(places.get(word, word) for word in words), "--output", output, "--device", "cpu") == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error
    assert not (output / "run.json").exists()  # the corrected command may take the same folder


def test_vectors_of_another_teacher_or_damaged_ones_are_refused(run, tmp_path, capsys):
    folder, words = run
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / "metrics.json").unlink()
    words = [copy if word == folder else word for word in words]
    shard = copy / "teacher/vectors-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-40])
    assert distill(*words) == 2
    assert "vectors-00000.npy" in capsys.readouterr().err
    record = copy / "teacher/vectors.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"teacher": "another"}))
    assert distill(*words) == 2
    assert "another" in capsys.readouterr().err


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(sentence_teacher, sentences, capsys):
    assert distill("--teacher", sentence_teacher, "--corpus", sentences, *SMALL, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "parameters" in printed
    assert printed.count("texts/s") == 2
