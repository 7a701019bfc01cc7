"""Choices get the probabilities that the model gives them in a padded batch of its own."""

import pytest
import torch

import convbert
import tiny
from convbert import InputError

TEXT, CHOICES = "the cat sat", ["on a mat .", "and the dog ran to the house", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tiny.write_model(tmp_path_factory.mktemp("choices"))
    torch.manual_seed(1)
    convbert.ConvBertForMultipleChoice(tiny.config(initializer_range=0.3)).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def pipe(folder):
    return convbert.pipeline("multiple-choice", folder, max_tokens=16)


def test_choices_are_those_of_the_model(pipe, folder):
    model = convbert.ConvBertForMultipleChoice.from_pretrained(folder)
    tokens = pipe.tokenizer([TEXT] * 3, CHOICES, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**{name: x[None] for name, x in tokens.items()}).logits[0].softmax(0)
    found = pipe({"text": TEXT, "choices": CHOICES})
    order = expected.argsort(descending=True).tolist()
    assert [each["index"] for each in found] == order
    assert [each["label"] for each in found] == [CHOICES[index] for index in order]
    torch.testing.assert_close(torch.tensor([each["score"] for each in found]), expected[order])
    others = pipe([{"text": TEXT, "choices": CHOICES}, {"text": TEXT, "choices": CHOICES[:2]}], top_k=1)
    assert [len(each) for each in others] == [1, 1]
    assert others[0] == found[:1]


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (TEXT, "choices"),
        ({"text": TEXT}, "choices"),
        ({"text": TEXT, "choices": ["a"]}, "choices"),
        ({"text": TEXT, "choices": "a cat"}, "choices"),
        ({"text": TEXT, "choices": ["a", 3]}, "int"),
    ],
)
def test_what_is_no_choice_is_named(pipe, record, named):
    with pytest.raises(InputError, match=named):
        pipe(record)
