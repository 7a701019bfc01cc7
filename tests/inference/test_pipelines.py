"""Pipelines give what transformers' own give for each text alone, whatever the batch; bad input is named."""

import itertools
import json
import math
import types
import warnings

import datasets
import numpy as np
import pandas
import pytest
import torch
import transformers

import convbert
from convbert import InputError
from convbert.files import embedded
from convbert.inference.engine import SORTED_BATCHES, plan_batches
from convbert.inference.spans import Window, best_seen, best_spans
from convbert.inference.windows import plan_windows
from convbert.util.errors import DataWarning

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat dog sat on a mat ran fast ##er ##s . , who where ? and"
POSITIONS = 40
TEXTS = [
    "The cat sat on a [MASK].",
    "[MASK]",
    "Who ran faster, the [MASK] and the dogs and the cats and the dog and the cat and a mat?",
    "a dog ran and a cat [MASK]",
    "a dog ran, a cat sat and who ran faster? the [MASK].",
]
SEVERAL_MASKS = "the [MASK] sat on the [MASK] and ran"
LONG = "the cats sat on a mat, and who ran faster? " * 20
CLASSES = {
    "fill-mask": transformers.ConvBertForMaskedLM,
    "text-classification": transformers.ConvBertForSequenceClassification,
    "token-classification": transformers.ConvBertForTokenClassification,
    "question-answering": transformers.ConvBertForQuestionAnswering,
    "feature-extraction": transformers.ConvBertModel,
}
THEIR_PIPELINES = {
    "fill-mask": transformers.FillMaskPipeline,
    "text-classification": transformers.TextClassificationPipeline,
    "token-classification": transformers.TokenClassificationPipeline,
    "feature-extraction": transformers.FeatureExtractionPipeline,
}


