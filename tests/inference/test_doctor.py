"""What doctor says must be what the ops, the package and PyTorch say."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch
import transformers

import convbert
from convbert.cli import main
from convbert.files import embedded
from convbert.inference import doctor
from convbert.ops.attention import gpu
from convbert.util import optional
from convbert.util.errors import InputError

ROOMS = {"versions", "cpu", "gpu", "ops", "precision", "extras", "model"}


@pytest.fixture(scope="module")
def report() -> dict:
    return doctor.as_dict(doctor.examine())


def test_rooms_and_names_are_unique():
    findings = doctor.examine()
    assert len({(finding.room, finding.name) for finding in findings}) == len(findings)
    assert {finding.room for finding in findings} == ROOMS


def test_versions(report):
    assert report["versions"]["torch"]["value"] == torch.__version__
    assert report["versions"]["transformers"]["value"] == transformers.__version__


def test_ops_take_the_form_that_the_backend_resolves_to(report, monkeypatch):
    from convbert.ops.backends import use_fast

    expected = "fast" if use_fast("auto", torch.device("cpu")) else "reference"
    assert report["ops"]["span_dynamic_conv on cpu"]["value"] == expected
    monkeypatch.setattr(doctor, "why_not_fast", lambda device: "it is Sunday")
    without = doctor.as_dict(doctor.examine())["ops"]
    for op in ("span_dynamic_conv", "depthwise_conv"):
        assert without[f"{op} on cpu"] == {"value": "reference", "reason": "it is Sunday"}


@pytest.mark.parametrize(
    ("flash", "form", "says"),
    [
        (False, "varlen", "while training with dropout, padded: "),
        (True, "flash_attn", "flash-attn is installed"),
    ],
)
def test_attention_on_a_gpu_says_its_forms(monkeypatch, flash, form, says):
    monkeypatch.setattr(gpu, "HAS_FLASH_ATTN", flash)
    monkeypatch.setattr(gpu, "is_older_gpu", lambda device: False)
    found = doctor.as_dict(doctor._ops(torch.device("cuda")))["ops"]
    assert found["attention on cuda"]["value"] == "sdpa"
    assert found["packed attention on cuda"]["value"] == form
    assert says in found["packed attention on cuda"]["reason"]


def test_precision_is_what_loading_does(report):
    found = report["precision"]
    assert found["fp32 on cpu"]["value"] == 1.0
    assert convbert.load().dtype == torch.float32
    assert found["auto on cpu"]["value"] == "fp32"
    assert all(isinstance(found[f"{name} on cpu"]["value"], float) for name in ("bf16", "int8"))


def test_encoder_is_what_loading_does(report):
    frozen = convbert.load(precision="fp32").base_model.encoder.freezer.num_int8 is not None
    assert (report["ops"]["encoder on cpu"]["value"] == "compiled") == frozen


def test_precision_that_is_slow_or_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr("convbert.inference.precision.supports_bfloat16", lambda device: False)
    monkeypatch.setattr("convbert.inference.precision.compiled.why_missing", lambda: "no kernels")
    found = doctor.as_dict(doctor.examine())["precision"]
    assert found["int8 on cpu"]["value"] is False
    assert "no kernels" in found["int8 on cpu"]["reason"]
    assert found["bf16 on cpu"]["reason"] == "runs, but slower: this processor has no bf16 instructions"
    assert found["auto on cpu"]["value"] == "fp32"


def test_a_machine_without_gpu_says_why(report):
    if torch.cuda.is_available():
        assert report["gpu"]["cuda:0"]["value"] == torch.cuda.get_device_name(0)
    else:
        assert report["gpu"]["available"]["value"] is False
        assert "PyTorch" in report["gpu"]["available"]["reason"]


def test_embedded_model(report, monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(2_500_000))
    monkeypatch.setattr(embedded, "folder", lambda *_: tmp_path)
    found = doctor.as_dict(doctor.examine())["model"]["embedded"]
    assert found == {"value": True, "reason": f"2.5 MB in {tmp_path}"}

    def missing() -> Path:
        raise InputError("no model in this copy")

    monkeypatch.setattr(embedded, "folder", missing)
    found = doctor.as_dict(doctor.examine())["model"]["embedded"]
    assert found == {"value": False, "reason": "no model in this copy"}


def test_json_is_the_report(capsys):
    assert main(["doctor", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["versions"]["torch"]["value"] == torch.__version__
    assert set(printed) == ROOMS


def test_text_names_every_finding(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for finding in doctor.examine():
        assert any(line.startswith(f"  {finding.name}") for line in lines)


# ----------------------------------------------------------------------------------------------- extras


def test_extras_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    published = {
        extra: tuple(requirement.partition(">=")[0] for requirement in requirements)
        for extra, requirements in project["optional-dependencies"].items()
        if extra not in ("dev", "docs")  # for those who work on it
    }
    assert published == optional.EXTRAS


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == "datasets" else object())
    sentence = 'needs datasets: pip install "convbert[train]"'
    with pytest.raises(InputError) as caught:
        optional.require("train", "this")
    assert str(caught.value) == f"this {sentence}"
    for verb in (
        ["pretrain", "--corpus", "a", "--output", "b"],
        ["tokenizer", "train", "a", "--output", "b"],
    ):
        assert main(verb) == 2
        assert sentence in capsys.readouterr().err
    extras = doctor.as_dict(doctor.examine())["extras"]["train"]
    assert extras == {"value": False, "reason": 'datasets missing: pip install "convbert[train]"'}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert doctor.cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(("quota", "threads", "advice"), [(1.5, 4, "=1"), (2.0, 2, None), (None, 2, None)])
def test_more_threads_than_the_quota_gives_cores_are_said(monkeypatch, quota, threads, advice):
    monkeypatch.setattr(doctor, "cpu_quota", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(doctor, "usable_cores", lambda: 8)
    found = doctor.as_dict(doctor.examine())["cpu"]["threads"]
    assert found["value"] == threads
    assert ("quota" in found["reason"]) == (advice is not None)
    assert advice is None or f"OMP_NUM_THREADS{advice}" in found["reason"]
