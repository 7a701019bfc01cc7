"""`torch.compile` sees one graph, on dense batches and on packed rows, and does not start again when lengths change;
`torch.export` sees dense and padded batches of any size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tiny
from convbert import ConvBertModel
from convbert.inference.precision import set_precision
from helpers import assert_close, packed, spread_model

SHAPES = [(2, 7), (3, 5), (4, 11), (2, 30), (5, 3), (3, 16)]
PACKS = [[5, 7], [3, 9, 4], [11, 2], [6, 6, 6, 6], [30, 3], [2, 8, 17]]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(dropout: float = 0.0) -> ConvBertModel:
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return spread_model(0.3, num_hidden_layers=1, **drops).train()


def dense(batch: int, length: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(5, len(tiny.WORDS), (batch, length))}


def step(run, model: ConvBertModel, inputs: dict) -> tuple[Tensor, list[Tensor]]:
    """States and the gradient of every parameter, with dropout from a fixed seed."""
    torch.manual_seed(1)
    states = run(**inputs).last_hidden_state
    used = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return states, torch.autograd.grad(states.square().mean(), used)


def assert_compiled_equals_eager(compiled, model: ConvBertModel, inputs: dict) -> None:
    expected, expected_grads = step(model, model, inputs)
    actual, actual_grads = step(compiled, model, inputs)
    assert_close(actual, expected, torch.float32)
    for name_and_parameter, grad, wanted in zip(
        model.named_parameters(), actual_grads, expected_grads, strict=True
    ):
        assert (grad - wanted).norm() <= 1e-5 * wanted.norm() + 1e-6, name_and_parameter[0]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["dense", "packed"])
def test_changing_lengths_compile_once(kind, dropout, request):
    if dropout:  # compiled kernels hash where a traced program draws
        request.getfixturevalue("without_kernels")
    model = build(dropout)
    cases = [dense(*shape) for shape in SHAPES] if kind == "dense" else [packed(p) for p in PACKS]
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for inputs in cases:
            assert_compiled_equals_eager(compiled, model, inputs)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_marked_dimensions_compile_once():
    model = build()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in SHAPES:
            inputs = dense(*shape)
            for dimension in (0, 1):
                torch._dynamo.mark_dynamic(inputs["input_ids"], dimension)
            assert_compiled_equals_eager(compiled, model, inputs)


def test_packed_row_without_its_longest_length():
    model, inputs = build(), packed([5, 7])
    inputs["max_length_q"] = inputs["max_length_k"] = None
    assert_compiled_equals_eager(torch.compile(model, fullgraph=True, backend="aot_eager"), model, inputs)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@torch.no_grad()
def test_a_loaded_model_is_one_graph(precision, monkeypatch):
    monkeypatch.setattr("convbert.model.frozen.SMALLEST_INT8_LAYER", 0)
    model, inputs = build().eval(), dense(2, 7)
    set_precision(model, precision, torch.device("cpu"))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    model.encoder.freezer.enabled = False  # traced, an int8 model computes in fp32
    assert_close(compiled(**inputs).last_hidden_state, model(**inputs).last_hidden_state, torch.float32)


@torch.no_grad()
def test_inductor():
    model = build().eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for lengths, shape in zip(PACKS[:2], SHAPES[:2], strict=True):
        for inputs in (packed(lengths), dense(*shape)):
            assert_close(
                compiled(**inputs).last_hidden_state, model(**inputs).last_hidden_state, torch.float32
            )


def test_inductor_training_step():
    model = build()
    assert_compiled_equals_eager(torch.compile(model, fullgraph=True), model, packed([5, 7]))


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_exported_batches_of_any_size(padded):
    """Traced once, on one shape."""
    model = build().eval()

    def inputs(batch: int, length: int) -> dict[str, Tensor]:
        found = dense(batch, length)
        if padded:
            found["attention_mask"] = (torch.arange(length) < torch.arange(1, batch + 1)[:, None]).long()
        return found

    example = inputs(2, 7)
    any_size = {name: dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC) for name in example}
    exported = torch.export.export(model, (), example, dynamic_shapes=any_size).module()
    for shape in SHAPES:
        given = inputs(*shape)
        assert_close(exported(**given).last_hidden_state, model(**given).last_hidden_state, torch.float32)
