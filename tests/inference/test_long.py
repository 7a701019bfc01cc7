"""Documents of 10,000 tokens: what the engine says of them is what a plain loop over their windows says."""

import numpy as np
import pytest
import torch

import convbert
import tiny
from convbert import InputError
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.evaluation import FinetunedModel
from convbert.finetuning.prediction import Embedder, Predictor
from convbert.finetuning.readers import Row
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.tasks import TASKS
from convbert.inference.loading import TASKS as MODELS
from convbert.inference.windows import plan_windows

POSITIONS, TOKENS = 128, 10_000
ROOM = POSITIONS - 2
CLS, SEP, MASK = (tiny.WORDS.index(f"[{name}]") for name in ("CLS", "SEP", "MASK"))
LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}}
TAGS = {"id2label": dict(enumerate(["O", "B-X", "I-X", "B-Y", "I-Y"]))}


def words(count, seed=0):
    return np.random.default_rng(seed).choice(tiny.WORDS[5:-1], count).tolist()


DOCUMENT = words(TOKENS)


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {word: index for index, word in enumerate(tiny.WORDS)}
    return convbert.ConvBertTokenizerFast(vocab=vocabulary, model_max_length=POSITIONS)


def model_of(task, **changes):
    torch.manual_seed(0)
    sizes = {"max_position_embeddings": POSITIONS, "initializer_range": 0.3, "vocab_size": len(tiny.WORDS)}
    return MODELS[task].model(tiny.config(**{**sizes, **changes})).eval()


@pytest.fixture
def pipe(tokenizer):
    def build(task, changes=(), **arguments):
        return convbert.pipeline(task, model_of(task, **dict(changes)), tokenizer, **arguments)

    return build


def ids_of(each):
    return [tiny.WORDS.index(word) for word in each]


def shares(ids, room=ROOM):
    """As few windows as hold the ids, equally long."""
    count = -(-len(ids) // room)
    return [ids[len(ids) * n // count : len(ids) * (n + 1) // count] for n in range(count)]


@torch.no_grad()
def ask(model, window, beside=None):
    """What a model says of one window, alone."""
    ids = [CLS, *window, SEP] if beside is None else [CLS, *beside, SEP, *window, SEP]
    types = [0] * (len(ids) if beside is None else len(beside) + 2)
    types += [1] * (len(ids) - len(types))
    return model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))


def close(found, expected):
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), atol=2e-5, rtol=1e-4, check_dtype=False
    )


# ------------------------------------------------------------------------------------------ one answer a text


def mean_logits(model, windows, **beside):
    return torch.stack([ask(model, window, **beside).logits[0] for window in windows]).mean(0)


def test_a_document_is_classified_by_the_mean_of_its_windows(pipe):
    classify = pipe("text-classification", LABELS, top_k=None)
    found, short = classify([" ".join(DOCUMENT), "the cat"])
    expected = mean_logits(classify.model, shares(ids_of(DOCUMENT))).softmax(-1)
    close([each["score"] for each in found], expected.sort(descending=True).values)
    assert (classify.windowed, classify.cut) == (1, 0)
    assert [short] == classify("the cat")


def test_a_number_is_the_mean_of_those_of_the_windows(pipe):
    predict = pipe("text-classification", {"num_labels": 1, "problem_type": "regression"})
    expected = mean_logits(predict.model, shares(ids_of(DOCUMENT)))
    close([predict(" ".join(DOCUMENT))[0]["score"]], expected)


