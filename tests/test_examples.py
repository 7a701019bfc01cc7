"""The scripts of examples/ run, on tiny settings; own_language.sh runs in test_readme.py."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import convbert
import tiny
from convbert import ConvBertForSequenceClassification
from convbert.export import export

EXAMPLES = Path(__file__).parents[1] / "examples"


def main_of(name):
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_the_same_sentence_is_the_closest(capsys):
    main_of("sentence_similarity.py")("He paid the money back to the bank.")
    question, *lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=1) == ["+1.00", question]
    similarities = [float(line.split()[0]) for line in lines]
    assert similarities == sorted(similarities, reverse=True)
    assert len(set(similarities)) > 2


def test_a_tagger_marks_what_it_learned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("train.conll").write_text("the O\ncat B-ANIMAL\nsat O\n. O\n\na O\nhouse O\nran O\n. O\n\n" * 100)
    folder = str(tiny.write_model(tmp_path / "tiny"))
    settings = ("--dev", "train.conll", "--set", "learning_rate=0.02", "--set", "epochs=3")
    main_of("tagging.py")("train.conll", "the cat ran .", "--model", folder, *settings)
    marked = capsys.readouterr().out.splitlines()[-1]
    assert marked.startswith("the [cat ANIMAL ")
    assert marked.endswith("] ran .")


def test_an_explanation_shows_every_layer_around_the_mask(capsys):
    main_of("explain.py")("The cat sat on the [MASK] .")
    text, words, _, heading, *layers = capsys.readouterr().out.splitlines()
    assert text.startswith("The cat")
    assert len(words.split(", ")) == 3
    assert heading.split()[1:6] == ["cat", "sat", "on", "the", "[MASK]"]
    assert [line.split()[0] for line in layers] == [str(layer) for layer in range(len(layers))]
    for line in layers:
        shares = [int(share) for share in re.findall(r"(\d+)%", line)]
        assert len(shares) == len(heading.split()) - 4  # beside "layer" and "attention looks at"
        assert 0 < sum(shares) < 105


def test_an_exported_model_runs_without_torch(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    folder = tiny.write_model(tmp_path / "tiny")
    config = tiny.config(num_labels=2, id2label={0: "bad", 1: "good"}, initializer_range=0.3)
    ConvBertForSequenceClassification(config).save_pretrained(folder)
    export(str(folder), tmp_path / "exported", "onnx", "fp32")
    texts = ["the cat", "a dog ran to the mat ."]
    (tmp_path / "torch.py").write_text("raise ImportError('the example is to do without')", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "without_torch.py", tmp_path / "exported", *texts],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = convbert.pipeline("text-classification", str(folder), precision="fp32")(texts)
    assert done.stdout.splitlines() == [
        f"{answer['score']:.2f} {answer['label']}  {text}"
        for answer, text in zip(expected, texts, strict=True)
    ]
