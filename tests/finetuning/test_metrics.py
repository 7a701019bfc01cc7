"""Scores agree with scikit-learn, scipy and seqeval, on random and hand-made cases."""

import random

import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import seqeval.scheme
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from convbert.finetuning import metrics
from convbert.inference.tags import as_bio, entity_spans, read_scheme

LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30)


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=25, deadline=None)
@given(LABELS)
def test_classification_scores_equal_scikit_learn(pairs):
    gold, answers = zip(*pairs, strict=True)
    assert metrics.accuracy(gold, answers) == pytest.approx(sklearn.metrics.accuracy_score(gold, answers))
    expected = sklearn.metrics.precision_recall_fscore_support(gold, answers, labels=["b"], zero_division=0)[
        2
    ][0]
    assert metrics.positive_f1(gold, answers, "b") == pytest.approx(expected)
    assert metrics.matthews(gold, answers) == pytest.approx(sklearn.metrics.matthews_corrcoef(gold, answers))
    # scikit-learn's table of each label's F1, and their mean by hand.
    table = sklearn.metrics.classification_report(gold, answers, output_dict=True, zero_division=0)
    each = [table[label]["f1-score"] for label in {*gold, *answers}]
    assert metrics.macro_f1(gold, answers) == pytest.approx(sum(each) / len(each))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=20))
def test_mean_squared_error_equals_scikit_learn(pairs):
    gold, answers = zip(*pairs, strict=True)
    expected = sklearn.metrics.mean_squared_error(gold, answers)
    assert metrics.mean_squared_error(gold, answers) == pytest.approx(expected, abs=1e-9)


def test_matthews_by_hand():
    """3 true positives, 2 true negatives, 1 false positive, 1 false negative."""
    gold, answers = [1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 0, 0, 1, 0]
    assert metrics.matthews(gold, answers) == pytest.approx((3 * 2 - 1 * 1) / (4 * 4 * 3 * 3) ** 0.5)
    assert metrics.matthews(gold, [1] * 7) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=40))
def test_correlations_equal_scipy_and_numpy(pairs):
    gold, answers = map(list, zip(*pairs, strict=True))
    if len(set(gold)) == 1 or len(set(answers)) == 1:
        assert metrics.pearson(gold, answers) == metrics.spearman(gold, answers) == 0
        return
    assert metrics.pearson(gold, answers) == pytest.approx(np.corrcoef(gold, answers)[0, 1], abs=1e-9)
    ranks = [scipy.stats.rankdata(values) for values in (gold, answers)]
    assert metrics.spearman(gold, answers) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcd"))), min_size=1, max_size=20
    )
)
def test_micro_f1_equals_scikit_learn(pairs):
    gold, answers = zip(*pairs, strict=True)
    as_columns = [[[name in row for name in "abcd"] for row in rows] for rows in (gold, answers)]
    expected = sklearn.metrics.f1_score(*as_columns, average="micro", zero_division=0)
    assert metrics.micro_f1(gold, answers) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(10))
def test_entity_f1_equals_seqeval(seed):
    """Also on rows that no annotator would write: an I after O, or of another type."""
    dice = random.Random(seed)
    tags = ("O", "O", "B-X", "I-X", "B-Y", "I-Y")
    rows = [[dice.choices(tags, k=dice.randint(1, 12)) for _ in range(40)] for _ in range(2)]
    rows[1] = [
        answer[: len(gold)] + ["O"] * (len(gold) - len(answer)) for gold, answer in zip(*rows, strict=True)
    ]
    spans = ([entity_spans(row) for row in part] for part in rows)
    assert metrics.micro_f1(*spans) == pytest.approx(seqeval.metrics.f1_score(*rows))


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["B-X", "I-X", "B-X", "O", "I-Y"], {("X", 0, 1), ("X", 2, 2), ("Y", 4, 4)}),
        (["I-X", "I-Y", "I-Y"], {("X", 0, 0), ("Y", 1, 2)}),
        (["O", "O"], set()),
        (["B-a-b", "I-a-b"], {("a-b", 0, 1)}),
    ],
)
def test_spans_by_hand(tags, spans):
    assert entity_spans(tags) == spans


