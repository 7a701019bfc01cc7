"""What is said of labelled data, rows that are left out, labels in the spellings people have, and the dev part."""

import json
from collections import Counter

import pytest

import tiny
from convbert import ConvBertTokenizerFast, InputError
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.data import Example, Split
from convbert.finetuning.notes import feature_notes, label_notes, split_off_dev
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import TASKS, Task, find_task
from labelled import write_objects

PLAN = FinetuningPlan(max_length=16, stride=4, max_question_length=4, max_answer_length=5)


@pytest.fixture(scope="module")
def tokenizer():
    return ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})


def read(path, text, task="text-classification", labels=(), **options):
    path.write_text(text, encoding="utf-8")
    return adapter_of(find_task(task), labels).read(path, **options)


# ----------------------------------------------------------------------------------------- rows left out


@pytest.mark.parametrize(
    "bad", [",pos", "a film,", "a film,NaN", "a film,<NA>", "a film,nan", '"a" film,pos', "a,b,c"]
)
def test_a_row_that_cannot_be_used_is_refused_or_skipped_and_counted(bad, tmp_path):
    path = tmp_path / "a.csv"
    text = f"text,label\ngood,pos\n{bad}\nbad,neg\n"
    with pytest.raises(InputError, match="line 3"):
        read(path, text)
    said = []
    examples = read(path, text, on_bad_row="skip", report=said.append)
    assert [example.inputs["text"] for example in examples] == ["good", "bad"]
    assert len(said) == 1
    assert "1 of 3 rows" in said[0]
    assert "line 3" in said[0]


def test_all_rows_are_not_skipped(tmp_path):
    with pytest.raises(InputError, match="no row can be used"):
        read(tmp_path / "a.csv", "text,label\n,pos\n,neg\n", on_bad_row="skip")
    with pytest.raises(InputError, match="on_bad_row"):
        read(tmp_path / "a.csv", "text,label\n,pos\n", on_bad_row="ignore")


def test_labels_that_training_lacks_are_all_named(tmp_path):
    path = tmp_path / "dev.csv"
    text = "text,label\na,pos\nb,odd\nc,odd\nd,strange\n"
    adapter = adapter_of(TASKS["text-classification"], ("neg", "pos"))
    path.write_text(text)
    with pytest.raises(InputError, match=r"line 3: the label 'odd' is unknown.*odd 2, strange 1"):
        adapter.check(adapter.read(path))
    assert len(adapter.read(path, on_bad_row="skip")) == 1


@pytest.mark.parametrize("label", ["1.0", "1", " 1 "])
def test_a_number_is_one_label_however_it_is_written(label, tmp_path):
    """pandas writes a column of whole numbers with gaps as floats."""
    text = f"text,label\na,{label}\nb,0\n"
    assert read(tmp_path / "a.csv", text, labels=("0", "1"))[0].target == "1"
    assert read(tmp_path / "a.csv", text.replace("text", "sentence"), "sst2")[0].target == "positive"


@pytest.mark.parametrize("label", [b"pos", ["a"], {"a": 1}])
def test_a_label_is_a_text_or_a_number(label, tmp_path):
    import pandas as pd

    pd.DataFrame({"text": ["a"], "label": [label]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 1: label must be a label"):
        adapter_of(TASKS["text-classification"]).read(tmp_path / "a.parquet")


# ---------------------------------------------------------------------------------------- several labels


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ('"a, b"', ("a", "b")),
        ('"[""a"", ""b""]"', ("a", "b")),
        ("\"['a', 'b']\"", ("a", "b")),  # pandas
        ('"[3, 12]"', ("12", "3")),
        ("7", ("7",)),
        ('""', ()),
        ("[]", ()),
    ],
)
def test_several_labels_are_read_as_people_write_them(cell, labels, tmp_path):
    (example,) = read(tmp_path / "a.csv", f"text,labels\nit,{cell}\n", "multi-label-classification")
    assert example.target == labels


@pytest.mark.parametrize(
    "cell", ["a;b", "a|b", "\"['a' 'b']\"", '"[a, b]"', '"[1, 0, 0]"', '"[""a"", null]"', "NaN"]
)
def test_several_labels_in_a_spelling_that_could_mean_two_things_are_refused(cell, tmp_path):
    with pytest.raises(InputError, match="line 2"):
        read(tmp_path / "a.csv", f"text,labels\nit,{cell}\n", "multi-label-classification")