@pytest.mark.parametrize("shorter", [7, 90])
@pytest.mark.parametrize("is_first", [True, False])
def test_of_a_pair_the_longer_text_is_shared_out(is_first, shorter, pipe):
    """The other one is in every window, cut to half of it."""
    classify = pipe("text-classification", LABELS, top_k=None)
    other, long = words(shorter, seed=1), DOCUMENT[:1000]
    texts = (other, long) if is_first else (long, other)
    found = classify(dict(zip(("text", "text_pair"), map(" ".join, texts), strict=True)))
    beside = ids_of(other)[: (POSITIONS - 3) // 2]
    windows = shares(ids_of(long), POSITIONS - 3 - len(beside))
    expected = [
        ask(classify.model, *((window, beside) if is_first else (beside, window))).logits[0]
        for window in windows
    ]
    close(
        [each["score"] for each in found], torch.stack(expected).mean(0).softmax(-1).sort(descending=True)[0]
    )
    assert (classify.windowed, classify.cut) == (1, int(len(beside) < shorter))


def test_a_choice_has_the_mean_of_its_windows(tokenizer):
    model = model_of("multiple-choice", summary_type="first")
    choices, text = [words(3, seed=1), words(9, seed=2)], DOCUMENT[:1000]
    cells = {"text": " ".join(text), "choices": [" ".join(each) for each in choices]}
    predictor, choose = (
        predictor_of("multiple-choice", model, tokenizer),
        convbert.pipeline("multiple-choice", model, tokenizer),
    )
    (found,) = predictor.answer([line(**cells)])
    logits = []
    for choice in choices:
        windows = shares(ids_of(text), POSITIONS - 3 - len(choice))
        logits.append(torch.stack([ask_choice(model, window, ids_of(choice)) for window in windows]).mean())
    expected = torch.stack(logits).softmax(-1)
    close(found["probabilities"], expected)
    close([each["score"] for each in sorted(choose(cells), key=lambda each: each["index"])], expected)
    assert predictor.windowed == choose.windowed == 1


@torch.no_grad()
def ask_choice(model, window, choice):
    ids = [CLS, *window, SEP, *choice, SEP]
    types = [0] * (len(window) + 2) + [1] * (len(choice) + 1)
    return model(input_ids=torch.tensor([[ids]]), token_type_ids=torch.tensor([[types]])).logits[0, 0]


# ------------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("pooling", ["mean", "first", "max"])
def test_a_vector_weights_windows_with_their_tokens(pooling, pipe):
    embed = pipe("feature-extraction", return_tensors=True)
    windows = shares(ids_of(DOCUMENT))
    states = [ask(embed.model, window).last_hidden_state[0] for window in windows]
    if pooling == "max":
        expected = torch.cat(states).amax(0)
    elif pooling == "mean":
        expected = torch.cat(states).mean(0)
    else:
        expected = sum(len(each) * each[0] for each in states) / sum(map(len, states))
    close(embed(" ".join(DOCUMENT), pooling=pooling), expected)
    vector = next(Embedder(embed, pooling, {"text": "text"}).answer([line(text=" ".join(DOCUMENT))]))
    close(vector["embedding"], expected.tolist())


def test_states_are_those_of_the_windows_one_after_the_other(pipe):
    embed = pipe("feature-extraction", return_tensors=True)
    states = [ask(embed.model, window).last_hidden_state[0] for window in shares(ids_of(DOCUMENT))]
    inner = [each[1:-1] for each in states]
    close(embed(" ".join(DOCUMENT))[0], torch.cat([states[0][:1], *inner, states[0][-1:]]))


# ----------------------------------------------------------------------------------------- tags and answers


def test_every_token_of_a_document_is_tagged_once(pipe):
    """By a model that sees nothing but the token itself, so that windows change nothing."""
    tag = pipe("token-classification", {**TAGS, "num_hidden_layers": 0}, ignore_labels=[])
    with torch.no_grad():
        tag.model.convbert.embeddings.position_embeddings.weight.zero_()
    found = tag(" ".join(DOCUMENT))
    alone = {word: tag(word)[0]["entity"] for word in set(DOCUMENT)}
    assert len(set(alone.values())) > 1
    assert [(each["word"], each["entity"]) for each in found] == [(word, alone[word]) for word in DOCUMENT]
    assert tag.windowed == 1


def test_a_word_is_tagged_by_the_window_that_shows_most_around_it(tokenizer):
    model = model_of("token-classification", **TAGS)
    predictor = predictor_of("tagging", model, tokenizer, tuple(TAGS["id2label"].values()))
    (found,) = predictor.answer([line(tokens=DOCUMENT)])
    ids, best = ids_of(DOCUMENT), {}
    for first, last in plan_windows(TOKENS, ROOM, ROOM // 4):
        tags = ask(model, ids[first:last]).logits[0, 1:-1].argmax(-1).tolist()
        for word, number in zip(range(first, last), tags, strict=True):
            context = min(word - first, last - 1 - word)
            if word not in best or context > best[word][0]:
                best[word] = context, TAGS["id2label"][number]
    assert found["answer"] == [best[word][1] for word in range(TOKENS)]


def test_a_question_is_answered_from_any_window(pipe):
    answer = pipe("question-answering")
    asked, stride, longest = ids_of(["cat", "dog"]), 40, 5
    found = answer(
        question="cat dog",
        context=" ".join(DOCUMENT),
        doc_stride=stride,
        max_seq_len=POSITIONS,
        max_answer_len=longest,
    )
    windows = plan_windows(TOKENS, POSITIONS - 5, stride)
    context = np.full(TOKENS, -1.0)
    owner = np.zeros(TOKENS, int)
    for number, (first, last) in enumerate(windows):
        for token in range(first, last):
            value = min(token - first, last - 1 - token) + 0.01 * (last - first)
            if value > context[token]:
                context[token], owner[token] = value, number
    best = (-np.inf, 0, 0)
    for number, (first, last) in enumerate(windows):
        output = ask(answer.model, ids_of(DOCUMENT)[first:last], beside=asked)
        start, end = (logits[0, 4:-1].tolist() for logits in (output.start_logits, output.end_logits))
        for token in range(first, last):
            for until in range(token, min(token + longest, last)) if owner[token] == number else ():
                best = max(best, (start[token - first] + end[until - first], -token, -until))
    bounds = np.cumsum([0, *(len(word) + 1 for word in DOCUMENT)])
    assert (found["start"], found["end"]) == (bounds[-best[1]], bounds[-best[2] + 1] - 1)
    assert answer.windowed == 1


# ---------------------------------------------------------------------------------------------------- masks


def test_a_mask_is_read_in_the_middle_of_a_window(pipe):
    masks = [3, 40, 5000, 5030, TOKENS - 1]  # the first two share a window, and so do the next two
    fill = pipe("fill-mask", top_k=2)
    text = ["[MASK]" if place in masks else word for place, word in enumerate(DOCUMENT)]
    ids = [MASK if place in masks else number for place, number in enumerate(ids_of(DOCUMENT))]
    found = fill(" ".join(text))
    for mask, answers, first in zip(masks, found, [0, 0, 4952, 4952, TOKENS - ROOM], strict=True):
        logits = ask(fill.model, ids[first : first + ROOM]).logits[0, 1 + mask - first]
        scores, tokens = logits.softmax(-1).topk(2)
        assert [each["token"] for each in answers] == tokens.tolist()
        close([each["score"] for each in answers], scores)
    assert found[2][0]["sequence"].count("[MASK]") == len(masks) - 1
    assert (fill.windowed, fill.cut) == (1, 0)


def test_every_mask_of_a_document_is_filled(pipe):
    fill = pipe("fill-mask", top_k=1)
    found = fill(" ".join(["[MASK] cat"] * 90))
    assert len(found) == 90


# ---------------------------------------------------------------------------------------- cut and refused


def line(**cells):
    return Row("the line", cells)


def predictor_of(task, model, tokenizer, labels=(), **plan):
    adapter = adapter_of(TASKS[task], labels)
    return Predictor(
        FinetunedModel("here", model, tokenizer, adapter, FinetuningPlan(max_length=POSITIONS, **plan))
    )


LONG, BEGINNING = " ".join(DOCUMENT[:300]), " ".join(DOCUMENT[:ROOM])
ITEMS = {
    "fill-mask": (f"[MASK] {LONG}", "[MASK] " + " ".join(DOCUMENT[: ROOM - 1])),
    "text-classification": (LONG, BEGINNING),
    "token-classification": (LONG, BEGINNING),
    "feature-extraction": (LONG, BEGINNING),
    "question-answering": tuple(
        {"question": "cat", "context": " ".join(DOCUMENT[:count])} for count in (300, POSITIONS - 4)
    ),
}


@pytest.mark.parametrize("task", ITEMS)
def test_a_long_text_is_cut_or_refused_where_that_is_said(task, pipe):
    long, beginning = ITEMS[task]
    settings = {"max_seq_len": POSITIONS} if task == "question-answering" else {}
    ask = pipe(task, TAGS if task == "token-classification" else (), long="cut", **settings)
    expected, found = ask(beginning, long="refuse"), ask(long)
    if task == "fill-mask":  # and [MASK] is filled in the whole text
        expected, found = ([each["token"] for each in answers] for answers in (expected, found))
    assert found == expected
    assert (ask.windowed, ask.cut) == (0, 1)
    with pytest.raises(InputError, match=f"model reads {POSITIONS}: long=windows"):
        ask(long, long="refuse")
    with pytest.raises(InputError, match="long must be one of windows, cut, refuse; got 'sometimes'"):
        ask(long, long="sometimes")
    refused, answered = ask.stream([long, beginning], long="refuse", on_error="return")
    assert isinstance(refused, InputError)
    assert not isinstance(answered, InputError)


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction", "token-classification"])
def test_truncation_is_a_word_for_cut(task, pipe):
    long, beginning = ITEMS[task]
    ask = pipe(task)
    assert ask(long, truncation=True) == ask(beginning)
    assert ask(long, truncation=False) == ask(long) != ask(beginning)
    assert ask(long, truncation=False, long="cut") == ask(beginning)
    with pytest.raises(InputError, match="truncation=True cuts long texts"):
        ask(long, truncation=True, long="windows")


def test_windows_may_be_shorter_than_the_model_reads(pipe):
    classify = pipe("text-classification", LABELS, top_k=None)
    (found,) = classify(" ".join(DOCUMENT[:100]), max_length=16)
    expected = mean_logits(classify.model, shares(ids_of(DOCUMENT[:100]), 14)).softmax(-1)
    close([each["score"] for each in found], expected.sort(descending=True)[0])


def test_the_slow_tokenizer_gives_the_same_windows(tokenizer):
    slow = convbert.ConvBertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=POSITIONS)
    model = model_of("text-classification", **LABELS)
    pair = {"text": "the cat", "text_pair": " ".join(DOCUMENT[:1000])}
    for item in (" ".join(DOCUMENT[:1000]), pair):
        found, expected = (
            convbert.pipeline("text-classification", model, each)(item) for each in (slow, tokenizer)
        )
        assert found == expected


CELLS = {
    "text-classification": ({"text": LONG}, {"text": BEGINNING}),
    "tagging": ({"tokens": DOCUMENT[:300]}, {"tokens": DOCUMENT[:ROOM]}),
    "question-answering": tuple({**ITEMS["question-answering"][number], "id": "0"} for number in (0, 1)),
}


@pytest.mark.parametrize("task", CELLS)
def test_a_record_is_cut_or_refused_where_the_plan_says_so(task, tokenizer):
    kinds = {"tagging": "token-classification"}
    labels = tuple("abc") if task != "question-answering" else ()
    model = model_of(kinds.get(task, task), num_labels=len(labels) or 2)
    long, beginning = (line(**cells) for cells in CELLS[task])
    cutting, refusing = (
        predictor_of(task, model, tokenizer, labels, long=each) for each in ("cut", "refuse")
    )
    found, expected = (answer["answer"] for answer in cutting.answer([long, beginning]))
    assert found[: len(expected)] == expected
    assert set(found[len(expected) :]) <= {"O"}  # a word that was not read has no tag
    assert (cutting.windowed, cutting.cut) == (0, 1)
    refused, answered = refusing.answer([long, beginning])
    assert "max_length is 128" in str(refused)
    assert answered["answer"] == expected
