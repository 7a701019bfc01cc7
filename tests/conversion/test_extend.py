"""More positions: everything else stays, and the folder opens wherever the old one did."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import convbert
import tiny
from convbert.cli import main
from convbert.conversion import extend as room
from convbert.conversion.extend import continue_positions, extend
from convbert.inference.loading import TASKS
from convbert.pretraining.recipes import recipe

TABLE = "embeddings.position_embeddings.weight"


def positions_in(folder):
    state = load_file(folder / "model.safetensors")
    (name,) = [name for name in state if name.endswith(TABLE)]
    return state.pop(name), state


def write(folder, task="fill-mask", dtype=torch.float32):
    tiny.write_model(folder)
    TASKS[task].model(tiny.config()).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_a_model_of_any_head_has_more_positions_and_is_otherwise_the_same(task, tmp_path):
    source = write(tmp_path / "old", task, torch.bfloat16)
    (source / "task.json").write_text("{}")
    extend(source, tmp_path / "new", 80)
    (before, others), (after, same) = positions_in(source), positions_in(tmp_path / "new")
    assert [torch.equal(after[n], before[n % tiny.POSITIONS]) for n in range(80)] == [True] * 80
    assert others.keys() == same.keys()
    assert all(torch.equal(others[name], same[name]) for name in others)
    assert after.dtype == torch.bfloat16
    config = json.loads((tmp_path / "new/config.json").read_text())
    assert (config["max_position_embeddings"], config["dtype"]) == (80, "bfloat16")
    assert (tmp_path / "new/task.json").is_file()
    assert "continued the 32 positions" in (tmp_path / "new/README.md").read_text()


def test_the_new_folder_opens_everywhere(tmp_path):
    extend(write(tmp_path / "old"), tmp_path / "new", 80)
    theirs = transformers.ConvBertForMaskedLM.from_pretrained(tmp_path / "new")
    assert theirs.convbert.embeddings.position_embeddings.weight.shape == (80, 16)
    fill = convbert.pipeline("fill-mask", tmp_path / "new", long="refuse")
    assert fill.tokenizer.model_max_length == 80
    text = "the cat [MASK] " + "and a dog " * 25
    assert fill(text)
    assert extend(tmp_path / "new", tmp_path / "newer", 90).before == 80


def test_interpolation_stretches_every_column():
    table = torch.randn(8, 3)
    found = continue_positions(table, 20, "interpolate")
    at = np.linspace(0, 7, 20)
    expected = np.stack([np.interp(at, np.arange(8), column) for column in table.T.numpy()], 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_pretraining_goes_on_with_long_texts(tmp_path, capsys):
    """At the length that is given, without saying how many positions there are."""
    config = recipe("smoke").model_config(len(tiny.WORDS))
    config.max_position_embeddings = 32
    folder = tiny.write_model(tmp_path / "old")
    convbert.ConvBertForPreTraining(config).save_pretrained(folder)
    extended = tmp_path / "long"
    assert main(["extend", "--positions", "160", str(folder), str(extended)]) == 0
    corpus = tiny.write_corpus(tmp_path / "corpus.txt")
    words = [
        "pretrain",
        "--recipe",
        "smoke",
        "--corpus",
        corpus,
        "--start-from",
        extended,
        "--output",
        tmp_path / "run",
    ]
    words += ["--sequence-length", 160, "--max-steps", 1, "--set", "cross_documents=true", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    assert "sequences of up to 160 tokens" in capsys.readouterr().err
    table, _ = positions_in(tmp_path / "run/model")
    assert len(table) == 160


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--positions", "32"], "has 32 positions; give more"),
        (["--positions", "31"], "has 32 positions; give more"),
        (["--positions", "2000000"], "1,048,576 at most"),
        (["--positions", "64", "--method", "mirror"], "tile, interpolate; got 'mirror'"),
    ],
)
def test_wrong_requests_are_named_and_write_nothing(words, said, tmp_path, capsys):
    source = write(tmp_path / "old")
    assert main(["extend", str(source), str(tmp_path / "new"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_stays_as_it_is(tmp_path, capsys):
    source, there = write(tmp_path / "old"), tmp_path / "there"
    there.mkdir()
    assert main(["extend", "--positions", "64", str(source), str(there)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert list(there.iterdir()) == []
    assert main(["extend", "--positions", "64", str(tmp_path / "absent"), str(tmp_path / "new")]) == 2
    assert "absent: there is no such folder" in capsys.readouterr().err


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    source = write(tmp_path / "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "save_tokenizer", fail)
    with pytest.raises(convbert.InputError, match="No space left"):
        extend(source, tmp_path / "new", 64)
    assert not (tmp_path / "new").exists()
