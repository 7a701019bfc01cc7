"""OpenVINO's files and AOTInductor's packages pass the check that ends an export; a wrong one does not."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import convbert
import tiny
from convbert.cli import main


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
