"""OpenVINO's files, AOTInductor's packages and ExecuTorch's programs pass the check that ends an export."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import convbert
import tiny
from convbert.cli import main
from convbert.export.graph import traceable
from convbert.export.openvino import write_openvino
from convbert.export.parity import check_parity
from convbert.inference.runtimes import open_runtime


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tiny.write_model(tmp_path_factory.mktemp("model"), num_hidden_layers=1)
    torch.manual_seed(0)
    convbert.ConvBertForMaskedLM(tiny.config(num_hidden_layers=1, initializer_range=0.3)).save_pretrained(
        root
    )
    return root


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_openvino(precision, folder, tmp_path, capsys):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    words = ["--model", str(folder), "--format", "openvino", "--precision", precision, "--json"]
    assert main(["export", *words, "--output", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"openvino_model.xml", "openvino_model.bin", "config.json", "tokenizer.json"} <= set(
        found["files"]
    )
    assert found["parity"][precision]["difference"] <= (1e-5 if precision == "fp32" else 1e-2)


HEADS = [
    convbert.ConvBertModel,
    convbert.ConvBertForSequenceClassification,
    convbert.ConvBertForTokenClassification,
    convbert.ConvBertForQuestionAnswering,
    convbert.ConvBertForMultipleChoice,
    convbert.ConvBertForPreTraining,
]


@pytest.mark.parametrize("head", HEADS)
def test_every_head_in_openvino(head, tmp_path):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    torch.manual_seed(0)
    config = tiny.config(
        num_hidden_layers=1, initializer_range=0.3, max_position_embeddings=512, summary_type="first"
    )
    source = traceable(head(config).eval())
    run = open_runtime("openvino", write_openvino(source, tmp_path, "fp32"))
    found = check_parity(source, run, "fp32")  # up to 512 tokens, padded and alone
    assert found.difference <= 1e-5
    assert found.alone <= 1e-5


def test_executorch(folder, tmp_path, capsys):
    pytest.importorskip("executorch", reason="needs the extra executorch")
    words = ["--model", str(folder), "--format", "executorch", "--json"]
    assert main(["export", *words, "--output", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "model.pte" in found["files"]
    assert found["parity"]["fp32"]["difference"] <= 1e-5


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_torch(folder, tmp_path, capsys):
    words = ["--model", str(folder), "--format", "torch", "--json"]
    # Compiled once, where headers compiled ahead and a fast wrapper are not worth their time.
    quick = {"aot_inductor.precompile_headers": False, "aot_inductor.compile_wrapper_opt_level": "O0"}
    with torch._inductor.config.patch(quick):
        assert main(["export", *words, "--output", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "model.pt2" in found["files"]
    assert found["parity"]["fp32"]["difference"] <= 1e-5
