"""Which files belong to a task, and that every row of the table reads the files it was made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convbert import InputError
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.readers import ENDINGS
from convbert.finetuning.tasks import STEMS, TASKS, Task, find_task

SHARED = Path(__file__).parents[3] / "shared/data/tasks"


@pytest.mark.parametrize(
    ("task", "split", "name"),
    [
        ("squad1", "train", "train-v1.1.json"),
        ("squad2", "dev", "dev-v2.0.json"),
        ("cosmosqa", "dev", "valid.csv"),
        ("cosmosqa", "test", "test.jsonl"),
        ("swag", "dev", "val.csv"),
        ("copa", "dev", "val.jsonl"),
        ("conll2003", "train", "train.txt"),
        ("conll2003", "dev", "valid.txt"),
        ("conll2003", "test", "test.txt"),
        ("gum_upos", "dev", "en_gum-ud-dev.conllu"),
        ("text-classification", "dev", "validation-00000-of-00001.parquet"),
        ("sst2", "dev", "dev.tsv"),
    ],
)
def test_files_are_found_under_the_names_they_are_passed_on_with(task, split, name, tmp_path):
    for other in (name, "README.md", "dev_in_domain.tsv"):
        (tmp_path / other).touch()
    assert TASKS[task].find_files(tmp_path, split) == [tmp_path / name]


def test_every_ending_that_is_read_is_found(tmp_path):
    for ending in ENDINGS:
        folder = tmp_path / ending[1:]
        folder.mkdir()
        (folder / f"train{ending}").touch()
        assert TASKS["tagging"].find_files(folder, "train") == [folder / f"train{ending}"]


def test_two_files_that_could_be_meant_are_named(tmp_path):
    for name in ("dev-v1.1.json", "dev-v2.0.json"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"dev-v1\.1\.json, dev-v2\.0\.json could all be the split dev"):
        TASKS["squad2"].find_files(tmp_path, "dev")


def test_both_dev_sets_of_mnli_are_found(tmp_path):
    for name in ("dev_matched.tsv", "dev_mismatched.tsv"):
        (tmp_path / name).touch()
    assert len(TASKS["mnli"].find_files(tmp_path, "dev")) == 2


@pytest.mark.parametrize(
    ("task", "file", "submission"),
    [
        ("mnli", "test_matched.tsv", "MNLI-m.tsv"),
        ("mnli", "test_mismatched.tsv", "MNLI-mm.tsv"),
        ("mnli", "dev_matched.tsv", None),
        ("ax", "diagnostic.tsv", "AX.tsv"),
        ("ax", "AX.tsv", "AX.tsv"),
        ("sst2", "test.tsv", "SST-2.tsv"),
        ("sst2", "dev.tsv", None),
        ("cb", "test.jsonl", None),
    ],
)
def test_a_test_file_has_the_submission_of_its_own(task, file, submission):
    assert TASKS[task].submission_of(Path("glue", file)) == submission


ROWS = {
    "mrpc": (
        "tsv",
        'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t70\t71\tHe "said" so.\tSo he said.\n0\t1\t2\ta b\tc d\n',
        {"text": 'He "said" so.', "text_pair": "So he said."},
        "equivalent",
    ),
    "qqp": (
        "tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\nbroken\n5\t1\t2\tHow?\tWhy?\t0\n6\t3\t4\ta\tb\t1\n",
        {"text": "How?", "text_pair": "Why?"},
        "not_duplicate",
    ),
    "qnli": (
        "tsv",
        "index\tquestion\tsentence\tlabel\n0\tWho?\tHe did.\tentailment\n1\tWho?\tNo.\tnot_entailment\n",
        {"text": "Who?", "text_pair": "He did."},
        "entailment",
    ),
    "wnli": (
        "tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tIt broke.\tThe cup broke.\t1\n1\ta\tb\t0\n",
        {"text": "It broke.", "text_pair": "The cup broke."},
        "entailment",
    ),
    "ax": (
        "tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tThe cat sat.\tThe cat ran.\tcontradiction\n1\ta\tb\tneutral\n",
        {"text": "The cat sat.", "text_pair": "The cat ran."},
        "contradiction",
    ),
    "mnli": (
        "tsv",
        "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label\n0\t3\tOne.\tTwo.\tneutral\tneutral\n",
        {"text": "One.", "text_pair": "Two."},
        "neutral",
    ),
    "codah": (
        "tsv",
        "n\tThe chicken\tflies.\tsits.\truns.\treads.\t1\n",
        {"text": "The chicken", "choices": ["flies.", "sits.", "runs.", "reads."]},
        1,
    ),
    "swag": (
        "csv",
        ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
        "0,a,1,She sits. She,She sits.,She,gold,reads.,flies.,sings.,falls.,2\n",
        {"text": "She sits.", "prefix": "She", "choices": ["reads.", "flies.", "sings.", "falls."]},
        2,
    ),
    "cosmosqa": (
        "csv",
        'id,context,question,answer0,answer1,answer2,answer3,label\nx,"It rained, a lot.",Why?,a,b,c,d,3\n',
        {"text": "It rained, a lot.", "prefix": "Why?", "choices": ["a", "b", "c", "d"]},
        3,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_table_reads_a_file_as_distributed(name, tmp_path):
    ending, text, inputs, target = ROWS[name]
    path = tmp_path / f"train.{ending}"
    path.write_text(text, encoding="utf-8")
    first = adapter_of(TASKS[name]).read(path)[0]
    assert (first.inputs, first.target) == (inputs, target)


def test_pairs_without_a_text_are_left_out_of_qqp_and_counted(tmp_path):
    said = []
    _, text, *_ = ROWS["qqp"]
    path = tmp_path / "train.tsv"
    path.write_text(f"{text}7\t5\t6\tHow can I create an app?\t\t0\n", encoding="utf-8")
    assert len(adapter_of(TASKS["qqp"]).read(path, report=said.append)) == 2
    assert [note.startswith(f"{path}: 2 of 4 rows are left out") for note in said] == [True]


def test_only_an_optional_column_can_be_taken_away():
    assert "text_pair" not in find_task("rte", {"text_pair": ""}).columns
    with pytest.raises(InputError, match="rte needs a column for text"):
        find_task("rte", {"text": ""})


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data sets are not here")
@pytest.mark.parametrize("name", sorted(path.name for path in SHARED.glob("*") if path.name in TASKS))
def test_every_data_set_is_read(name):
    task = TASKS[name]
    (path,) = task.find_files(SHARED / name, "dev")
    adapter = adapter_of(task)
    examples = adapter.read(path)
    adapter.learn(examples)
    adapter.check(examples)
    assert len(examples) > 50


def test_more_is_better_of_what_chooses_the_checkpoint():
    assert not [name for name, task in TASKS.items() if task.metrics[0] == "mean_squared_error"]


def test_a_task_survives_json():
    for task in TASKS.values():
        assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task
    assert set(STEMS) == {"train", "dev", "test"}