def save_twin(folder, task, **settings):
    """A random model of transformers' own class, with a vocabulary, in a folder."""
    torch.manual_seed(1)
    config = transformers.ConvBertConfig(
        vocab_size=len(WORDS.split()),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        **{"initializer_range": 0.3, **settings},  # answers that differ from text to text
    )
    CLASSES[task](config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(WORDS.split())}
    convbert.ConvBertTokenizerFast(vocabulary, model_max_length=POSITIONS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    settings = {"token-classification": {"id2label": dict(enumerate(["O", "B-X", "I-X", "B-Y", "I-Y"]))}}
    return {
        task: save_twin(tmp_path_factory.mktemp(task), task, **settings.get(task, {})) for task in CLASSES
    }


def theirs(folder, task, **kwargs):
    """transformers' pipeline on transformers' model with transformers' tokenizer."""
    model = CLASSES[task].from_pretrained(folder).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    return THEIR_PIPELINES[task](model=model, tokenizer=tokenizer, task=task, device="cpu", **kwargs)


def assert_same(actual, expected):
    """The same lists, keys, words and types; numbers to rounding."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list):
        assert isinstance(actual, list)
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, (float, np.floating)):
        assert type(actual) is type(expected)
        assert actual == pytest.approx(expected, abs=2e-5)
    else:
        assert actual == expected


# ------------------------------------------------------------------------ the same as transformers

each_budget = pytest.mark.parametrize("max_tokens", [1, 20, 4096])


@each_budget
@pytest.mark.parametrize("kwargs", [{}, {"top_k": 2}, {"targets": ["cat", "dog", "mat"]}], ids=str)
def test_fill_mask(folders, max_tokens, kwargs):
    ours = convbert.pipeline("fill-mask", folders["fill-mask"], max_tokens=max_tokens)
    reference = theirs(folders["fill-mask"], "fill-mask")
    texts = [*TEXTS, SEVERAL_MASKS]
    assert_same(ours(texts, **kwargs), [reference(text, **kwargs) for text in texts])
    assert_same(ours(SEVERAL_MASKS, **kwargs), reference(SEVERAL_MASKS, **kwargs))
    assert_same(ours([TEXTS[0]], **kwargs), reference([TEXTS[0]], **kwargs))


@pytest.mark.parametrize("truncation", [{"truncation": True}, {"tokenizer_kwargs": {"truncation": True}}])
def test_fill_mask_cuts_a_long_text_when_asked(folders, truncation):
    text = "the [MASK] and " + LONG
    ours = convbert.pipeline("fill-mask", folders["fill-mask"])
    reference = theirs(folders["fill-mask"], "fill-mask", tokenizer_kwargs={"truncation": True})
    assert_same(ours(text, **truncation), reference(text))


@each_budget
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"top_k": None},
        {"top_k": 1},
        {"function_to_apply": "sigmoid"},
        {"truncation": True, "padding": True},
    ],
    ids=str,
)
def test_text_classification(folders, max_tokens, kwargs):
    ours = convbert.pipeline("sentiment-analysis", folders["text-classification"], max_tokens=max_tokens)
    reference = theirs(folders["text-classification"], "text-classification")
    items = [*TEXTS, "", {"text": TEXTS[0], "text_pair": TEXTS[2]}]
    assert_same(ours(items, **kwargs), reference(items, **kwargs))
    assert_same(ours(TEXTS[0], **kwargs), reference(TEXTS[0], **kwargs))


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
def test_text_classification_of_other_problems(tmp_path, problem_type):
    save_twin(tmp_path, "text-classification", problem_type=problem_type)
    ours = convbert.pipeline("text-classification", tmp_path, top_k=None)
    assert_same(ours(TEXTS), theirs(tmp_path, "text-classification", top_k=None)(TEXTS))


@each_budget
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification(folders, max_tokens, strategy):
    kwargs = {"aggregation_strategy": strategy}
    ours = convbert.pipeline("ner", folders["token-classification"], max_tokens=max_tokens, **kwargs)
    reference = theirs(folders["token-classification"], "token-classification", **kwargs)
    texts = [*TEXTS, ""]
    found = ours(texts)
    assert_same(found, [reference(text) for text in texts])
    assert any(found)
    assert_same(ours(texts[0], ignore_labels=[]), reference(texts[0], ignore_labels=[]))


def test_token_classification_of_long_texts_and_of_words(folders):
    ours = convbert.pipeline("ner", folders["token-classification"], aggregation_strategy="simple")
    reference = theirs(folders["token-classification"], "token-classification", aggregation_strategy="simple")
    # Windows that all are full: transformers pads the last one, and its convolution reads the padding.
    room = POSITIONS - 2
    text = " ".join(itertools.islice(itertools.cycle(["the", "cat", "sat"]), room + 6 * (room - 5)))
    found = ours([text, TEXTS[0]], stride=5)
    assert_same(found, [reference(text, stride=5), reference(TEXTS[0], stride=5)])
    assert found[0][-1]["end"] > len(text) - 30
    assert all(text[item["start"] : item["end"]] == item["word"] for item in found[0])
    assert_same(ours(LONG, truncation=True), reference(LONG))  # which always cuts
    words = ["the", "cats", "ran", "faster"]
    assert_same(ours(words, is_split_into_words=True), reference(words, is_split_into_words=True))


class TestEntitiesOfAnyScheme:
    """Labels of models from elsewhere; the groups are those that `convbert predict` gives."""

    TEXT = "the cat sat on the mat"

    def entities(self, folder, labels, tags, **kwargs):
        """What a model says that gives these tags to the words."""
        save_twin(folder, "token-classification", id2label=dict(enumerate(labels)))
        ner = convbert.pipeline("ner", folder, **{"aggregation_strategy": "simple", **kwargs})
        words, wanted = self.TEXT.split(), iter(tags)

        def forward(input_ids, **_):
            tokens = ner.tokenizer.convert_ids_to_tokens(input_ids[0])
            rows = [labels.index(next(wanted)) if token in words else 0 for token in tokens]
            logits = 9 * torch.nn.functional.one_hot(torch.tensor(rows), len(labels)).float()
            return types.SimpleNamespace(logits=logits[None])

        ner.model.forward = forward
        return [(found["entity_group"], found["word"]) for found in ner(self.TEXT)]

    @pytest.mark.parametrize(
        ("labels", "tags", "expected"),
        [
            ("O B-X I-X B-Y", "B-X I-X B-X O B-Y I-X", "X: the cat; X: sat; Y: the; X: mat"),
            ("O B-X I-X L-X U-X", "B-X L-X B-X I-X L-X U-X", "X: the cat; X: sat on the; X: mat"),
            ("O B-X I-X E-X S-X", "S-X S-X B-X E-X O I-X", "X: the; X: cat; X: sat on; X: mat"),
            ("O B-X M-X E-X S-X", "S-X B-X M-X E-X S-X O", "X: the; X: cat sat on; X: the"),
            ("O B_X I_X B_Y I_Y", "B_X I_X B_X O B_Y I_Y", "X: the cat; X: sat; Y: the mat"),
            ("O X-B X-I Y-B Y-I", "X-B X-I X-B O Y-B Y-I", "X: the cat; X: sat; Y: the mat"),
            ("O B I", "B I B O O I", "ENTITY: the cat; ENTITY: sat; ENTITY: mat"),
            ("O X Y Z", "X X Y O X Z", "X: the cat; Y: sat; X: the; Z: mat"),
            ("LABEL_0 LABEL_1", "LABEL_1 LABEL_1 " * 3, "LABEL_1: the cat sat on the mat"),
            ("N V I DET", "DET N V I DET N", "DET: the; N: cat; V: sat; I: on; DET: the; N: mat"),
        ],
        ids=[
            "bio",
            "bilou",
            "iobes",
            "bmes",
            "underscores",
            "behind",
            "untyped",
            "bare",
            "numbered",
            "parts of speech",
        ],
    )
    def test_groups(self, labels, tags, expected, tmp_path):
        found = self.entities(tmp_path, labels.split(), tags.split())
        assert "; ".join(f"{kind}: {words}" for kind, words in found) == expected

    def test_what_is_outside(self, tmp_path):
        found = self.entities(
            tmp_path, ["O", "B-X", "L-X"], ["B-X", "L-X", "O", "O", "B-X", "O"], ignore_labels=["X"]
        )
        assert found == [("O", "sat on"), ("O", "mat")]


def test_a_piece_is_of_the_word_before_it_whatever_marks_were_stripped(folders):
    ner = convbert.pipeline("ner", folders["token-classification"], ignore_labels=[])
    for strategy in ("first", "average", "max"):
        plain, marked = (
            ner(text, aggregation_strategy=strategy) for text in ("the cat sat", "the ca\u0301t sa\u0300t")
        )
        assert [(x["entity_group"], round(x["score"], 6)) for x in marked] == [
            (x["entity_group"], round(x["score"], 6)) for x in plain
        ]


class TestFormsOfInput:
    """All at once, in whatever holds them; what old programs call them."""

    @pytest.mark.parametrize(
        "form", [tuple, np.array, pandas.Series, lambda texts: datasets.Dataset.from_dict({"x": texts})["x"]]
    )
    def test_texts(self, form, folders):
        classify = convbert.pipeline("text-classification", folders["text-classification"])
        assert_same(classify(form(TEXTS)), classify(TEXTS))

    def test_questions(self, folders):
        answer = convbert.pipeline("question-answering", folders["question-answering"])
        asked, contexts = "who ran?", ["the cat sat on a mat", "a dog ran"]
        expected = [answer(question=asked, context=context) for context in contexts]
        assert_same(answer(question=asked, context=contexts), expected)
        assert_same(answer(question=(asked, asked), context=np.array(contexts)), expected)
        rows = [{"question": asked, "context": context} for context in contexts]
        assert_same(answer(data=rows), expected)
        assert_same(answer(X=rows), expected)
        assert_same(answer(datasets.Dataset.from_list(rows)), expected)
        assert_same(answer(asked, contexts[1]), expected[1])

    def test_whole_numbers_of_numpy(self, folders):
        fill = convbert.pipeline("fill-mask", folders["fill-mask"])
        assert_same(fill(TEXTS[0], top_k=np.int64(3)), fill(TEXTS[0], top_k=3))


@pytest.mark.parametrize(("target", "is_said"), [("xyz", True), ("cats", True), ("Cat", False)])
def test_a_target_that_is_no_token_is_said(target, is_said, folders):
    fill = convbert.pipeline("fill-mask", folders["fill-mask"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = fill(TEXTS[0], targets=[target, "dog"])
    assert len(found) == 2
    said = [str(each.message) for each in said if each.category is DataWarning]
    assert bool(said) == is_said
    assert all(target in message for message in said)


@pytest.mark.parametrize("task", ["token-classification", "question-answering"])
def test_a_tokenizer_without_offsets_is_refused(task, folders):
    slow = convbert.ConvBertTokenizer(vocab={word: number for number, word in enumerate(WORDS.split())})
    model = convbert.load(folders[task], task)
    text = {"question": "who?", "context": "the cat"} if task == "question-answering" else "the cat"
    with pytest.raises(InputError, match="ConvBertTokenizerFast"):
        convbert.pipeline(task, model, tokenizer=slow)(text)


def test_a_text_without_a_mask_is_not_counted(folders):
    fill = convbert.pipeline("fill-mask", folders["fill-mask"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(fill.stream(["\u4e00\u4e01 \u4e02", "the cat [MASK]"], on_error="return"))
    assert isinstance(found[0], InputError)
    assert fill.unknown.unknown == 0


@each_budget
def test_feature_extraction(folders, max_tokens):
    ours = convbert.pipeline("feature-extraction", folders["feature-extraction"], max_tokens=max_tokens)
    reference = theirs(folders["feature-extraction"], "feature-extraction")
    assert_same(ours(TEXTS), [reference(text) for text in TEXTS])
    tensor = ours(TEXTS[0], return_tensors=True)
    torch.testing.assert_close(tensor, reference(TEXTS[0], return_tensors=True), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [("mean", lambda x: x.mean(0)), ("first", lambda x: x[0]), ("max", lambda x: x.amax(0))],
)
def test_pooling_is_over_the_text_itself(folders, pooling, pool):
    pipe = convbert.pipeline("feature-extraction", folders["feature-extraction"], pooling=pooling)
    vectors = pipe(TEXTS, return_tensors=True)
    for vector, states in zip(vectors, pipe(TEXTS, return_tensors=True, pooling=None), strict=True):
        torch.testing.assert_close(vector, pool(states[0]))
    assert np.shape(pipe(TEXTS)) == (len(TEXTS), 32)


def test_what_is_said_on_creation_holds_until_a_call_says_otherwise(folders):
    pipe = convbert.pipeline("fill-mask", folders["fill-mask"], top_k=2, targets=["cat", "dog"])
    assert [len(pipe(TEXTS[0])), len(pipe(TEXTS[0], top_k=1)), len(pipe(TEXTS[0]))] == [2, 1, 2]
    assert len(pipe(TEXTS[0], targets="mat")) == 1


# ----------------------------------------------------------------------------- question answering

QUESTION = "Who sat on the mat?"
CONTEXT = "The DOGS  ran, and the cats sat on a mat. Where?"


def their_logits(folder, question, context):
    """Start and end logits of transformers' model, and its tokens' places in the context (None elsewhere)."""
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = [
        tuple(pair) if sequence == 1 else None
        for pair, sequence in zip(
            encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids(0), strict=True
        )
    ]
    model = CLASSES["question-answering"].from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**encoded)
    return outputs.start_logits[0], outputs.end_logits[0], offsets


def answers_by_hand(folder, question, context, longest):
    """Every span of tokens as transformers 4 scored it, best first."""
    start, end, offsets = their_logits(folder, question, context)
    allowed = [0] + [index for index, place in enumerate(offsets) if place is not None]
    start_probability = dict(zip(allowed, start[allowed].softmax(0).tolist(), strict=True))
    end_probability = dict(zip(allowed, end[allowed].softmax(0).tolist(), strict=True))
    spans = [
        {
            "score": start_probability[first] * end_probability[last],
            "start": offsets[first][0],
            "end": offsets[last][1],
            "answer": context[offsets[first][0] : offsets[last][1]],
        }
        for first, last in itertools.product(allowed[1:], repeat=2)
        if first <= last < first + longest
    ]
    no_answer = {"score": start_probability[0] * end_probability[0], "start": 0, "end": 0, "answer": ""}
    return sorted(spans, key=lambda span: -span["score"]), no_answer


@pytest.mark.parametrize("longest", [1, 3, 15])
def test_answers_are_the_best_spans(folders, longest):
    folder = folders["question-answering"]
    pipe = convbert.pipeline("question-answering", folder, align_to_words=False, max_answer_len=longest)
    expected, no_answer = answers_by_hand(folder, QUESTION, CONTEXT, longest)
    asked = {"question": QUESTION, "context": CONTEXT}
    assert_same(pipe(**asked), expected[0])
    assert_same(pipe(asked, top_k=5), expected[:5])
    with_none = sorted([*expected, no_answer], key=lambda span: -span["score"])
    assert_same(pipe(asked, top_k=500, handle_impossible_answer=True), with_none)
    assert sum(span["score"] for span in pipe(asked, top_k=500, handle_impossible_answer=True)) <= 1


def test_answers_are_whole_words_of_the_callers_text(folders):
    pipe = convbert.pipeline("question-answering", folders["question-answering"], top_k=500)
    answers = pipe(question=QUESTION, context=CONTEXT)
    edges = {0, 4, 10, 15, 19, 23, 28, 32, 35, 37, 42}  # where a word of CONTEXT starts
    assert all(answer["start"] in edges | {13, 40, 47} for answer in answers)  # or punctuation
    assert all(answer["answer"] == CONTEXT[answer["start"] : answer["end"]] for answer in answers)
    assert len({(answer["start"], answer["end"]) for answer in answers}) == len(answers)
    assert "DOGS  ran" in [answer["answer"] for answer in answers]


def test_many_questions_in_all_forms(folders):
    pipe = convbert.pipeline("question-answering", folders["question-answering"], max_tokens=60)
    pairs = [{"question": QUESTION, "context": text} for text in (CONTEXT, LONG, "a cat")]
    alone = [pipe(pair) for pair in pairs]
    assert_same(pipe(pairs), alone)
    assert_same(list(pipe.stream(iter(pairs))), alone)
    assert_same(pipe(question=[QUESTION] * 3, context=[pair["context"] for pair in pairs]), alone)
    assert_same(pipe(question=[QUESTION, "where?"], context=CONTEXT)[0], alone[0])


def test_an_answer_far_into_a_long_context_is_found(folders):
    """A model that is certain about one word finds it in whatever window the word is."""
    pipe = convbert.pipeline("question-answering", folders["question-answering"])
    wanted = pipe.tokenizer.convert_tokens_to_ids("fast")

    def certain(input_ids, **_):
        logits = (input_ids == wanted).float() * 20
        return transformers.modeling_outputs.QuestionAnsweringModelOutput(
            start_logits=logits, end_logits=logits
        )

    pipe.model.forward = certain
    context = "the cat sat on a mat. " * 30 + "who ran fast? " + "a dog sat. " * 30
    answer = pipe(question=QUESTION, context=context, doc_stride=4, max_seq_len=30)
    assert answer["answer"] == "fast"
    assert answer["start"] == context.index("fast")
    assert answer["score"] > 0.99
    del pipe.model.forward


def test_windows_cover_the_text_and_overlap():
    assert plan_windows(5, 8, 2) == [(0, 5)]
    assert plan_windows(10, 4, 1) == [(0, 4), (3, 7), (6, 10)]
    assert plan_windows(11, 4, 0) == [(0, 4), (4, 8), (8, 11)]


def window(first, start, end, no=(-9.0, -9.0)):
    return Window(first, first + len(start), np.array(start, float), np.array(end, float), *no)


def test_a_token_is_judged_where_it_has_most_context():
    windows = [window(0, [0] * 6, [0] * 6), window(3, [0] * 6, [0] * 6)]
    assert best_seen(windows).tolist() == [0] * 5 + [1] * 4
    # Token 5 starts the best span, but only in the window where nothing follows it.
    windows = [window(0, [0, 0, 0, 0, 0, 9], [0] * 6), window(3, [0, 1, 2, 0, 0, 0], [0, 0, 5, 0, 0, 0])]
    logit, first, last = next(best_spans(windows, 3))
    assert (logit, first, last) == (7.0, 5, 5)
    assert all(last - first < 3 for _, first, last in best_spans(windows, 3))
    assert len(list(best_spans(windows, 1))) == 9


# --------------------------------------------------------------------------- batches and streams


def test_batches_are_sorted_and_within_the_budget():
    assert plan_batches([5, 1, 9, 2, 20], max_tokens=10) == [[1, 3, 0], [2], [4]]
    assert plan_batches([1, 1, 1], max_tokens=10, max_texts=2) == [[0, 1], [2]]
    assert plan_batches([], max_tokens=10) == []


def count_calls(pipe):
    """Texts in each call of the model, in a list that fills up."""
    sizes = []
    pipe.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["cu_seq_lens_q"]) - 1), with_kwargs=True
    )
    return sizes


def test_texts_share_a_batch(folders):
    pipe = convbert.pipeline("fill-mask", folders["fill-mask"])
    sizes = count_calls(pipe)
    pipe(TEXTS * 4)
    assert sizes == [20]
    pipe(TEXTS, batch_size=2)
    assert sizes[1:] == [2, 2, 1]


def test_a_stream_reads_ahead_a_bounded_number_of_texts(folders):
    pipe = convbert.pipeline("fill-mask", folders["fill-mask"], max_tokens=60)
    read = itertools.count()
    endless = (f"the {'cat ' * (next(read) % 3)}[MASK]" for _ in itertools.count())
    results = pipe.stream(endless, top_k=1)
    assert next(results)[0]["sequence"].startswith("the")
    assert next(read) <= 60 / 4 + 1  # the first result waits for one batch
    for _ in range(300):
        next(results)
    assert next(read) <= 301 + (SORTED_BATCHES + 1) * 60 / 4


def test_lazy_inputs_give_lazy_results(folders, tmp_path):
    pipe = convbert.pipeline("fill-mask", folders["fill-mask"])
    expected = pipe(TEXTS)
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(TEXTS))
    with lines.open() as file:
        assert_same(list(pipe(file)), expected)
    assert_same(list(pipe(map(str, TEXTS))), expected)
    assert list(pipe.stream([])) == pipe([]) == []


def test_a_bad_text_in_a_stream_is_named_after_the_results_before_it(folders):
    pipe = convbert.pipeline("fill-mask", folders["fill-mask"])
    results = pipe.stream([TEXTS[0], TEXTS[1], "the cat", TEXTS[2]])
    assert len([next(results), next(results)]) == 2
    with pytest.raises(InputError, match=r"text 3: there is no \[MASK\] in the text 'the cat'"):
        next(results)


# ---------------------------------------------------------------------------- models and folders


def test_a_model_and_a_tokenizer_instead_of_folders(folders):
    model = convbert.ConvBertForMaskedLM.from_pretrained(folders["fill-mask"])
    expected = convbert.pipeline("fill-mask", folders["fill-mask"])(TEXTS)
    assert_same(convbert.pipeline("fill-mask", model)(TEXTS), expected)  # the tokenizer beside it
    slow = convbert.ConvBertTokenizer.from_pretrained(folders["fill-mask"])
    assert_same(convbert.pipeline("fill-mask", model.train(), slow)(TEXTS), expected)
    assert model.training


@pytest.mark.filterwarnings("ignore::convbert.util.errors.SlowerWarning")
@pytest.mark.parametrize("task", CLASSES)
def test_every_task_runs_in_every_precision(tmp_path, task, monkeypatch):
    monkeypatch.setattr("convbert.model.frozen.SMALLEST_INT8_LAYER", 0)
    save_twin(tmp_path, task, initializer_range=0.1)
    options = {"pooling": "mean"} if task == "feature-extraction" else {}
    if task == "token-classification":
        options = {"ignore_labels": []}
    found = {}
    for precision in ("fp32", "bf16", "int8"):
        pipe = convbert.pipeline(task, tmp_path, precision=precision, **options)
        items = [{"question": QUESTION, "context": CONTEXT}] if task == "question-answering" else TEXTS
        found[precision] = numbers_of(pipe(items))
        assert bool(pipe.model.base_model.encoder.freezer.num_int8) == (precision == "int8")
    for precision in ("bf16", "int8"):
        error = np.linalg.norm(found[precision] - found["fp32"])
        assert 0 < error < 0.05 * np.linalg.norm(found["fp32"])


def numbers_of(found):
    """The scores, or the vectors."""
    if isinstance(found, dict):
        return np.array([found["score"]])
    if isinstance(found, list):
        return np.concatenate([numbers_of(item) for item in found])
    return np.array([found])


def test_a_model_that_is_there_keeps_its_precision(folders):
    model = convbert.load(folders["fill-mask"], precision="fp32")
    assert convbert.pipeline("fill-mask", model).model is model
    with pytest.raises(InputError, match=r"precision is for loading: .* convbert.load"):
        convbert.pipeline("fill-mask", model, precision="bf16")


def test_words_of_transformers_pipeline_are_understood(folders):
    folder = folders["fill-mask"]
    found = convbert.pipeline("fill-mask", folder, dtype=torch.bfloat16, device_map="auto").model
    assert found.dtype == torch.bfloat16
    assert (
        convbert.pipeline("fill-mask", folder, torch_dtype="float32", device_map="cpu").model.dtype
        == torch.float32
    )
    with pytest.warns(UserWarning, match="trust_remote_code has no effect"):
        convbert.pipeline("fill-mask", folder, trust_remote_code=True)
    with pytest.raises(InputError, match=r"dtype .* 'float16'"):
        convbert.pipeline("fill-mask", folder, dtype=torch.float16)


def test_half_precision_runs_in_single_on_a_cpu(folders, tmp_path):
    source = folders["fill-mask"]
    convbert.ConvBertForMaskedLM.from_pretrained(source).half().save_pretrained(tmp_path)
    convbert.ConvBertTokenizer.from_pretrained(source).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    model = convbert.pipeline("fill-mask", tmp_path, device="cpu").model
    assert model.dtype == model.config.dtype == torch.float32


def test_the_embedded_model_is_the_default(folders, monkeypatch):
    monkeypatch.setattr(embedded, "folder", lambda *_: folders["fill-mask"])
    assert len(convbert.pipeline("fill-mask")("the [MASK]")) == 5
    assert np.shape(convbert.pipeline("feature-extraction")("the cat")) == (1, 4, 32)
    for task in ("ner", "text-classification", "question-answering"):
        with pytest.raises(InputError, match="was fine-tuned for it"):
            convbert.pipeline(task)


def test_a_package_without_its_model_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded.resources, "files", lambda _: tmp_path)
    with pytest.raises(InputError, match="has no embedded model"):
        embedded.folder()


def test_it_prints_as_transformers_pipelines_do(folders):
    assert "ConvBertForMaskedLM" in repr(convbert.pipeline("fill-mask", folders["fill-mask"]))


# -------------------------------------------------------------------------------------- bad input

PIPE_ERRORS = [
    ("fill-mask", "the cat", {}, r"no \[MASK\] in the text 'the cat'"),
    ("fill-mask", "  ", {}, "the text is empty"),
    ("fill-mask", 3, {}, "a text must be a string, got int: '3'"),
    (
        "fill-mask",
        "the [MASK] " + LONG,
        {"long": "refuse"},
        r"284 tokens long and the model reads 40: long=windows",
    ),
    ("fill-mask", LONG + "[MASK]", {"truncation": True}, r"\[MASK\] is behind the cut"),
    ("fill-mask", "[MASK]", {"top_k": 0}, "top_k must be 1 to 22"),
    ("fill-mask", "[MASK]", {"targets": []}, "targets is empty"),
    ("text-classification", LONG, {"long": "refuse"}, "tokens long and the model reads 40"),
    ("text-classification", {"premise": "a"}, {}, r"got the keys \['premise'\]"),
    ("text-classification", "a cat", {"function_to_apply": "tanh"}, "function_to_apply .* got 'tanh'"),
    ("token-classification", LONG, {"long": "refuse"}, "282 tokens long and the model reads 40"),
    ("token-classification", LONG, {"stride": 38}, "below the 38 tokens of a window, got 38"),
    ("token-classification", "a cat", {"aggregation_strategy": "sum"}, "must be one of none, .* got 'sum'"),
    ("feature-extraction", LONG, {"long": "refuse"}, "tokens long and the model reads 40"),
    ("feature-extraction", "a cat", {"pooling": "median"}, "pooling must be None, mean, .* got 'median'"),
    ("question-answering", "a cat", {}, "give {'question': ..., 'context': ...}, got str"),
    ("question-answering", {"question": "who?"}, {}, "no context"),
    ("question-answering", {"question": " ", "context": "a cat"}, {}, "the question is empty"),
    ("question-answering", {"question": "who?", "context": "a"}, {"max_seq_len": 41}, r"max_seq_len \(41\)"),
    ("question-answering", {"question": "who?", "context": "a"}, {"doc_stride": 40}, r"doc_stride \(40\)"),
    ("question-answering", {"question": "who?", "context": "a"}, {"top_k": 0}, "top_k must be at least 1"),
]


@pytest.mark.parametrize(("task", "item", "kwargs", "message"), PIPE_ERRORS, ids=lambda x: str(x)[:30])
def test_bad_texts_and_arguments_are_named(folders, task, item, kwargs, message):
    pipe = convbert.pipeline(task, folders[task])
    with pytest.raises(InputError, match=message):
        pipe(item, **kwargs)


def test_a_folder_that_was_not_trained_for_the_task_is_refused(folders):
    with pytest.raises(InputError, match=r"not trained for token-classification: .* classifier"):
        convbert.pipeline("ner", folders["fill-mask"])
    with pytest.raises(InputError, match="not trained for fill-mask"):
        convbert.pipeline("fill-mask", folders["feature-extraction"])


def test_bad_choices_are_named(folders):
    with pytest.raises(InputError, match="no task 'translation'; there are fill-mask"):
        convbert.pipeline("translation")
    with pytest.raises(InputError, match="no pipeline for replaced-token-detection; there are fill-mask"):
        convbert.pipeline("replaced-token-detection", folders["fill-mask"])
    with pytest.raises(InputError, match="max_tokens must be at least 1"):
        convbert.pipeline("fill-mask", folders["fill-mask"], max_tokens=0)
    with pytest.raises(InputError, match="device 'abacus' cannot be used"):
        convbert.pipeline("fill-mask", folders["fill-mask"], device="abacus")
    model = convbert.ConvBertForMaskedLM(convbert.ConvBertConfig.small(num_hidden_layers=0, vocab_size=9))
    with pytest.raises(InputError, match="give tokenizer="):
        convbert.pipeline("fill-mask", model)
    with pytest.raises(InputError, match="22 tokens and the model's vocab_size is 9"):
        convbert.pipeline("fill-mask", model, folders["fill-mask"])
    with pytest.raises(InputError, match="runs a ConvBertForTokenClassification, got a ConvBertForMaskedLM"):
        convbert.pipeline("ner", model, folders["fill-mask"])


def damage_nothing_there(folder):
    return folder / "absent"


def damage_no_weights(folder):
    (folder / "model.safetensors").unlink()


def damage_truncated(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_no_configuration(folder):
    (folder / "config.json").unlink()


def damage_configuration(folder):
    (folder / "config.json").write_text("{")


def damage_contradiction(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "conv_kernel_size": 4}))


def damage_other_sizes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))


def damage_no_vocabulary(folder):
    (folder / "tokenizer.json").unlink()


def damage_vocabulary(folder):
    (folder / "tokenizer.json").write_text("[PAD]")


class Bomb:
    def __reduce__(self):
        return (math.log, (0,))


def damage_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"convbert.embeddings.word_embeddings.weight": Bomb()}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    "damage",
    [value for name, value in globals().items() if name.startswith("damage_")],
    ids=lambda x: x.__name__,
)
def test_damaged_folders_are_named(tmp_path, damage):
    folder = save_twin(tmp_path, "fill-mask")
    folder = damage(folder) or folder
    with pytest.raises(InputError, match=str(tmp_path)):
        convbert.pipeline("fill-mask", folder)


def test_a_data_set_by_number_ends_where_its_length_says(folders):
    class Twice:
        def __len__(self):
            return 2

        def __getitem__(self, number):
            return {0: "the cat sat .", 1: "a dog ran ."}[number]

    pipe = convbert.pipeline("feature-extraction", folders["fill-mask"], pooling="mean")
    assert list(pipe(Twice())) == pipe(["the cat sat .", "a dog ran ."])


def test_cut_texts_are_counted(folders):
    for task in ("feature-extraction", "token-classification"):
        pipe = convbert.pipeline(task, folders["fill-mask" if task.startswith("feature") else task])
        pipe(["the cat sat .", LONG, LONG], truncation=True)
        assert pipe.cut == 2


# ------------------------------------------------------------------------------- names of arguments

ITEMS = {
    **dict.fromkeys(CLASSES, "the [MASK] sat ."),
    "question-answering": {"question": "who?", "context": "a cat"},
}


@pytest.mark.parametrize("task", CLASSES)
def test_an_argument_that_a_pipeline_does_not_have_is_named(folders, task):
    pipe = convbert.pipeline(task, folders[task])
    for wrong in ({"max_lenght": 1}, {"no_such_thing": True}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            pipe(ITEMS[task], **wrong)
        with pytest.raises(InputError, match=next(iter(wrong))):
            pipe.stream([ITEMS[task]], **wrong)
        with pytest.raises(InputError, match=next(iter(wrong))):
            convbert.pipeline(task, folders[task], **wrong)
    with pytest.raises(InputError, match="'a dog'"):
        pipe(ITEMS[task], "a dog")
    for value in (0, True, "3", 1.5):
        with pytest.raises(InputError, match="batch_size"):
            pipe(ITEMS[task], batch_size=value)


@pytest.mark.parametrize("task", CLASSES)
def test_arguments_without_effect_are_taken(folders, task):
    plain = convbert.pipeline(task, folders[task])(ITEMS[task])
    pipe = convbert.pipeline(task, folders[task], framework="pt", num_workers=2, padding=True)
    assert_same(pipe(ITEMS[task], num_workers=3, batch_size=2), plain)
    with pytest.raises(InputError, match="framework"):
        convbert.pipeline(task, folders[task], framework="tf")


@pytest.mark.parametrize("task", ["fill-mask", "text-classification", "feature-extraction"])
def test_arguments_of_the_tokenizer_are_the_same_everywhere(folders, task):
    pipe, text = convbert.pipeline(task, folders[task]), "the [MASK] sat on a mat"
    cut = pipe("the [MASK] sat")
    for given in (
        {"max_length": 5, "truncation": True},
        {"tokenizer_kwargs": {"max_length": 5, "truncation": True}},
    ):
        assert_same(pipe(text, **given), cut)
    assert pipe.cut == 2
    for wrong in ({"max_lenght": 5}, {"return_tensors": "np"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            pipe(text, tokenizer_kwargs=wrong)
    for name, value in (("max_length", 2), ("max_length", 41), ("max_length", "5"), ("truncation", "some")):
        with pytest.raises(InputError, match=name):
            pipe(text, **{name: value})


def test_old_names_do_what_they_did(folders):
    classify = convbert.pipeline("text-classification", folders["text-classification"])
    every = classify("a cat", return_all_scores=True)[0]
    assert [found["label"] for found in every] == list(classify.model.config.id2label.values())
    assert sorted(every, key=lambda found: -found["score"]) == classify("a cat", top_k=None)
    assert classify(["a cat"], return_all_scores=False) == classify(["a cat"])
    fill = convbert.pipeline("fill-mask", folders["fill-mask"])
    assert fill("a [MASK]", topk=2) == fill("a [MASK]", top_k=2)
    tag = convbert.pipeline("ner", folders["token-classification"])
    for old, new in (
        ({"grouped_entities": True}, "simple"),
        ({"grouped_entities": True, "ignore_subwords": True}, "first"),
        ({"grouped_entities": False}, "none"),
    ):
        assert_same(tag(TEXTS[4], **old), tag(TEXTS[4], aggregation_strategy=new))
    ask = convbert.pipeline("question-answering", folders["question-answering"])
    question = {"question": "who ran?", "context": "a dog ran and a cat sat"}
    assert ask(question, topk=2) == ask(question, top_k=2)


# ------------------------------------------------------------------- what is unknown, what is broken


@pytest.mark.parametrize("task", CLASSES)
def test_unknown_words_are_said_once(folders, task):
    pipe = convbert.pipeline(task, folders[task])
    strange = (
        {"question": "who?", "context": "хороший фильм"} if task == "question-answering" else "хороший [MASK]"
    )
    with pytest.warns(DataWarning, match="UNK.*хороший"):
        pipe([strange, strange])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(strange)
        convbert.pipeline(task, folders[task])([ITEMS[task]] * 3)
    assert (pipe.unknown.unknown, pipe.unknown.tokens) == (
        (6, 12) if task == "question-answering" else (3, 3)
    )


@pytest.mark.parametrize("task", CLASSES)
def test_an_answer_that_is_not_a_number_is_an_error(tmp_path, task):
    pipe = convbert.pipeline(task, save_twin(tmp_path, task))
    item = ITEMS[task]
    with torch.no_grad():  # in the place of a token that only a longer text has
        pipe.model.base_model.embeddings.position_embeddings.weight[12] = float("nan")
    long = "[MASK] a dog" + " ran" * 20
    broken = {"question": "who?", "context": long} if task == "question-answering" else long
    good = pipe(item)
    with pytest.raises(InputError, match="NaN"):
        pipe(broken)
    with pytest.raises(InputError, match=r"text 2: .*NaN"):
        pipe([item, broken, item])
    first, second, third = pipe.stream([item, broken, item], on_error="return")
    assert isinstance(second, InputError)
    assert_same([first, third], pipe([item, item]))
    assert_same(pipe(item), good)


@pytest.mark.parametrize("task", CLASSES)
def test_a_stream_may_go_on_after_a_bad_text(folders, task):
    pipe = convbert.pipeline(task, folders[task], max_tokens=20)
    item = ITEMS[task]
    given = [3, item, None, *[item] * 40, {}, item]
    found = list(pipe.stream(given, on_error="return"))
    assert [isinstance(answer, InputError) for answer in found] == [thing is not item for thing in given]
    assert_same([answer for answer in found if not isinstance(answer, InputError)], pipe([item] * 42))
    with pytest.raises(InputError, match="on_error"):
        pipe.stream(given, on_error="skip")