WRITTEN = {  # scheme: inside of a span, its first, its last, alone
    "IOB2": ("I-{}", "B-{}", "I-{}", "B-{}"),
    "IOBES": ("I-{}", "B-{}", "E-{}", "S-{}"),
    "BILOU": ("I-{}", "B-{}", "L-{}", "U-{}"),
    "IOE2": ("I-{}", "I-{}", "E-{}", "E-{}"),
    "BMES": ("M-{}", "B-{}", "E-{}", "S-{}"),
    "underscore": ("I_{}", "B_{}", "I_{}", "B_{}"),
    "suffix": ("{}-I", "{}-B", "{}-I", "{}-B"),
    "lower case": ("i-{}", "b-{}", "i-{}", "b-{}"),
}


def random_spans(dice, length):
    """Spans with a gap or a neighbour between them."""
    spans, place = set(), 0
    while place < length:
        end = min(length, place + dice.randint(1, 3))
        if dice.random() < 0.5:
            spans.add((dice.choice(["PER", "LOC-X"]), place, end - 1))
        place = end
    return spans


def written(spans, length, forms):
    inside, first, last, alone = forms
    tags = ["o" if first == "b-{}" else "O"] * length
    for name, start, end in spans:
        for place in range(start, end + 1):
            form = alone if start == end else first if place == start else last if place == end else inside
            tags[place] = form.format(name)
    return tags


@pytest.mark.parametrize("scheme", WRITTEN)
def test_every_scheme_means_the_same_spans(scheme):
    dice = random.Random(0)
    spans = [random_spans(dice, 12) for _ in range(50)]
    rows = [written(each, 12, WRITTEN[scheme]) for each in spans]
    found = read_scheme(tag for row in rows for tag in row)
    assert found.unknown == ()
    assert [entity_spans(row, found.parts) for row in rows] == spans
    assert [entity_spans(as_bio(row, found.parts)) for row in rows] == spans
    assert bool(found.note) == (scheme != "IOB2")


@pytest.mark.parametrize("scheme", ["IOB2", "IOBES", "BILOU", "IOE2"])
def test_entity_f1_equals_seqeval_in_its_schemes(scheme):
    dice = random.Random(1)
    parts = [[written(random_spans(dice, 12), 12, WRITTEN[scheme]) for _ in range(40)] for _ in range(2)]
    spans = ([entity_spans(row, read_scheme(row).parts) for row in rows] for rows in parts)
    expected = seqeval.metrics.f1_score(*parts, mode="strict", scheme=getattr(seqeval.scheme, scheme))
    assert metrics.micro_f1(*spans) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "expected", "name"),
    [
        ("I-X I-X O I-Y B-Y", "B-X I-X O B-Y B-Y", "BIO"),  # IOB1: B only between neighbours of one type
        ("B-X I-X O B-Y", "B-X I-X O B-Y", "BIO"),
        ("S-X B-Y I-Y E-Y", "B-X B-Y I-Y I-Y", "IOBES"),
        ("S-X I-X O", "B-X B-X O", "IOBES"),  # an S ends
        ("O B I O B", "O B-ENTITY I-ENTITY O B-ENTITY", "BIO"),
        ("B L U O", "B-ENTITY I-ENTITY B-ENTITY O", "BILOU"),
        ("I-X I-X O I-Y", "B-X I-X O B-Y", "IO"),
        ("O PER PER LOC", "O B-PER I-PER B-LOC", "IO"),
        ("O B-X X X O X", "O B-X I-X I-X O O", "BIO"),  # X: more pieces of a word
        ("B-PER-PART I-PER-PART", "B-PER-PART I-PER-PART", "BIO"),
    ],
)
def test_every_scheme_becomes_bio(given, expected, name):
    scheme = read_scheme(given.split())
    assert " ".join(as_bio(given.split(), scheme.parts)) == expected
    assert scheme.name == name


@pytest.mark.parametrize("tags", ["NOUN VERB", "B-X O PER", "DET O-X"])
def test_tags_of_no_scheme_are_named(tags):
    assert read_scheme(tags.split(), may_be_bare=False).unknown
