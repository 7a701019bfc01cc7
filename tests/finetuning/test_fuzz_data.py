"""Damaged files of labelled data are answered or refused with a sentence; nothing else comes out of a reader."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from convbert import InputError
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.readers import iter_rows
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import TASKS, Task, find_task
from convbert.util.schema import parse_json
from fuzzing import damaged_bytes, damaged_json, outcome

CASES = 60
CONTEXT = "the cat sat on the mat in paris ."
TEXTS = [
    {"text": "a good film", "label": "pos"},
    {"text": "a bad one", "label": "neg"},
    {"text": "x", "label": 1.0},
]
LABELS = [
    {"text": "a cat", "labels": ["a", "b"]},
    {"text": "a dog", "labels": "a,b"},
    {"text": "c", "labels": []},
]
SENTENCES = [{"tokens": ["the", "cat"], "tags": ["O", "B-X"]}, {"tokens": ["a", "dog"], "tags": ["O", "I-X"]}]
CHOICES = [
    {"text": "a", "choices": ["b", "c"], "label": 1},
    {"text": "d", "choices": ["e", "f"], "label": "0"},
]
ANSWER = {"text": "paris", "answer_start": 26}
QUESTIONS = [
    {"id": "1", "question": "where ?", "context": CONTEXT, "answers": [ANSWER]},
    {
        "id": 2,
        "question": "where ?",
        "context": CONTEXT,
        "answers": {"text": ["paris"], "answer_start": [26]},
    },
]
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {"id": "1", "question": "where ?", "answers": [ANSWER]},
                        {"id": "2", "question": "who ?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}
CONLLU = "# text = the cat\n1\tthe\t_\tDET\tDT\t_\t_\t_\t_\t_\n2\tcat\t_\tNOUN\tNN\t_\t_\t_\t_\t_\n\n"
TEXT_FILES = {
    "a.csv": ("text-classification", 'text,label\n"a ""good"" film, yes",pos\nbad,neg\n'),
    "b.csv": ("text-classification", "text;label\ngood;1\nbad;0\n"),
    "a.tsv": ("sst2", "sentence\tlabel\na film\t1\nanother\t0\n"),
    "a.conll": ("entities", "#\tx\n1\tthe\tO\tO\n2\tcat\tB-X\tO\n\n1\tdog\tB_X\tO\n"),
    "b.conll": ("tagging", "the DT O\ncat NN B\n\ndog NN B\n"),
    "a.conllu": ("tagging", CONLLU),
    "a.jsonl": ("text-classification", "".join(json.dumps(row) + "\n" for row in TEXTS)),
    "a.json": ("squad2", json.dumps(SQUAD)),
}
OBJECTS = {
    "texts": ("text-classification", TEXTS),
    "numbers": ("regression", [{"text": "a", "label": 1.5}, {"text": "b", "label": "2"}]),
    "labels": ("multi-label-classification", LABELS),
    "sentences": ("entities", SENTENCES),
    "tags": ("tagging", SENTENCES),
    "choices": ("multiple-choice", CHOICES),
    "questions": ("squad1", QUESTIONS),
    "squad": ("squad2", SQUAD),
    "paragraphs": ("question-answering", SQUAD["data"][0]["paragraphs"]),
}


def read_all(task: str, path: Path, seed: int) -> None:
    """As finetune, evaluate and predict do."""
    adapter = adapter_of(find_task(task))
    for row in iter_rows(path, adapter.task.headerless, adapter.task.input_columns):
        assert isinstance(row, InputError) or row.place
    examples = adapter.read(path, on_bad_row=("fail", "skip")[seed % 2], training=seed % 3 == 0)
    adapter.learn(examples)
    adapter.check(examples)


def run(call, seeds=CASES) -> Counter:
    """How many of the damaged cases were answered, and how many refused."""
    return Counter(outcome(lambda seed=seed: call(seed)) for seed in range(seeds))


@pytest.mark.parametrize("name", TEXT_FILES)
def test_damaged_bytes(name, tmp_path):
    task, text = TEXT_FILES[name]

    def read(seed):
        path = tmp_path / name
        path.write_bytes(damaged_bytes(text.encode(), seed))
        read_all(task, path, seed)

    found = run(read)
    assert set(found) == {"answered", "refused"}, found


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("name", OBJECTS)
def test_damaged_values(name, ending, tmp_path):
    task, content = OBJECTS[name]
    if ending == "jsonl" and not isinstance(content, list):
        content = [content]

    def read(seed):
        path = tmp_path / f"a.{ending}"
        damaged = damaged_json(content, seed)
        rows = damaged if ending == "jsonl" and isinstance(damaged, list) else [damaged]
        path.write_text("\n".join(map(json.dumps, rows)))
        read_all(task, path, seed)

    found = run(read)
    assert found["refused"]
    assert set(found) <= {"answered", "refused"}, found


def test_damaged_cells_of_parquet(tmp_path):
    """Values of any type in the columns, and the file's own bytes."""
    values = [
        b"\xff\xfe",
        2**62,
        float("nan"),
        None,
        True,
        [None],
        ["a", None],
        {"a": 1},
        "",
        "nan",
        pd.Timestamp(0),
    ]
    tasks = {
        "text-classification": TEXTS[:2],
        "entities": SENTENCES,
        "multi-label-classification": LABELS[:1],
    }

    def read(seed):
        task, rows = list(tasks.items())[seed % 3]
        path = tmp_path / "a.parquet"
        column = list(rows[0])[seed % 2]
        value = values[seed % len(values)]
        pd.DataFrame([{**row, column: value} for row in rows]).to_parquet(path)
        if seed % 4 == 3:
            path.write_bytes(damaged_bytes(path.read_bytes(), seed))
        read_all(task, path, seed)

    assert set(run(read)) <= {"answered", "refused"}


def test_damaged_tasks_and_plans():
    """What a model folder says of them, in `finetuning.json`."""
    records = [{"task": task.to_dict(), "plan": FinetuningPlan().to_dict()} for task in TASKS.values()]

    def read(seed):
        text = json.dumps(damaged_json(records[seed % len(records)], seed))
        record = parse_json(text)
        if not isinstance(record, dict):
            raise InputError("not an object")
        task = Task.from_dict(record.get("task"), "finetuning.json")
        FinetuningPlan.from_dict(record.get("plan"), "finetuning.json")
        adapter = adapter_of(task, ("O", "B-X"))
        assert adapter.task.input_columns

    found = run(read, 5 * CASES)
    assert set(found) == {"answered", "refused"}, found
