"""From rows to tokens and back, for each kind of task."""

import json

import numpy as np
import pytest
import torch

import tiny
from convbert import (
    ConvBertForMultipleChoice,
    ConvBertForQuestionAnswering,
    ConvBertForSequenceClassification,
    ConvBertForTokenClassification,
    ConvBertTokenizerFast,
    InputError,
)
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.adapters.question_answering import apply_threshold, tune_threshold
from convbert.finetuning.adapters.tagging import share_words, split_text
from convbert.finetuning.baseline import has_collapsed, is_constant
from convbert.finetuning.data import Example, Split
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.mistakes import how_wrong
from convbert.finetuning.notes import feature_notes
from convbert.finetuning.prediction import Predictor, record_of
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import TASKS, find_task
from convbert.inference.windows import plan_windows
from labelled import write_objects

PLAN = FinetuningPlan(max_length=16, stride=4, max_question_length=4, max_answer_length=5)


@pytest.fixture(scope="module")
def tokenizer():
    return ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})


def write_squad(path, questions):
    qas = [
        {"id": f"q{n}", "question": q, "answers": [{"text": t, "answer_start": s} for t, s in a]}
        for n, (q, a) in enumerate(questions)
    ]
    context = "the cat sat on the mat and the dog ran to the house and a cat ran to a dog ."
    path.write_text(
        json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}), encoding="utf-8"
    )
    return path


