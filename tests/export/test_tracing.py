"""Other people's tracers take our classes as they are, and what they make has no op of ours."""

from __future__ import annotations

import pytest
import torch

import convbert
import tiny

LENGTHS = (12, 5, 1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = tiny.config(num_hidden_layers=1, initializer_range=0.3)
    return convbert.ConvBertForSequenceClassification(config).eval()


def batch(*lengths: int) -> dict[str, torch.Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(5, len(tiny.WORDS), mask.shape) * mask, "attention_mask": mask}


def expected(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def test_jit_trace(model):
    traced = torch.jit.trace(model, tuple(batch(9, 6).values()), strict=False)
    inputs = batch(*LENGTHS)
    torch.testing.assert_close(traced(*inputs.values())["logits"], expected(model, inputs), rtol=0, atol=1e-5)
    assert "convbert::" not in str(traced.inlined_graph)


def test_export(model):
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=tiny.POSITIONS)}
    program = torch.export.export(
        model, (), kwargs=batch(9, 6), dynamic_shapes={"input_ids": free, "attention_mask": free}
    )
    inputs = batch(*LENGTHS)
    found = program.module()(**inputs)
    torch.testing.assert_close(found.logits, expected(model, inputs), rtol=0, atol=1e-5)
    assert not any(
        "convbert." in str(node.target) for node in program.graph.nodes if node.op == "call_function"
    )


def test_openvino_reads_the_class(model):
    openvino = pytest.importorskip("openvino", reason="needs the extra openvino")
    compiled = openvino.compile_model(
        openvino.convert_model(model, example_input=batch(9, 6)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    inputs = batch(*LENGTHS)
    (found,) = compiled({name: x.numpy() for name, x in inputs.items()}).values()
    torch.testing.assert_close(torch.from_numpy(found), expected(model, inputs), rtol=0, atol=1e-5)
