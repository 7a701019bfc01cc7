"""The three commands: what they refuse, in one sentence and before any training, and how `predict` streams."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

import tiny
from convbert import ConvBertForSequenceClassification, ConvBertModel, ConvBertTokenizerFast, InputError
from convbert.cli import main
from convbert.files.atomic import folder_lock
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.data import Example, Split
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.readers import read_table
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import TASKS
from convbert.finetuning.warm_start import check_head, read_task, write_task
from convbert.finetuning.writing import submission
from labelled import sentence, write_objects, write_sentences

TRAIN = [{"review": "the cat sat", "stars": 1}, {"review": "a dog ran", "stars": 2}]
OWN = ("--task", "text-classification", "--text-column", "review", "--label-column", "stars")


@pytest.fixture(scope="module")
def model(start, tmp_path_factory) -> Path:
    """A model of SST-2, trained for a moment."""
    folder = tmp_path_factory.mktemp("commands")
    write_sentences(folder / "train.tsv", 32)
    write_sentences(folder / "dev.tsv", 8)
    words = ["finetune", "--task", "sst2", "--data", str(folder), "--model", str(start), "--device", "cpu"]
    assert main([*words, "--output", str(folder / "run"), "--set", "epochs=1"]) == 0
    return folder / "run/model"


@pytest.fixture
def refused(capsys):
    def run(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("convbert: error: ")
        return line

    return run


# -------------------------------------------------------------------------------------- what is refused


def squad(answers: list) -> bytes:
    qas = [
        {"id": f"q{n}", "question": "who ?", "answers": [{"text": text, "answer_start": start}]}
        for n, (text, start) in enumerate(answers)
    ]
    return json.dumps({"data": [{"paragraphs": [{"context": "the cat sat", "qas": qas}]}]}).encode()


BAD_DATA = {
    "unknown label in dev": (
        OWN,
        "dev.jsonl",
        b'{"review": "a", "stars": 1}\n{"review": "b", "stars": 7}\n',
        ["dev.jsonl: line 2", "'7' is unknown", "1, 2"],
    ),
    "missing column": (
        OWN,
        "dev.jsonl",
        b'{"text": "a", "stars": 1}\n',
        ["no column 'review'", "text, stars"],
    ),
    "empty file": (OWN, "dev.jsonl", b"", ["dev.jsonl: is empty"]),
    "not UTF-8": (OWN, "dev.jsonl", b'{"review": "\xff", "stars": 1}\n', ["line 1: not UTF-8"]),
    "empty text": (OWN, "dev.jsonl", b'{"review": " ", "stars": 1}\n', ["line 1: review is empty"]),
    "a label left out": (
        OWN,
        "dev.jsonl",
        b'{"review": "a", "stars": 1}\n{"review": "b"}\n',
        ["line 2: stars is empty"],
    ),
    "a number left out": (
        ("--task", "regression"),
        "train.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "b"}\n',
        ["line 2: label must be a number", "got None"],
    ),
    "labels left out": (
        ("--task", "multi-label-classification"),
        "train.jsonl",
        b'{"text": "a", "labels": ["x", "y"]}\n{"text": "b"}\n',
        ["line 2: labels must be a list of labels, got None"],
    ),
    "one class": (OWN, "train.jsonl", b'{"review": "a", "stars": 1}\n' * 3, ["only the label '1' occurs"]),
    "tokens and tags": (
        ("--task", "entities"),
        "train.jsonl",
        b'{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a", "b"], "tags": ["O"]}\n',
        ["line 2: 2 tokens and 1 tags"],
    ),
    "not a tag of an entity": (
        ("--task", "entities"),
        "train.jsonl",
        b'{"tokens": ["a"], "tags": ["NOUN"]}\n',
        ["line 1", "'NOUN' is no tag of an entity"],
    ),
    "answers elsewhere": (
        ("--task", "squad1"),
        "train.json",
        squad([("cat", 4), ("dog", 4), ("sat", 0)]),
        ["train.json", "q1", "'dog'", "'cat'", "2 rows"],
    ),
    "not a number": (
        ("--task", "regression"),
        "train.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "a", "label": "much"}\n',
        ["line 2: label must be a number", "got 'much'"],
    ),
    "no such choice": (
        ("--task", "multiple-choice"),
        "train.jsonl",
        b'{"text": "a", "choices": ["a", "b"], "label": 2}\n',
        ["line 1: label must be the number of a choice, 0 to 1, got 2"],
    ),
    "choices come and go": (
        ("--task", "multiple-choice"),
        "train.jsonl",
        b'{"text": "a", "choices": ["a", "b"], "label": 1}\n{"text": "a", "choices": ["a", "b", "c"], "label": 1}\n',
        ["line 2: 3 choices, where the first row has 2"],
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_before_training(case, start, tmp_path, refused):
    task, name, content, wanted = BAD_DATA[case]
    other = "dev" if name.startswith("train") else "train"
    files = {other: write_objects(tmp_path / f"{other}.jsonl", TRAIN), name.split(".")[0]: tmp_path / name}
    (tmp_path / name).write_bytes(content)
    output = tmp_path / "run"
    words = ["--train", files["train"], "--dev", files["dev"], "--model", start, "--output", output]
    line = refused("finetune", *task, *words)
    assert all(part in line for part in wanted), line
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--task", "sst3"], "there is no task 'sst3'"),
        (["--task", "sst2", "--set", "epochs"], "NAME=VALUE"),
        (["--task", "sst2", "--set", "epoch=3"], "no field named epoch"),
        (["--task", "sst2", "--set", "epochs=many"], "got 'many'"),
        (["--task", "sst2", "--set", "epochs=0"], "epochs"),
        (["--task", "sst2", "--on-bad-row", "drop"], "--on-bad-row"),
        (["--task", "sst2", "--set", "max_length=1000"], "max_position_embeddings (32)"),
        (["--task", "sst2", "--choice-columns", "a,b"], "sst2 has no column for choices"),
        (["--task", "sst2", "--train", "a.tsv"], "give either --data"),
        (["--task", "mnli"], "no file for the split dev of mnli"),
        (["--task", "sst2", "--model", "./nowhere"], "there is no such folder"),
    ],
    ids=str,
)
def test_finetune_refuses(words, wanted, start, sst2, tmp_path, refused):
    model = [] if "--model" in words else ["--model", start]
    assert wanted in refused("finetune", "--data", sst2, "--output", tmp_path / "run", *model, *words)
    assert not (tmp_path / "run").exists()


def test_a_head_for_something_else_is_not_thrown_away_silently(model, sst2, tmp_path, refused):
    tags = write_objects(
        tmp_path / "tags.jsonl", [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a"], "tags": ["B-X"]}]
    )
    words = ["--train", tags, "--dev", tags, "--model", model, "--output", tmp_path / "run"]
    assert "--new-head" in refused("finetune", "--task", "entities", *words)
    assert "ConvBertForSequenceClassification" in refused(
        "evaluate", "--task", "entities", "--model", model, "--file", tags
    )
    assert "fine-tune it first" in refused("evaluate", "--task", "entities", "--model", model, "--file", tags)


def test_a_folder_in_use_is_not_written_to(start, sst2, tmp_path, refused):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    words = ["--task", "sst2", "--data", sst2, "--model", start, "--output", tmp_path / "run"]
    assert "not empty" in refused("finetune", *words)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_folder_in_which_another_process_trains_is_refused(start, sst2, tmp_path, refused):
    words = ["--task", "sst2", "--data", sst2, "--model", start, "--output", tmp_path / "run"]
    with folder_lock(tmp_path / "run", "training"):
        assert "another process is training in this folder" in refused("finetune", *words)


def test_evaluate_names_labels_that_the_model_does_not_have(model, tmp_path, refused):
    rows = write_objects(tmp_path / "a.jsonl", [{"text": "the cat", "label": "neutral"}])
    words = ["--model", model, "--task", "text-classification", "--file", rows]
    assert "'neutral' is unknown; there are negative, positive" in refused("evaluate", *words)


def test_a_head_of_another_problem_is_not_thrown_away_silently(start, tmp_path):
    """The same class and the same labels, learned as any number of them."""
    adapter = adapter_of(TASKS["sst2"], ("negative", "positive"))
    names = {
        "id2label": {0: "negative", 1: "positive"},
        "architectures": ["ConvBertForSequenceClassification"],
    }
    config = tiny.config(problem_type="multi_label_classification", **names)
    with pytest.raises(InputError, match=r"was trained for multi_label_classification.*--new-head"):
        check_head(config, "here", adapter, new_head=False)
    assert not check_head(config, "here", adapter, new_head=True)


@pytest.mark.parametrize(
    ("task", "learned", "stored"),
    [("text-classification", ("a", "b"), ("b", "a")), ("stsb", ("value",), ("LABEL_0",))],
)
def test_a_head_goes_on_in_its_own_order(task, learned, stored):
    """And a single number, whatever its name."""
    adapter = adapter_of(TASKS[task], learned)
    config = tiny.config(
        id2label=dict(enumerate(stored)), architectures=["ConvBertForSequenceClassification"]
    )
    assert check_head(config, "here", adapter, new_head=False)
    assert adapter.labels == (stored if len(stored) > 1 else learned)


def test_a_model_on_the_hub_has_its_task_and_plan(tmp_path, monkeypatch):
    repository = tmp_path / "models--owner--tuned"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    plan = FinetuningPlan(max_length=77)
    write_task(snapshot, TASKS["rte"], plan)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert read_task("owner/tuned") == (TASKS["rte"], plan)
    assert read_task("owner/other") is None
    assert read_task(str(tmp_path)) is None


def test_a_model_without_a_plan_reads_as_much_as_it_can(tmp_path):
    tiny.write_model(tmp_path, max_position_embeddings=200)  # for its tokenizer
    ConvBertForSequenceClassification(tiny.config(max_position_embeddings=200)).save_pretrained(tmp_path)
    assert FinetunedModel.load(str(tmp_path), device="cpu").plan.max_length == 200


def test_a_head_that_goes_on_is_not_replaced_by_a_linear_one(model, sst2, tmp_path, refused):
    words = ["--task", "sst2", "--data", sst2, "--model", model, "--output", tmp_path / "run"]
    assert "head=linear is for a new head" in refused("finetune", *words, "--set", "head=linear")


def test_a_folder_without_a_run_is_not_resumed(start, sst2, tmp_path, refused):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    words = ["--task", "sst2", "--data", sst2, "--model", start, "--output", tmp_path / "run", "--resume"]
    assert "there is no run in it to resume" in refused("finetune", *words)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


# -------------------------------------------------------------------------------- what is trained on the way


def test_a_finished_run_goes_on_with_more_seeds(model, start, tmp_path, capsys):
    """And is left alone by the command that made it."""
    run = shutil.copytree(model.parent, tmp_path / "run")
    words = ["finetune", "--task", "sst2", "--data", str(model.parents[1]), "--model", str(start)]
    words += ["--device", "cpu", "--set", "epochs=1", "--output", str(run), "--resume"]
    assert main(words) == 0
    assert "nothing to resume" in capsys.readouterr().err
    assert main([*words, "--seeds", "2"]) == 0
    assert list(json.loads((run / "metrics.json").read_text())["seeds"]) == ["0", "1"]
    assert json.loads((run / "run.json").read_text())["seeds"] == 2
    assert main(words) == 0
    assert json.loads((run / "run.json").read_text())["seeds"] == 2


def test_figures_are_written_last(model, start, tmp_path, monkeypatch):
    """Where they are, the seed or the run is taken for done."""
    moved, replace = [], os.replace
    monkeypatch.setattr(
        "convbert.files.atomic.os.replace", lambda old, new: moved.append(Path(new)) or replace(old, new)
    )
    words = ["finetune", "--task", "sst2", "--data", str(model.parents[1]), "--model", str(start)]
    words += ["--device", "cpu", "--set", "epochs=1", "--output", str(tmp_path / "run")]
    assert main(words) == 0
    for folder in (tmp_path / "run", tmp_path / "run/seed-0"):
        assert [path.name for path in moved if path.parent == folder][-1] == "metrics.json"


def test_adapters_are_trained_by_the_plan_that_is_documented(model, start, tmp_path):
    words = ["finetune", "--task", "sst2", "--data", str(model.parents[1]), "--model", str(start), "--lora"]
    words += ["--device", "cpu", "--set", "epochs=1", "--set", "lora_alpha=4"]
    assert main([*words, "--output", str(tmp_path / "run")]) == 0
    plan = json.loads((tmp_path / "run/run.json").read_text())["plan"]
    wanted = {"lora_rank": 8, "learning_rate": 1e-3, "layer_decay": 1.0, "lora_alpha": 4}
    assert {name: plan[name] for name in wanted} == wanted
    trained = ConvBertModel.from_pretrained(tmp_path / "run/model")
    assert not torch.equal(
        *(
            each.encoder.layer[0].output.dense.weight
            for each in (trained, ConvBertModel.from_pretrained(start))
        )
    )


def test_questions_by_columns_and_the_threshold_of_the_dev_data(start, tmp_path, capsys):
    """CSV with columns of other names; and the folder answers as the run that left it did."""
    for name, count in (("train", 8), ("dev", 6)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["nr", "ask", "about", "gold"])
            for number in range(count):
                there = (
                    {"text": ["cat"], "answer_start": [4]} if number % 2 else {"text": [], "answer_start": []}
                )
                rows.writerow([f"n{number}", "the cat", "the cat sat .", json.dumps(there)])
    columns = ["--question-column", "ask", "--context-column", "about", "--answers-column", "gold"]
    columns += ["--id-column", "nr"]
    words = [
        "finetune",
        "--task",
        "squad2",
        "--data",
        str(tmp_path),
        "--model",
        str(start),
        "--device",
        "cpu",
    ]
    assert main([*words, *columns, "--output", str(tmp_path / "run"), "--set", "epochs=1"]) == 0
    scores = json.loads((tmp_path / "run/metrics.json").read_text())["scores"]["dev"]
    assert scores["f1"] == pytest.approx(scores["best_f1"])
    model = str(tmp_path / "run/model")
    assert json.loads((tmp_path / "run/model/finetuning.json").read_text())["plan"]["no_answer_threshold"]
    capsys.readouterr()
    words = ["evaluate", "--model", model, "--file", str(tmp_path / "dev.csv"), "--device", "cpu", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["dev"]["f1"] == pytest.approx(scores["f1"])
    lines = write_objects(tmp_path / "a.jsonl", [{"ask": "the cat", "about": "the cat sat ."}])
    assert predict("--model", model, "--input", lines, "--output", tmp_path / "b.jsonl") == 0
    (dev, *_) = read_lines(tmp_path / "run/dev_predictions.jsonl")
    (found,) = read_lines(tmp_path / "b.jsonl")
    assert (found["answer"], found["line"]) == (dev["answer"], 1)


# -------------------------------------------------------------------------------------------- evaluate


def test_evaluate_misses_labels_unless_it_is_told(model, tmp_path, refused, capsys):
    path = tmp_path / "a.csv"
    path.write_text("sentence,sentiment\nthe cat,1\nthe dog,0\n")
    words = ["evaluate", "--model", model, "--file", path, "--device", "cpu"]
    assert "no column 'label'; there are sentence, sentiment" in refused(*words)
    assert main([*map(str, words), "--unlabelled"]) == 0
    assert capsys.readouterr().out == "a: 2 examples, answered without a score\n"


def test_evaluate_says_what_was_cut(model, tmp_path, capsys):
    path = tmp_path / "a.tsv"
    path.write_text(f"sentence\tlabel\nthe cat\t1\n{'the cat ' * 20}\t1\n{'a ' * 30}\t0\n")
    assert main(["evaluate", "--model", str(model), "--file", str(path), "--device", "cpu"]) == 0
    assert "a: 1 of 3 texts are longer than max_length (32 tokens) and are cut" in capsys.readouterr().err


def test_evaluate_reads_a_file_once(model, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "convbert.finetuning.adapters.base.read_table",
        lambda path, *a, **k: read.append(path) or read_table(path, *a, **k),
    )
    found = FinetunedModel.load(str(model), device="cpu")
    path = tmp_path / "test.tsv"
    path.write_text("index\tsentence\n0\tthe cat\n")
    assert found.split("test", path).examples[0].target is None
    assert read == [path]


def test_evaluate_does_not_overwrite_a_run(model, refused):
    before = (model.parent / "metrics.json").read_bytes()
    words = ["evaluate", "--model", model, "--data", model.parents[1], "--output"]
    for folder in (model.parent, model.parent / "seed-0"):
        assert "holds a training run" in refused(*words, folder)
    assert (model.parent / "metrics.json").read_bytes() == before


def test_evaluate_compares_the_labels_with_those_of_the_task(model, tmp_path, refused):
    path = tmp_path / "test.tsv"
    path.write_text("index\tsentence1\tsentence2\n0\tthe cat\tthe dog\n")
    words = ["evaluate", "--model", model, "--task", "rte", "--file", path, "--output", tmp_path / "out"]
    assert "has the labels negative, positive, and rte has entailment, not_entailment" in refused(*words)
    assert not (tmp_path / "out").exists()


def test_similarities_are_submitted_from_0_to_5():
    examples = [Example("here", str(n), {}) for n in range(3)]
    split = Split("test", adapter_of(TASKS["stsb"]), examples, [], FinetuningPlan())
    lines = submission(split, [{"answer": -0.3}, {"answer": 2.5}, {"answer": 5.25}])
    assert lines.splitlines()[1:] == ["0\t0.000", "1\t2.500", "2\t5.000"]


def test_evaluate_writes_submissions_for_test_data(model, tmp_path, capsys):
    test = tmp_path / "test.tsv"
    test.write_text("index\tsentence\n" + "".join(f"{n}\t{sentence(n)[0]}\n" for n in range(6)))
    words = ["evaluate", "--model", str(model), "--data", str(tmp_path), "--split", "test"]
    assert main([*words, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "test: 6 examples" in capsys.readouterr().out
    lines = (tmp_path / "out/SST-2.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == list("012345")
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}


# --------------------------------------------------------------------------------------------- predict


def predict(*words: object) -> int:
    return main(["predict", "--device", "cpu", *map(str, words)])


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_predict_answers_in_order_and_goes_on_after_bad_lines(model, tmp_path, capsys):
    lines = [sentence(number)[0].encode() for number in range(30)]
    lines[3] = b"bad \xff bytes"
    lines[7] = b""
    lines[20] = b"the cat " * 16
    source, target = tmp_path / "texts.txt", tmp_path / "answers.jsonl"
    source.write_bytes(b"\n".join(lines))
    assert predict("--model", model, "--input", source, "--output", target) == 0
    found = read_lines(target)
    assert [answer["line"] for answer in found] == list(range(1, 31))
    assert [answer["line"] for answer in found if "error" in answer] == [4, 8]
    assert found[0]["answer"] in ("negative", "positive")
    said = capsys.readouterr().err
    assert "30 texts in" in said
    assert "and were cut: 1" in said
    assert f"2 lines have no answer; the first: {source}: line 4" in said
    assert not list(tmp_path.glob("*.partial"))


def test_predict_resumes_where_a_line_was_cut(model, tmp_path):
    source, whole, parts = (tmp_path / name for name in ("texts.txt", "whole.jsonl", "parts.jsonl"))
    source.write_text("\n".join(sentence(number)[0] for number in range(20)))
    assert predict("--model", model, "--input", source, "--output", whole) == 0
    done = whole.read_bytes().splitlines(keepends=True)
    Path(f"{parts}.partial").write_bytes(b"".join(done[:7]) + done[7][:10])
    assert predict("--model", model, "--input", source, "--output", parts, "--resume") == 0
    found, expected = read_lines(parts), read_lines(whole)
    assert [answer["line"] for answer in found] == [answer["line"] for answer in expected]
    assert [answer["answer"] for answer in found] == [answer["answer"] for answer in expected]


def test_predict_gives_vectors(model, tmp_path, capsys):
    """Those of the encoder alone, and not of its batch; a line without a text has none; a long one is cut."""
    texts = ["the cat sat .", "", "a dog ran on .", None, "the " * 99]
    rows = [{"text": text} if text is not None else {"txt": 1} for text in texts]
    rows[2]["id"] = None
    source, target = write_objects(tmp_path / "texts.jsonl", rows), tmp_path / "vectors.jsonl"
    words = ("--embeddings", "mean", "--precision", "fp32", "--long", "cut", "--model", model)
    assert predict(*words, "--input", source, "--output", target) == 0
    assert "and were cut: 1\n" in capsys.readouterr().err
    found = read_lines(target)
    assert [set(record) - {"line"} for record in found] == [
        {"embedding"},
        {"error"},
        {"id", "embedding"},
        {"error"},
        {"embedding"},
    ]
    assert found[2]["id"] is None
    encoder = ConvBertModel.from_pretrained(model).eval()
    tokenizer = ConvBertTokenizerFast.from_pretrained(model)
    texts = {
        0: "the cat sat .",
        2: "a dog ran on .",
        4: "the " * 30,
    }  # 32 positions hold [CLS], 30 words, [SEP]
    for place, text in texts.items():
        with torch.no_grad():
            states = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert found[place]["embedding"] == pytest.approx(states.mean(0).tolist(), abs=1e-5)


def test_predict_gives_vectors_of_the_first_token(model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat sat .\n")))
    assert predict("--embeddings", "first", "--precision", "fp32", "--model", model) == 0
    encoder = ConvBertModel.from_pretrained(model).eval()
    tokens = ConvBertTokenizerFast.from_pretrained(model)("the cat sat .", return_tensors="pt")
    with torch.no_grad():
        first = encoder(**tokens).last_hidden_state[0, 0]
    assert json.loads(capsys.readouterr().out)["embedding"] == pytest.approx(first.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "give --model"),
        (["--embeddings", "median"], "--embeddings must be one of mean, first, max; got median"),
        (["--model", "./nowhere"], "there is no such folder"),
        (["--embeddings", "mean", "--input", "nowhere.txt"], "nowhere.txt: there is no such file"),
    ],
    ids=str,
)
def test_predict_refuses(words, wanted, tmp_path, refused):
    source = [] if "--input" in words else ["--input", __file__]
    assert wanted in refused("predict", *source, "--output", tmp_path / "answers.jsonl", *words)
    assert not list(tmp_path.iterdir())


def test_predict_overwrites_nothing(model, tmp_path, refused):
    target = tmp_path / "answers.jsonl"
    target.write_text("mine")
    assert "is there already" in refused("predict", "--model", model, "--input", __file__, "--output", target)
    assert target.read_text() == "mine"


def test_predict_to_stdout(model, monkeypatch, capsysbinary):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat sat .\nthe dog ran .\n")))
    assert predict("--model", model) == 0
    assert len(capsysbinary.readouterr().out.splitlines()) == 2