def test_labels_have_the_names_and_the_order_of_the_task(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("good\t1\nbad\t0\n")
    adapter = adapter_of(TASKS["sst2"])
    examples = adapter.read(path)
    adapter.learn(examples)
    assert [example.target for example in examples] == ["positive", "negative"]
    assert adapter.config_changes()["id2label"] == {0: "negative", 1: "positive"}


def test_discovered_labels_are_ordered_as_numbers_or_words(tmp_path):
    def labels(*names):
        rows = [{"text": "cat", "label": name} for name in names]
        adapter = adapter_of(TASKS["text-classification"])
        adapter.learn(adapter.read(write_objects(tmp_path / "a.jsonl", rows)))
        return adapter.labels

    assert labels(10, 9, 2) == ("2", "9", "10")
    assert labels("b", "a", "a") == ("a", "b")
    assert labels("1.0", "2", "01", "1") == ("01", "1", "2")
    assert labels(1, 1.0, 0.0, 2.5) == ("0", "1", "2.5")
    with pytest.raises(InputError, match="line 2: label is empty"):
        labels(1, float("nan"))


@pytest.mark.parametrize("order", [("not_equivalent", "equivalent"), ("equivalent", "not_equivalent")])
def test_the_f1_of_a_task_is_that_of_its_own_second_label(order):
    examples = [Example("here", str(n), {}, "equivalent") for n in range(3)]
    answers = [{"answer": label} for label in ("equivalent", "equivalent", "not_equivalent")]
    assert adapter_of(TASKS["mrpc"], order).score(examples, answers)["positive_f1"] == pytest.approx(0.8)


def test_pairs_are_read_in_both_orders_in_training_alone(tmp_path, tokenizer):
    rows = [{"sentence1": "the cat", "sentence2": "a dog ran", "score": 1.0}]
    adapter = adapter_of(TASKS["stsb"])
    examples = adapter.read(write_objects(tmp_path / "a.jsonl", [*rows, {**rows[0], "score": 3.0}]))
    adapter.learn(examples)
    plan = PLAN.override(both_orders=True)
    one, _, swapped, _ = adapter.features(examples, tokenizer, plan, training=True)
    assert tokenizer.decode(one.input_ids) == "[CLS] the cat [SEP] a dog ran [SEP]"
    assert tokenizer.decode(swapped.input_ids) == "[CLS] a dog ran [SEP] the cat [SEP]"
    assert swapped.token_type_ids == [0] * 5 + [1] * 3
    assert one.target == swapped.target == -1.0  # one standard deviation below the mean
    assert len(adapter.features(examples, tokenizer, plan)) == 2


def test_several_labels(tmp_path, tokenizer):
    rows = [{"text": "cat", "labels": "b, a"}, {"text": "dog", "labels": []}, {"text": "a", "labels": ["c"]}]
    adapter = adapter_of(TASKS["multi-label-classification"])
    examples = adapter.read(write_objects(tmp_path / "a.jsonl", rows))
    adapter.learn(examples)
    targets = [feature.target for feature in adapter.features(examples, tokenizer, PLAN, training=True)]
    assert targets == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    logits = [np.array([3.0, -1.0, 0.1])] * 3
    assert adapter.predict(examples, adapter.features(examples, tokenizer, PLAN), logits, PLAN)[0][
        "answer"
    ] == ["a", "c"]


# -------------------------------------------------------------------------------------------- tagging


def test_a_tag_stands_at_the_first_piece_of_its_word(tokenizer):
    example = Example("here", "0", {"tokens": ["the", "cats", "\u200d", "ran"]}, ("O", "B-X", "I-X", "O"))
    adapter = adapter_of(TASKS["entities"], ("B-X", "I-X", "O"))
    (feature,) = adapter.features([example], tokenizer, PLAN, training=True)
    # A zero-width joiner leaves no piece: an unknown word keeps its place.
    assert tokenizer.convert_ids_to_tokens(feature.input_ids)[1:-1] == ["the", "cat", "##s", "[UNK]", "ran"]
    assert feature.target == [-100, 2, 0, -100, 1, 2, -100]


@pytest.mark.parametrize("count", [1, 13, 14, 15, 40, 100])
def test_long_sentences_are_read_in_windows_and_no_word_is_lost_or_twice(count, tokenizer):
    words = [("cats", "dog", "ran")[number % 3] for number in range(count)]
    tags = tuple(("B-X", "I-X", "O")[number % 3] for number in range(count))
    adapter = adapter_of(TASKS["entities"], ("B-X", "I-X", "O"))
    example = Example("here", "0", {"tokens": words}, tags)
    features = adapter.features([example], tokenizer, PLAN, training=True)
    assert max(feature.length for feature in features) <= PLAN.max_length
    labelled = [target for feature in features for target in feature.target if target != -100]
    assert len(labelled) == count
    # A model that says what it was taught gives the sentence's own tags back.
    outputs = [np.array([[max(t, 0), 1.0] for t in feature.target]) for feature in features]
    (prediction,) = adapter.predict([example], features, outputs, PLAN)
    assert tuple(prediction["answer"]) == tags


@pytest.mark.parametrize(
    ("labels", "answer"),
    [
        ("O B-X I-X", "O B-X I-X O B-X"),
        ("O B-X I-X L-X U-X", "O B-X L-X O U-X"),
        ("O B_X I_X", "O B_X I_X O B_X"),
        ("O X-B X-I", "O X-B X-I O X-B"),
        ("O B I", "O B I O B"),
        ("O X", "O X X O X"),
    ],
)
def test_a_model_with_labels_of_any_scheme_is_scored_and_gives_entities(labels, answer, tmp_path):
    """Its answers mean the same spans as the gold tags, whose file may have another scheme."""
    name = "ENTITY" if labels == "O B I" else "X"
    adapter = adapter_of(TASKS["entities"], tuple(labels.split()))
    path = tmp_path / "a.conll"
    tags = f"O B-{name} E-{name} O S-{name}".split()
    path.write_text("".join(f"word {tag}\n" for tag in tags))
    examples = adapter.read(path)
    adapter.check(examples)
    prediction = {"answer": answer.split(), "scores": [1.0] * 5}
    scores = adapter.score(examples, [prediction])
    assert scores["entity_f1"] == scores["accuracy"] == scores[f"entity_f1_{name}"] == 1
    assert how_wrong(adapter, examples[0], prediction) == 0
    entities = record_of(adapter, examples[0], prediction)["entities"]
    assert [(each["type"], each["first"], each["last"]) for each in entities] == [(name, 1, 2), (name, 4, 4)]


def test_a_type_that_the_model_does_not_know_is_named():
    adapter = adapter_of(TASKS["entities"], ("B-X", "L-X", "O"))
    with pytest.raises(InputError, match="'Y' is unknown; there are X"):
        adapter.check([Example("here", "0", {"tokens": ["a"]}, ("B-Y",))])


def test_other_tags_have_accuracy_and_f1():
    adapter = adapter_of(TASKS["tagging"], ("DET", "NOUN", "VERB"))
    examples = [Example("here", "0", {"tokens": list("abcd")}, ("DET", "NOUN", "NOUN", "VERB"))]
    scores = adapter.score(examples, [{"answer": ["DET", "NOUN", "VERB", "VERB"]}])
    assert scores["accuracy"] == 0.75
    assert scores["f1_NOUN"] == scores["f1_VERB"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert next(iter(scores)) == "accuracy"


def test_windows_move_on():
    with pytest.raises(InputError, match="windows of 2 tokens cannot share 2 with their neighbours"):
        plan_windows(5, 2, 2)


def test_a_word_belongs_to_the_window_that_sees_most_around_it():
    first, second = share_words(range(10), [(0, 6), (4, 10)])
    assert [word for word, _ in first] == [0, 1, 2, 3, 4]
    assert second == [(5, 2), (6, 3), (7, 4), (8, 5), (9, 6)]  # after [CLS]


# ---------------------------------------------------------------------------------- choices, questions


def test_choices_are_read_beside_the_text(tmp_path, tokenizer):
    row = {
        "premise": "the cat ran",
        "choice1": "a dog sat",
        "choice2": "a mat",
        "question": "cause",
        "label": 1,
    }
    adapter = adapter_of(find_task("copa"))
    examples = adapter.read(write_objects(tmp_path / "a.jsonl", [row]))
    (feature,) = adapter.features(examples, tokenizer, PLAN, training=True)
    assert examples[0].inputs["prefix"] == "because"
    assert [tokenizer.decode(ids) for ids in feature.input_ids] == [
        "[CLS] the cat ran [SEP] [UNK] a dog sat [SEP]",
        "[CLS] the cat ran [SEP] [UNK] a mat [SEP]",
    ]
    batch = adapter.collate([feature, feature], 0)
    assert batch["input_ids"].shape == (2, 2, 10)
    assert batch["labels"].tolist() == [1, 1]
    assert batch["attention_mask"].sum().item() == 2 * feature.length


def test_the_number_of_a_choice_may_come_from_a_column_with_gaps(tmp_path):
    rows = [{"text": "a", "choices": ["a", "b"], "label": label} for label in (1.0, float("nan"))]
    adapter = adapter_of(TASKS["multiple-choice"])
    assert adapter.read(write_objects(tmp_path / "a.jsonl", rows[:1]))[0].target == 1
    with pytest.raises(InputError, match="line 2: label must be the number of a choice, 0 to 1, got nan"):
        adapter.read(write_objects(tmp_path / "a.jsonl", rows))


def test_every_line_may_have_its_own_number_of_choices(tokenizer):
    torch.manual_seed(0)
    model = ConvBertForMultipleChoice(tiny.config(summary_type="first")).eval()
    adapter = adapter_of(TASKS["multiple-choice"])
    predictor = Predictor(FinetunedModel("here", model, tokenizer, adapter, PLAN))
    lines = [json.dumps({"text": "the cat", "choices": ["sat", "ran", "a dog"][:n]}) for n in (2, 3, 1, 2)]
    found = list(predictor.answer(lines))
    assert isinstance(found[2], InputError)
    assert [len(answer["probabilities"]) for answer in found if isinstance(answer, dict)] == [2, 3, 2]
    alone = next(predictor.answer(lines[:1]))
    assert found[0]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_answers_are_found_again_in_every_window(tmp_path, tokenizer):
    """A model that is sure of the right tokens gives the answer's own text back, wherever it stands."""
    asked = [("the cat", [("mat", 19)]), ("a", [("the house and a", 42)]), ("to", [(".", 75)])]
    adapter = adapter_of(TASKS["squad1"])
    examples = adapter.read(write_squad(tmp_path / "a.json", asked))
    taught = adapter.features(examples, tokenizer, PLAN, training=True)
    assert {feature.example for feature in taught} == {0, 1, 2}
    for feature in taught:
        start, end = feature.target
        said = tokenizer.decode(feature.input_ids[start : end + 1])
        assert said == examples[feature.example].target[0][0]
    windows = adapter.features(examples, tokenizer, PLAN)
    assert len(windows) > len(examples)
    outputs = [np.full((window.length, 2), -5.0) for window in windows]
    for feature in taught:
        number = next(
            n for n, w in enumerate(windows) if (w.example, w.detail) == (feature.example, feature.detail)
        )
        outputs[number][feature.target[0], 0] = outputs[number][feature.target[1], 1] = 5.0
    predictions = adapter.predict(examples, windows, outputs, PLAN)
    assert [prediction["answer"] for prediction in predictions] == ["mat", "the house and a", "."]
    # Nothing is left of "." without punctuation: version 1.1 calls that exact, and gives it no F1.
    assert adapter.score(examples, predictions) == pytest.approx({"f1": 200 / 3, "exact": 100})


def test_the_best_answers_are_listed_as_in_squad(tmp_path, tokenizer):
    """For questions that may have none, the empty answer is among them."""
    path = write_squad(tmp_path / "a.json", [("the cat", [("mat", 19)])])
    for task, has_empty in (("squad1", False), ("squad2", True)):
        adapter = adapter_of(TASKS[task])
        examples = adapter.read(path)
        windows = adapter.features(examples, tokenizer, PLAN)
        random = np.random.default_rng(0)
        outputs = [random.normal(size=(window.length, 2)) for window in windows]
        (prediction,) = adapter.predict(examples, windows, outputs, PLAN)
        n_best = prediction["n_best"]
        logits = [each["start_logit"] + each["end_logit"] for each in n_best]
        assert {tuple(each) for each in n_best} == {("text", "probability", "start_logit", "end_logit")}
        assert logits == sorted(logits, reverse=True)
        starts, ends = np.concatenate(outputs).T
        assert {each["start_logit"] for each in n_best} <= set(starts)
        assert all(np.abs(ends - each["end_logit"]).min() < 1e-9 for each in n_best)
        empty = [each for each in n_best if each["text"] == ""]
        assert len(empty) == has_empty
        for each in empty:
            best = prediction["null_odds"] - each["start_logit"] - each["end_logit"]
            assert -best == pytest.approx(max(set(logits) - {each["start_logit"] + each["end_logit"]}))


def test_windows_without_the_answer_say_so_only_where_that_is_an_answer(tmp_path, tokenizer):
    path = write_squad(tmp_path / "a.json", [("the cat", [("mat", 19)]), ("a dog", [])])
    strict, lenient = adapter_of(TASKS["squad1"]), adapter_of(TASKS["squad2"])
    examples = lenient.read(path)
    found = lenient.features(examples, tokenizer, PLAN, training=True)
    assert {feature.target for feature in found if feature.example == 1} == {(0, 0)}
    assert (0, 0) in {feature.target for feature in found if feature.example == 0}
    assert (0, 0) not in {f.target for f in strict.features(examples[:1], tokenizer, PLAN, training=True)}
    with pytest.raises(InputError, match="has no answer"):
        strict.learn(examples)


def test_every_question_has_a_name_of_its_own(tmp_path):
    """An empty one is none."""
    path = tmp_path / "a.jsonl"
    adapter = adapter_of(TASKS["squad1"])
    row = {"question": "a", "context": "the cat", "answers": [{"text": "cat", "answer_start": 4}]}
    examples = adapter.read(write_objects(path, [{**row, "id": ""}, {**row, "id": ""}]))
    assert adapter.score(examples, [{"answer": "dog"}, {"answer": "cat"}])["exact"] == 50
    with pytest.raises(InputError, match="line 2: the id 'q' occurs twice"):
        adapter.read(write_objects(path, [{**row, "id": "q"}, {**row, "id": "q"}]))


# ------------------------------------------------------------------------------------------- lists as text


def test_lists_in_csv_are_json(tmp_path):
    def first(task, columns, text):
        path = tmp_path / "a.csv"
        path.write_text(text)
        return adapter_of(find_task(task, columns)).read(path)[0]

    tagged = first("entities", {}, 'tokens,tags\n"[""a"", ""cat""]","[""O"", ""B-X""]"\n')
    assert (tagged.inputs["tokens"], tagged.target) == (["a", "cat"], ("O", "B-X"))
    columns = {"question": "q", "context": "c", "answers": "a", "id": "n"}
    asked = first(
        "question-answering",
        columns,
        'n,q,c,a\nx7,who ?,the cat,"{""text"": [""cat""], ""answer_start"": [4]}"\n',
    )
    assert (asked.key, asked.target) == ("x7", (("cat", 4),))
    chosen = first("multiple-choice", {"choices": "o"}, 'text,o,label\nit,"[""ran"", ""sat""]",1\n')
    assert chosen.inputs["choices"] == ["ran", "sat"]
    labelled = first("multi-label-classification", {}, 'text,labels\nit,"[""a, b"", ""c""]"\n')
    assert labelled.target == ("a, b", "c")


# ------------------------------------------------------------------------------------------------- cuts


@pytest.mark.parametrize(
    ("task", "inputs", "said"),
    [
        ("sst2", {"text": "cat " * 14}, ""),  # [CLS] and [SEP] beside it: exactly 16 tokens
        ("sst2", {"text": "cat " * 15}, "windows"),
        ("cb", {"text": "cat", "text_pair": "dog " * 13}, "windows"),
        ("cb", {"text": "cat " * 7, "text_pair": "dog " * 13}, "cut windows"),
        ("multiple-choice", {"text": "cat", "choices": ["dog", "dog " * 12]}, ""),
        ("multiple-choice", {"text": "cat " * 20, "choices": ["dog", "dog " * 5]}, "windows"),
        ("multiple-choice", {"text": "cat", "choices": ["dog", "dog " * 13]}, "windows"),
        ("squad1", {"question": "cat " * 4, "context": "dog " * 40}, "windows"),
        ("squad1", {"question": "cat " * 5, "context": "dog"}, "cut"),
        ("tagging", {"tokens": ["cat"] * 40}, "windows"),
    ],
)
@pytest.mark.parametrize("long", ["windows", "cut"])
def test_only_what_is_really_too_long_is_counted(long, task, inputs, said, tokenizer):
    adapter, plan = adapter_of(TASKS[task]), PLAN.override(long=long)
    examples = [Example("here", "0", inputs), Example("here", "1", {**inputs})]
    features = adapter.features(examples, tokenizer, plan)
    notes = feature_notes(Split("dev", adapter, examples, features, plan), tokenizer)
    notes = [note for note in notes if "[UNK]" not in note]
    expected = said.split() if long == "windows" else ["cut"] * bool(said)
    assert [note.rpartition(" ")[2] for note in notes] == expected
    assert all(note.startswith("dev: 2 of 2 texts are longer than max_") for note in notes)


# ------------------------------------------------------------------------------------ collapsed, or right


@pytest.mark.parametrize(
    ("task", "answers", "constant"),
    [
        ("tagging", [["A", "B"], ["B", "A"]], False),
        ("tagging", [["A", "B"], ["A", "B"]], False),
        ("tagging", [["A", "A"], ["A"]], True),
        ("sst2", ["positive", "positive"], True),
        ("sst2", ["positive", "negative"], False),
        ("multi-label-classification", [["a", "b"], ["a", "b"]], True),
        ("regression", [float("nan"), 2.0], True),
        ("regression", [2.5, 2.5 + 1e-6], True),
        ("regression", [2.5, 2.6], False),
    ],
)
def test_a_constant_answer(task, answers, constant):
    assert is_constant(adapter_of(TASKS[task]), answers) == constant


def test_a_perfect_answer_has_not_collapsed(tokenizer):
    def collapsed(task, target, answer):
        examples = [Example("here", str(n), {}, target) for n in range(3)]
        split = Split("dev", adapter_of(TASKS[task]), examples, [], PLAN)
        return has_collapsed(split, [{"answer": answer}] * 3)

    assert not collapsed("multiple-choice", 0, 0)  # the right choice may always stand first
    assert not collapsed("tagging", ("A", "B"), ["A", "B"])


# ------------------------------------------------------------------------------------------- "no answer"


def answered(odds, targets):
    """Questions of which every best span is right, where there is an answer."""
    examples = [
        Example("here", str(n), {}, (("cat", 4),) if has_answer else ())
        for n, has_answer in enumerate(targets)
    ]
    predictions = [{"answer": "", "best_span": "cat", "null_odds": value} for value in odds]
    return examples, predictions


@pytest.mark.parametrize(
    ("odds", "targets", "lowest", "highest"),
    [
        ([-3.0, 1.0, 2.0, 5.0], [True, True, True, False], 2.0, 5.0),
        ([-3.0, -2.0, 1.0], [True, False, False], -3.0, -2.0),
        ([1.0, 2.0], [True, True], 2.0, 10.0),
        ([1.0, 2.0], [False, False], -10.0, 1.0),
    ],
)
def test_the_threshold_of_the_dev_data_decides(odds, targets, lowest, highest):
    adapter = adapter_of(TASKS["squad2"])
    examples, predictions = answered(odds, targets)
    plan = tune_threshold(adapter.task, PLAN, examples, predictions)
    assert lowest < plan.no_answer_threshold < highest
    apply_threshold(adapter.task, predictions, plan)
    assert [bool(prediction["answer"]) for prediction in predictions] == targets
    assert adapter.score(examples, predictions)["f1"] == 100


def test_other_questions_have_no_threshold():
    examples, predictions = answered([3.0], [True])
    assert tune_threshold(TASKS["squad1"], PLAN, examples, predictions) == PLAN


def test_missing_answers_are_not_taken_for_no_answer(tmp_path):
    rows = [{"question": "a", "context": "cat", "answers": []}, {"question": "a", "context": "cat"}]
    adapter = adapter_of(TASKS["squad2"])
    with pytest.raises(InputError, match="line 2: answers must be"):
        adapter.read(write_objects(tmp_path / "a.jsonl", rows))


# ------------------------------------------------------------------------------------- lines for `predict`


def predictor(task, model_class, tokenizer, plan=PLAN, labels=(), columns=None):
    torch.manual_seed(0)
    adapter = adapter_of(find_task(task, columns), labels)
    changes = {"num_labels": 2, **adapter.config_changes()}
    return Predictor(
        FinetunedModel("here", model_class(tiny.config(**changes)).eval(), tokenizer, adapter, plan)
    )


def test_a_text_is_split_as_the_tokenizer_reads_it(tokenizer):
    """Entities are found again in the text by their characters."""
    adapter = adapter_of(TASKS["entities"], ("B-X", "I-X", "O"))
    text = "The cat's  mat, \u6211\u7231."
    inputs = split_text(text, tokenizer)
    words = ["The", "cat", "'", "s", "mat", ",", "\u6211", "\u7231", "."]
    assert inputs["tokens"] == words == [text[start:end] for start, end in inputs["offsets"]]
    tags = ["O", "B-X", "I-X", "I-X", "I-X", "O", "B-X", "O", "O"]
    record = record_of(adapter, Example("here", "", inputs), {"answer": tags})
    assert record["entities"] == [
        {"type": "X", "text": "cat's  mat", "first": 1, "last": 4, "start": 4, "end": 14},
        {"type": "X", "text": "\u6211", "first": 6, "last": 6, "start": 16, "end": 17},
    ]
    given = record_of(adapter, Example("here", "", {"tokens": words}), {"answer": tags})
    assert given["entities"][0] == {"type": "X", "text": "cat ' s mat", "first": 1, "last": 4}


def test_a_plain_text_is_tagged_and_an_id_stays_what_it_is(tokenizer):
    found = predictor("entities", ConvBertForTokenClassification, tokenizer, labels=("B-X", "I-X", "O"))
    lines = ["the cats ran", '{"text": "the cat", "id": 7}', '{"tokens": ["cat"], "id": null}', "\u200d"]
    split, numbered, null, empty = found.answer(lines)
    assert (split["tokens"], "id" in split) == (["the", "cats", "ran"], False)
    assert (numbered["id"], null["id"]) == (7, None)
    assert "there is no word in the text" in str(empty)


def test_a_line_that_cannot_be_used_stops_no_other(tokenizer):
    found = predictor("sst2", ConvBertForSequenceClassification, tokenizer, labels=("negative", "positive"))
    lines = [
        "the cat",
        '{"text": "a \\ud800 b"}',
        '{"text": ' + "[" * 100_000,
        '{"text": 3}',
        "the dog " * 20,
    ]
    answers = list(found.answer(lines))
    assert [isinstance(answer, InputError) for answer in answers] == [False, True, True, True, False]
    assert found.windowed == 1


def test_a_question_without_room_stops_no_other(tokenizer):
    plan = FinetuningPlan(max_length=16)
    found = predictor("squad1", ConvBertForQuestionAnswering, tokenizer, plan)
    questions = ["a cat"] * 7
    questions[3] = "cat " * 20
    lines = [json.dumps({"question": question, "context": "the cat sat"}) for question in questions]
    answers = list(found.answer([*lines, "a text alone"]))
    errors = {n: str(answer) for n, answer in enumerate(answers) if isinstance(answer, InputError)}
    assert set(errors) == {3, 7}
    assert "leaves no room" in errors[3]
    assert "there is no question; there are text" in errors[7]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ("options", {"text": "it", "options": ["ran", "sat"]}),
        ("options", {"text": "it", "choices": ["ran", "sat"]}),
        ("one,two", {"text": "it", "one": "ran", "two": "sat"}),
        ("one,two", {"text": "it", "choices": ["ran", "sat", "a cat"]}),
    ],
)
def test_choices_are_read_by_their_columns_or_their_role(columns, line, tokenizer):
    found = predictor("multiple-choice", ConvBertForMultipleChoice, tokenizer, columns={"choices": columns})
    (answer,) = found.answer([json.dumps(line)])
    assert answer["answer"] in (0, 1, 2), answer