def test_tags_may_be_numbers_and_have_their_names_in_a_file_of_the_datasets_library(tmp_path):
    import datasets

    rows = [{"tokens": ["the", "cat"], "tags": [0, 3]}]
    adapter = adapter_of(TASKS["tagging"])
    assert adapter.read(write_objects(tmp_path / "a.jsonl", rows))[0].target == ("0", "3")
    names = datasets.Sequence(datasets.ClassLabel(names=["O", "B-X", "I-X", "B-Y"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "tags": names})
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    assert adapter.read(tmp_path / "a.parquet")[0].target == ("O", "B-Y")


# -------------------------------------------------------------------------------------------------- notes


def test_labels_are_counted_and_rare_ones_named():
    examples = [Example("here", str(n), {"text": "a"}, "cat" if n else "dog") for n in range(9)]
    adapter = adapter_of(TASKS["text-classification"], ("cat", "dog", "fish"))
    counted, rare = label_notes("train", adapter, examples)
    assert "cat 8, dog 1" in counted
    assert "dog 1" in rare
    assert "fish 0" in rare
    assert "cat" not in rare


def test_entities_are_counted_by_their_types():
    tags = ("B-PER", "I-PER", "O", "B-LOC")
    adapter = adapter_of(TASKS["entities"], ("B-PER", "I-PER", "B-LOC", "I-LOC", "O"))
    notes = label_notes(
        "dev", adapter, [Example("here", str(n), {"tokens": list("abcd")}, tags) for n in range(6)]
    )
    assert len(notes) == 1
    assert "PER 6" in notes[0]
    assert "LOC 6" in notes[0]


@pytest.mark.parametrize(
    ("task", "inputs", "target"),
    [
        ("text-classification", {"text": "ωω ψψ"}, "a"),
        ("cb", {"text": "ωω", "text_pair": "ψψ"}, "neutral"),
        ("tagging", {"tokens": ["ωω", "ψψ"]}, ("a", "a")),
        ("squad1", {"question": "ωω", "context": "ψψ ωω"}, (("ωω", 3),)),
        ("multiple-choice", {"text": "ωω", "choices": ["ψψ", "ωω"]}, 0),
    ],
)
def test_texts_of_unknown_words_are_said_and_not_trained_on(task, inputs, target, tokenizer):
    adapter = adapter_of(TASKS[task], ("a", "neutral"))
    examples = [Example("here", "0", inputs, target)]
    features = adapter.features(examples, tokenizer, PLAN)
    (note,) = feature_notes(Split("dev", adapter, examples, features, PLAN), tokenizer)
    assert "100.0%" in note
    assert "ωω" in note
    taught = adapter.features(examples, tokenizer, PLAN, training=True)
    with pytest.raises(InputError, match="UNK"):
        feature_notes(Split("train", adapter, examples, taught, PLAN), tokenizer, training=True)


def test_questions_that_no_window_answers_are_counted(tokenizer):
    context = "the cat sat on the mat and a dog ran to the house . the cat"
    asked = {"question": "the cat", "context": context}
    examples = [
        Example("here", "0", asked, (("mat", context.index("mat")),)),
        Example("here", "1", asked, ((context[:-4], 0),)),  # longer than a window
    ]
    adapter = adapter_of(TASKS["squad1"])
    taught = adapter.features(examples, tokenizer, PLAN, training=True)
    (note,) = feature_notes(Split("train", adapter, examples, taught, PLAN), tokenizer, training=True)
    assert "1 of 2 questions" in note
    with pytest.raises(InputError, match="max_length"):
        feature_notes(Split("train", adapter, examples[1:], [], PLAN), tokenizer, training=True)


# ------------------------------------------------------------------------------------------- a dev part


def test_a_dev_part_keeps_the_shares_of_labels_and_is_always_the_same():
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10 + ["d"]
    examples = [Example("here", str(n), {"text": f"text {n}"}, label) for n, label in enumerate(labels)]
    adapter = adapter_of(TASKS["text-classification"], ("a", "b", "c", "d"))
    train, dev = split_off_dev(adapter, examples, 0.1, seed=0)
    assert Counter(example.target for example in dev) == {"a": 6, "b": 3, "c": 1}
    assert sorted(map(id, (*train, *dev))) == sorted(map(id, examples))
    assert split_off_dev(adapter, examples, 0.1, seed=0) == (train, dev)
    assert split_off_dev(adapter, examples, 0.1, seed=1)[1] != dev
    with pytest.raises(InputError, match="too few"):
        split_off_dev(adapter, examples[:1])


@pytest.mark.parametrize("task", ["text-classification", "squad1", "regression", "entities"])
def test_equal_texts_and_questions_about_one_context_stay_together(task):
    def example(number):
        words = f"text {number // 4}"
        return {
            "text-classification": Example("here", str(number), {"text": words}, "ab"[number // 4 % 2]),
            "squad1": Example(
                "here", str(number), {"question": f"q {number}", "context": words}, (("text", 0),)
            ),
            "regression": Example("here", str(number), {"text": words}, float(number)),
            "entities": Example("here", str(number), {"tokens": words.split()}, ("B-X", "O")),
        }[task]

    examples = [example(number) for number in range(200)]
    train, dev = split_off_dev(adapter_of(TASKS[task], ("a", "b")), examples)
    assert len(dev) == 20
    texts = [{str(list(each.inputs.values())[-1]) for each in part} for part in (train, dev)]
    assert not texts[0] & texts[1]


# ------------------------------------------------------------------------------------------ questions


CONTEXT = "the cat sat on the mat"


def squad(tmp_path, *questions):
    qas = [{"id": f"q{n}", "question": "who ?", **each} for n, each in enumerate(questions)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]}))
    return path


