"""The engine: answers in order whatever the batch, errors in their places, batches halved where memory ends."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from convbert import (
    ConvBertForSequenceClassification,
    ConvBertModel,
    ConvBertTokenizerFast,
    InputError,
    pipeline,
)
from convbert.inference.engine import AnswerTask, Engine, Tokens
from convbert.inference.loading import unwrap


class Counter(nn.Module):
    """A model of one weight; it remembers how many texts came in each batch."""

    def __init__(self, room: int = 1000) -> None:
        super().__init__()
        self.weight, self.room, self.batches = nn.Parameter(torch.ones(1)), room, []

    def forward(self, packed):
        lengths = packed["cu_seq_lens_q"].diff().long()
        if packed["input_ids"].shape[1] > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        self.batches.append(len(lengths))
        assert not torch.is_grad_enabled()
        assert not self.training
        return {
            "sum": torch.segment_reduce(packed["input_ids"][0].float(), "sum", lengths=lengths)
        }, lengths * 0 + 1


def engine_of(model: nn.Module, **options) -> Engine:
    def encode(record):
        if not isinstance(record, list):
            raise InputError(f"{record} is no list")
        return [Tokens(record, [0] * len(record))]

    return Engine(
        model, AnswerTask(encode, model, lambda record, texts, rows: rows[0]["sum"].item()), **options
    )


def test_answers_come_in_order_from_sorted_batches():
    model = Counter().train()
    records = [[1] * length for length in (5, 1, 9, 2, 20)]
    assert list(engine_of(model, max_tokens=10).answer(records)) == [5, 1, 9, 2, 20]
    assert model.training
    assert max(model.batches) == 2
    assert list(engine_of(model).answer([])) == []


def test_an_error_has_its_place():
    engine = engine_of(Counter())
    first, second, third = engine.answer([[1], "text", [2]], on_error="return")
    assert (first, third) == (1, 2)
    assert isinstance(second, InputError)
    answers = engine.answer([[1], "text", [2]])
    assert next(answers) == 1
    with pytest.raises(InputError, match="text 2"):
        next(answers)


def test_a_batch_that_does_not_fit_is_halved_until_one_is_to_blame():
    model = Counter(room=6)
    found = list(engine_of(model).answer([[1] * 3, [1] * 9, [1] * 3, [1]], on_error="return"))
    assert [found[0], found[2], found[3]] == [3, 3, 1]
    assert "memory" in str(found[1])


def test_other_errors_are_not_hidden():
    def broken(packed):
        raise RuntimeError("a bug")

    engine = Engine(Counter(), AnswerTask(lambda record: [Tokens([1], [0])], broken, lambda *_: None))
    with pytest.raises(RuntimeError, match="a bug"):
        list(engine.answer([1], on_error="return"))


def test_wrapped_models_are_unwrapped():
    model = ConvBertForSequenceClassification(tiny.config()).eval()
    tokenizer = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    expected = pipeline("text-classification", model, tokenizer)("the cat sat")
    for wrapped in (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model))):
        assert unwrap(wrapped) is model
        assert pipeline("text-classification", wrapped, tokenizer)("the cat sat") == expected
    with pytest.raises(InputError, match="Linear"):
        unwrap(nn.Linear(1, 1))


def test_adapters_of_peft_are_part_of_the_model():
    peft = pytest.importorskip("peft")
    encoder = ConvBertModel(tiny.config()).eval()
    tokenizer = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    settings = peft.LoraConfig(target_modules=["query"], init_lora_weights=False)
    adapted = peft.get_peft_model(encoder, settings).eval()
    pipe = pipeline("feature-extraction", adapted, tokenizer)
    states = adapted(**tokenizer("the cat", return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(pipe("the cat", return_tensors=True), states)
