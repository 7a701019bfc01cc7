"""Bad input gives one clear error that names the thing, loses nothing, and leaves nothing half-written.

Each case is tried twice: through Python, where it is an `InputError`, and on the command line, where it is
one line on stderr and exit code 2.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import convbert
import tiny
from convbert import ConvBertForMaskedLM, ConvBertModel, ConvBertTokenizer, ConvBertTokenizerFast, InputError
from convbert.cli import main
from convbert.files.atomic import atomic_folder
from helpers import full_disk


@pytest.fixture(scope="session")
def sound_model(tmp_path_factory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("bad_input") / "model")


@pytest.fixture
def model_dir(sound_model, tmp_path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(sound_model, tmp_path / "model"))


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run a command that must fail; returns the one line that it says."""

    def run(*arguments: object) -> str:
        capsys.readouterr()  # what the preparation said
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        lines = captured.err.splitlines()
        errors = [line for line in lines if line.startswith("convbert: error: ")]
        assert len(errors) == 1
        assert lines[-1] == errors[0]
        # Whatever else is there tells of progress, by ourselves.
        assert all(line.startswith(("convbert: ", "step ")) for line in lines)
        return errors[0]

    return run


# ------------------------------------------------------------------------------------------------ texts

TEXTS = {
    "no mask": ("the cat sat on the mat .", r"no \[MASK\]"),
    "empty": ("", "empty"),
    "white space": (" \t ", "empty"),
    "lone surrogate": ("[MASK] \ud800", "surrogate|UTF-8"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text(case, sound_model, refused):
    text, message = TEXTS[case]
    with pytest.raises(InputError, match=message):
        convbert.pipeline("fill-mask", sound_model)(text)
    assert re.search(message, refused("fill-mask", text, "--model", sound_model))


def test_text_among_others_is_numbered(sound_model, refused):
    with pytest.raises(InputError, match="text 2"):
        convbert.pipeline("fill-mask", sound_model)(["the [MASK] .", "the cat ."])
    assert "text 1: there is no [MASK]" in refused(
        "fill-mask", "the cat .", "a [MASK] .", "--model", sound_model
    )


# ---------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize("wrong", [-1, len(tiny.WORDS), 30_000])
def test_id_outside_the_vocabulary(wrong):
    with pytest.raises(InputError, match=rf"input_ids \(vocab_size = {len(tiny.WORDS)}\) holds {wrong}"):
        ConvBertModel(tiny.config())(torch.tensor([[2, wrong, 3]]))


def test_tokenizer_with_more_tokens_than_the_model(tmp_path, refused):
    folder = tiny.write_model(tmp_path / "model", vocab_size=len(tiny.WORDS) - 1)
    message = (
        f"the tokenizer has {len(tiny.WORDS)} tokens and the model's vocab_size is {len(tiny.WORDS) - 1}"
    )
    with pytest.raises(InputError, match=message):
        convbert.pipeline("fill-mask", folder)
    assert message in refused("fill-mask", "the [MASK] .", "--model", folder)


@pytest.mark.parametrize("shape", [(1, 3), (2, 4), (4,), (1, 1, 4, 4)], ids=str)
def test_mask_of_another_shape(shape):
    ids = torch.tensor([[2, 5, 7, 3]])
    with pytest.raises(InputError, match=r"attention_mask must have the shape of the input \(1, 4\)"):
        ConvBertModel(tiny.config())(ids, attention_mask=torch.ones(shape))


def test_more_tokens_than_positions():
    ids = torch.ones(1, tiny.POSITIONS + 1, dtype=torch.long)
    with pytest.raises(InputError, match=rf"{tiny.POSITIONS + 1} tokens .* \({tiny.POSITIONS}\)"):
        ConvBertModel(tiny.config())(ids)


# ---------------------------------------------------------------------------------------- model folders


class TouchesAFile:
    """A pickle that runs code: unpickling it creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def scribble_over_header(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[8:40] = b"\xff" * 32
    (folder / "model.safetensors").write_bytes(data)


def cut_header(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:20])


def cut_data(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def lie_about_sizes(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + data[8:])


def put_code_in_pickle(folder: Path) -> None:
    remove_weights(folder)
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": TouchesAFile(folder / "executed")}, file)


def put_code_in_torch_file(folder: Path) -> None:
    remove_weights(folder)
    torch.save({"weight": TouchesAFile(folder / "executed")}, folder / "pytorch_model.bin")


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"hidden_size": ')


def contradict_in_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "conv_kernel_size": 4}))


def mistype_in_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": "32"}))


def cut_torch_file(folder: Path) -> None:
    remove_weights(folder)
    torch.save({"weight": torch.zeros(1000)}, folder / "pytorch_model.bin")
    data = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(data[: len(data) // 2])


def break_index(folder: Path) -> None:
    remove_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')


def empty_index(folder: Path) -> None:
    remove_weights(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


DAMAGES = {
    remove_folder: "model",
    remove_weights: "model",
    empty_weights: "damaged",
    scribble_over_header: "damaged",
    cut_header: "damaged",
    cut_data: "damaged",
    lie_about_sizes: "damaged",
    put_code_in_pickle: "pickle",
    put_code_in_torch_file: "pickle",
    break_config: "config.json",
    contradict_in_config: "conv_kernel_size",
    mistype_in_config: "hidden_size",
    cut_torch_file: "damaged",
    break_index: "damaged",
    empty_index: "damaged",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_model_folder(damage, model_dir, refused):
    damage(model_dir)
    for load in (ConvBertForMaskedLM.from_pretrained, ConvBertModel.from_pretrained):
        with pytest.raises(InputError, match=DAMAGES[damage]):
            load(model_dir)
    said = refused("fill-mask", "the [MASK] .", "--model", model_dir)
    assert DAMAGES[damage] in said
    assert not (model_dir / "executed").exists(), "code in a pickle was run"


def test_weights_of_another_size_than_the_configuration(model_dir, refused):
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    message = r"model: .*\(48,\).*\(96,\)"
    with pytest.raises(InputError, match=message):
        convbert.pipeline("fill-mask", model_dir)
    assert re.search(message, refused("fill-mask", "the [MASK] .", "--model", model_dir))


# ----------------------------------------------------------------------------------------- vocabularies

VOCABULARIES = {
    "duplicates": ([*tiny.WORDS, "cat"], "cat"),
    "no mask token": ([word for word in tiny.WORDS if word != "[MASK]"], r"\[MASK\]"),
    "no special token": (tiny.WORDS[5:], r"special tokens missing .*\[PAD\]"),
    "blank line": ([*tiny.WORDS, "", "bird"], "blank"),
    "nothing": ([], "empty"),
}


@pytest.mark.parametrize("case", VOCABULARIES)
@pytest.mark.parametrize("tokenizer", [ConvBertTokenizer, ConvBertTokenizerFast])
def test_vocabulary_file(case, tokenizer, tmp_path):
    words, message = VOCABULARIES[case]
    file = tmp_path / "vocab.txt"
    file.write_text("".join(f"{word}\n" for word in words))
    with pytest.raises(InputError, match=f"vocab.txt.*{message}"):
        tokenizer(vocab_file=str(file))


@pytest.mark.parametrize("case", VOCABULARIES)
def test_vocabulary_file_in_a_model_folder(case, model_dir, refused):
    words, message = VOCABULARIES[case]
    (model_dir / "tokenizer.json").unlink()
    (model_dir / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    said = refused("fill-mask", "the [MASK] .", "--model", model_dir)
    assert "vocab.txt" in said
    assert re.search(message, said)


# ---------------------------------------------------------------------------------------------- corpora


@pytest.fixture
def bad_corpus(tmp_path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_bytes(b"the cat sat .\n" * 30 + b"the \xff dog ran .\n" + b"the cat sat .\n" * 30)
    return file


def test_corpus_that_is_not_utf8_gives_no_tokenizer(bad_corpus, tmp_path, refused):
    from convbert.pretraining.vocabulary import train_wordpiece

    output = tmp_path / "words"
    with pytest.raises(InputError, match=r"corpus\.txt: not UTF-8 text: line 31, byte offset 424"):
        train_wordpiece(bad_corpus, 40, output)
    said = refused("tokenizer", "train", bad_corpus, "--vocab-size", 40, "--output", output)
    assert f"{bad_corpus}: not UTF-8 text: line 31" in said
    assert not output.exists()


@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_corpus_that_is_not_utf8_gives_no_run(own_tokenizer, bad_corpus, sound_model, tmp_path, refused):
    output = tmp_path / "run"
    tokenizer = ["--tokenizer", sound_model] if own_tokenizer else []
    command = ["pretrain", "--recipe", "smoke", "--corpus", bad_corpus, "--output", output, *tokenizer]
    assert f"{bad_corpus}: not UTF-8 text: line 31" in refused(*command)
    # The same command must work once the file is mended.
    assert not output.exists() or not any(output.iterdir())


def test_line_that_is_not_utf8_names_file_and_line(sound_model, tmp_path, refused):
    file = tmp_path / "texts.txt"
    file.write_bytes(b"the \xe9 [MASK] .\n")
    assert f"{file}: line 1: not UTF-8" in refused("fill-mask", "--file", file, "--model", sound_model)


def test_file_that_is_not_there(sound_model, tmp_path, refused):
    said = refused("fill-mask", "--file", tmp_path / "nothing.txt", "--model", sound_model)
    assert f"{tmp_path / 'nothing.txt'}: No such file or directory" in said


# -------------------------------------------------------------------------------------------- full disk


def test_full_disk_while_saving_leaves_no_folder(tmp_path):
    model, target = ConvBertForMaskedLM(tiny.config()), tmp_path / "deep" / "model"
    with full_disk(8192), pytest.raises(InputError, match=f"{target}: cannot be written: File too large"):
        model.save_pretrained(target)
    assert not target.exists()


def test_full_disk_while_saving_keeps_what_was_there(model_dir):
    before = {file.name: file.read_bytes() for file in model_dir.iterdir()}
    model = ConvBertForMaskedLM.from_pretrained(model_dir)
    model.generator_lm_head.bias.data += 1
    with full_disk(8192), pytest.raises(InputError, match="cannot be written"):
        model.save_pretrained(model_dir)
    assert {file.name: file.read_bytes() for file in model_dir.iterdir()} == before


def test_full_disk_after_some_shards_leaves_none_of_them(tmp_path):
    model = ConvBertForMaskedLM(tiny.config(intermediate_size=4096))
    with full_disk(100_000), pytest.raises(InputError, match="cannot be written"):
        model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert not (tmp_path / "model").exists()


def test_full_disk_while_learning_a_vocabulary(tmp_path, refused):
    corpus, output = tiny.write_corpus(tmp_path / "corpus.txt"), tmp_path / "words"
    with full_disk(100):
        said = refused("tokenizer", "train", corpus, "--vocab-size", 60, "--output", output)
    assert f"{output}: cannot be written" in said
    assert not list(output.rglob("*"))


def test_full_disk_while_pretraining(tmp_path, refused):
    corpus, output = tiny.write_corpus(tmp_path / "corpus.txt"), tmp_path / "run"
    tokenizer = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    tokenizer.save_pretrained(tmp_path / "words")
    command = ["pretrain", "--recipe", "smoke", "--max-steps", 2, "--batch-size", 4, "--device", "cpu"]
    with full_disk(40_000):  # enough for the tokenised corpus, not for the weights
        said = refused(*command, "--corpus", corpus, "--tokenizer", tmp_path / "words", "--output", output)
    assert f"{output / 'checkpoint-2'}: the checkpoint cannot be written" in said
    assert not list(output.rglob("*.safetensors"))
    assert not (output / "model").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_for_the_answers(sound_model, monkeypatch, capsys):
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(full, write_through=True))
        assert main(["fill-mask", "the [MASK] .", "--json", "--model", str(sound_model)]) == 2
    assert capsys.readouterr().err == "convbert: error: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_and_the_end_of_the_process():
    """Where Python itself writes what is left."""
    source = str(Path(convbert.__file__).parents[1])
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "convbert", "--version"],
            env={**os.environ, "PYTHONPATH": source},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == "convbert: error: No space left on device\n"


# ----------------------------------------------------------------------------------- saving, when it works


def test_saving_over_another_layout_leaves_only_the_new_weights(tmp_path):
    old, new = (ConvBertForMaskedLM(tiny.config()) for _ in range(2))
    weights = "generator_predictions.dense.weight"
    for sizes in (("50GB", "20KB"), ("20KB", "50GB"), ("20KB", "30KB")):
        folder = tmp_path / "-".join(sizes)
        old.save_pretrained(folder, max_shard_size=sizes[0])
        new.save_pretrained(folder, max_shard_size=sizes[1])
        loaded = ConvBertForMaskedLM.from_pretrained(folder)
        torch.testing.assert_close(loaded.state_dict()[weights], new.state_dict()[weights])
        index = folder / "model.safetensors.index.json"
        kept = {file.name for file in folder.glob("*.safetensors")}
        wanted = (
            set(json.loads(index.read_text())["weight_map"].values())
            if len(kept) > 1
            else {"model.safetensors"}
        )
        assert kept == wanted


def test_saving_keeps_other_files_and_variants(tmp_path):
    model = ConvBertForMaskedLM(tiny.config())
    model.save_pretrained(tmp_path, variant="fp16")
    (tmp_path / "notes.txt").write_text("mine")
    model.save_pretrained(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert {"model.safetensors", "model.fp16.safetensors", "notes.txt", "config.json"} <= names


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(InputError, match="model: is a file"):
        ConvBertForMaskedLM(tiny.config()).save_pretrained(tmp_path / "model")


def test_whole_folder_moves_nothing_when_the_block_fails(tmp_path):
    (tmp_path / "kept").write_text("old")

    def fail_half_way() -> None:
        with atomic_folder(tmp_path) as draft:
            (draft / "kept").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("kept", "old")]