GOOD = {"answers": [{"text": "cat", "answer_start": 4}]}


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "cat", "answer_start": -1}],
        [{"text": "cat", "answer_start": 2}],
        [{"text": "Cat", "answer_start": 4}],
        [{"text": "cat"}],
        [{"text": "", "answer_start": 0}],
    ],
    ids=str,
)
def test_an_answer_beside_its_place_can_be_scored_and_not_trained_on(answers, tmp_path):
    path = squad(tmp_path, GOOD, {"answers": answers})
    adapter = adapter_of(TASKS["squad1"])
    examples = adapter.read(path)
    assert adapter.score(examples, [{"answer": "cat"}] * 2)["exact"] >= 50
    with pytest.raises(InputError, match="q1"):
        adapter.learn(examples)
    with pytest.raises(InputError, match="q1"):
        adapter.read(path, training=True)
    assert [example.key for example in adapter.read(path, training=True, on_bad_row="skip")] == ["q0"]


@pytest.mark.parametrize(
    "answers",
    [
        *(None, "cat", [None], [7], []),
        *([{"text": "cat", "answer_start": start}] for start in (float("inf"), 4.5, "x", True)),
        *([{"text": None}], {"text": ["a"], "answer_start": []}),
    ],
    ids=str,
)
def test_what_is_no_answer_names_its_question(answers, tmp_path):
    path = squad(tmp_path, GOOD, {"answers": answers})
    with pytest.raises(InputError, match="q1"):
        adapter_of(TASKS["squad1"]).read(path)
    assert len(adapter_of(TASKS["squad1"]).read(path, on_bad_row="skip")) == 1


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "cat", "answer_start": "4"}],
        [{"text": "cat", "answer_start": 4.0}],
        {"text": "cat", "answer_start": 4},
        {"text": ["cat"], "answer_start": [4]},
    ],
    ids=str,
)
def test_answers_in_other_shapes_are_read(answers, tmp_path):
    (example,) = adapter_of(TASKS["squad1"]).read(squad(tmp_path, {"answers": answers}), training=True)
    assert example.target == (("cat", 4),)


def test_impossible_questions_have_no_answer_whatever_the_tool_has_written(tmp_path):
    impossible = [
        {"answers": answers, "is_impossible": True}
        for answers in ([], [{"text": "", "answer_start": -1}], None)
    ]
    examples = adapter_of(TASKS["squad2"]).read(squad(tmp_path, GOOD, *impossible), training=True)
    assert [len(example.target) for example in examples] == [1, 0, 0, 0]


# --------------------------------------------------------------------------------------- finetuning.json


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3),
        ("name", ""),
        ("kind", "nonsense"),
        ("columns", {"text": "a"}),
        ("columns", {"text": "a", "label": 3}),
        ("columns", {"text": "a", "label": "b", "nonsense": "c"}),
        ("columns", {"text": "", "label": "b"}),
        ("metrics", []),
        ("metrics", ["pearson"]),
        ("metrics", "accuracy"),
        ("files", []),
        ("values", {"label": 3}),
        ("skips_broken_rows", 1),
        ("nonsense", 1),
    ],
)
def test_a_task_of_a_model_folder_is_checked_field_by_field(field, value):
    row = json.loads(json.dumps(TASKS["text-classification"].to_dict()))
    with pytest.raises(InputError, match=rf"finetuning\.json: .*{field}"):
        Task.from_dict({**row, field: value}, "finetuning.json")
    if field in ("name", "kind", "columns", "metrics"):
        with pytest.raises(InputError, match=rf"finetuning\.json: .*{field}"):
            Task.from_dict({name: each for name, each in row.items() if name != field}, "finetuning.json")
