"""`convbert convert`: the stored sets there and back, what people have lying about, and bad input."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import convbert
import tiny
from convbert.cli import main
from convbert.conversion.tensorflow import read_checkpoint, write_checkpoint
from fuzzing import damaged_bytes, damaged_json
from golden import CLASSES, GOLDEN, WIDE_TOLERANCE, assert_near, encoder_inputs, stored
from tf_checkpoints import PARTS, STEPS, entries, stored_index, write_set

each_set = pytest.mark.parametrize("name", ["set_a", "set_b", "set_d"])
WORDS = [*tiny.WORDS, *(f"word{number}" for number in range(len(tiny.WORDS), 200))]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """The prefix of each set."""
    folder = tmp_path_factory.mktemp("original")
    return {name: write_set(name, folder / name) for name in STEPS}


@pytest.fixture
def prefix(checkpoints, tmp_path) -> Path:
    """One checkpoint that a test may damage."""
    shutil.copytree(checkpoints["set_b"].parent, tmp_path / "original")
    return tmp_path / "original" / checkpoints["set_b"].name


@pytest.fixture
def vocab(tmp_path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    return path


@pytest.fixture
def convert(capsys):
    """Run the command; returns what it says with --json."""

    def run(*arguments: object) -> dict:
        capsys.readouterr()
        assert main(["convert", "--json", *map(str, arguments)]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command that must fail and leave nothing; returns the one line that it says."""

    def run(*arguments: object, output: Path | None = None) -> str:
        output = output or tmp_path / "output"
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()  # what the preparation said
        assert main(["convert", *map(str, arguments), "--output", str(output)]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("convbert: error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return run


def settings_of(name: str) -> Path:
    return GOLDEN / name / "original_config.json"


def edit(path: Path, change) -> None:
    """Change the tensors of a checkpoint in place."""
    tensors = read_checkpoint(path)
    change(tensors)
    write_checkpoint(path, tensors)


def remove(tensors: dict, *beginnings: str) -> None:
    for name in [name for name in tensors if name.startswith(beginnings)]:
        del tensors[name]


# ------------------------------------------------------------------------------------- the original's


@each_set
def test_there_and_back(name, checkpoints, convert, tmp_path):
    report = convert(checkpoints[name], "--config", settings_of(name), "--output", tmp_path / "ours")
    for folder, part in PARTS.items():
        expected = load_file(GOLDEN / name / part / "model.safetensors")
        found = load_file(tmp_path / "ours" / folder / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[tensor], expected[tensor]) for tensor in found)
        config = json.loads((tmp_path / "ours" / folder / "config.json").read_text())
        assert config.pop("architectures") == [CLASSES[part].__name__]
        assert config.pop("dtype") == "float32"
        assert config == json.loads((GOLDEN / name / part / "config.json").read_text()) | {
            "transformers_version": config["transformers_version"]
        }
    assert report["global_step"] == STEPS[name]

    target = tmp_path / "theirs" / checkpoints[name].name
    back = convert("--to", "tensorflow", tmp_path / "ours", "--output", target)
    assert back["global_step"] == STEPS[name]
    before, after = read_checkpoint(checkpoints[name]), read_checkpoint(target)
    assert after.keys() == {tensor for tensor in before if "/adam_" not in tensor}
    assert all(np.array_equal(after[tensor], before[tensor]) for tensor in after)
    if name == "set_a":  # whose slots have moved the places of the weights
        theirs = entries(stored_index(name))
        ours = entries(target.with_name(f"{target.name}.index"))
        assert all(entry[-5:] == theirs[tensor][-5:] for tensor, entry in ours.items())
    else:
        assert target.with_name(f"{target.name}.index").read_bytes() == stored_index(name).read_bytes()
    assert json.loads((tmp_path / "theirs/configure.json").read_text()) == json.loads(
        settings_of(name).read_text()
    )
    # And once more, from what we wrote.
    again = convert(
        tmp_path / "theirs", "--config", tmp_path / "theirs/configure.json", "--output", tmp_path / "again"
    )
    assert again["models"] == report["models"]


@each_set
def test_outputs_are_the_originals(name, checkpoints, convert, tmp_path):
    convert("--from", "tensorflow", checkpoints[name], "--output", tmp_path / "ours")
    golden = stored(name, "encoder.npz")
    for folder, part in PARTS.items():
        model = CLASSES[part].from_pretrained(tmp_path / "ours" / folder, conv_reads_padding=True).eval()
        with torch.no_grad():
            states = model.convbert(**encoder_inputs(golden)).last_hidden_state
        prefix = "generator_" if part == "generator" else ""
        assert_near(states, golden[f"{prefix}all_encoder_layers"][-1])
    if name == "set_d":
        return
    golden = stored(name, "pretraining.npz")
    with torch.no_grad():
        logits = model(**encoder_inputs(golden | {"input_ids": golden["masked_input_ids"]})).logits
    positions = golden["masked_lm_positions"].long()[..., None].expand(-1, -1, logits.shape[-1])
    assert_near(logits.gather(1, positions), golden["mlm_logits"], WIDE_TOLERANCE)


@each_set
def test_inferred_sizes_are_those_of_the_configuration(name, checkpoints, convert, tmp_path):
    report = convert(checkpoints[name], "--output", tmp_path / "ours")
    for (folder, part), model in zip(PARTS.items(), report["models"], strict=True):
        expected = convbert.ConvBertConfig.from_pretrained(GOLDEN / name / part)
        found = convbert.ConvBertConfig.from_pretrained(tmp_path / "ours" / folder)
        assert found.initializer_range == 0.02  # which no shape shows
        expected.initializer_range = 0.02
        fields = model["inferred"].keys() | model["assumed"].keys()
        assert {"hidden_size", "head_ratio", "hidden_act", "hidden_dropout_prob"} <= fields
        assert {x: getattr(found, x) for x in fields} == {x: getattr(expected, x) for x in fields}


@each_set
def test_every_tensor_is_accounted_for(name, checkpoints, convert, tmp_path):
    report = convert(checkpoints[name], "--output", tmp_path / "ours")
    unused = [tensor for names in report["unused"].values() for tensor in names]
    assert report["used"] + len(unused) == report["tensors"] == len(entries(stored_index(name)))
    assert len(unused) == len(set(unused)) == (217 if name == "set_a" else 1)
    assert json.loads((tmp_path / "ours/conversion.json").read_text()) == report


def test_without_a_generator_there_is_no_folder(prefix, convert, tmp_path):
    edit(prefix, lambda tensors: remove(tensors, "generator"))
    report = convert(prefix.parent, "--output", tmp_path / "ours")
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["conversion.json", "model"]
    assert any("generator" in note for note in report["notes"])


def test_a_fine_tuned_checkpoint_is_its_encoder(prefix, convert, tmp_path):
    def finetune(tensors):
        remove(tensors, "generator", "discriminator")
        tensors["task_specific/classify/kernel"] = np.zeros((96, 2), np.float32)
        tensors["somebody_else/kernel"] = np.zeros(2, np.float32)

    edit(prefix, finetune)
    report = convert(prefix, "--output", tmp_path / "ours")
    assert [model["architecture"] for model in report["models"]] == ["ConvBertModel"]
    assert ["task_specific/classify/kernel"] in report["unused"].values()
    assert ["somebody_else/kernel"] in report["unused"].values()
    _, info = convbert.ConvBertModel.from_pretrained(tmp_path / "ours/model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    convert("--to", "tensorflow", tmp_path / "ours", "--output", tmp_path / "theirs/model.ckpt")
    assert read_checkpoint(tmp_path / "theirs/model.ckpt").keys() <= read_checkpoint(prefix).keys()


def test_a_generator_with_tables_of_its_own(prefix, convert, tmp_path):
    def untie(tensors):
        for name in [name for name in tensors if name.startswith("electra/embeddings/")]:
            width = tensors[name].shape[-1] // 32 * 48
            own = np.random.default_rng(0).normal(size=(*tensors[name].shape[:-1], width))
            tensors[name.replace("electra", "generator")] = own.astype(np.float32)
        remove(tensors, "generator/embeddings_project")
        tensors["generator_predictions/dense/kernel"] = np.ones((48, 48), np.float32)
        for name in ("dense/bias", "LayerNorm/gamma", "LayerNorm/beta"):
            tensors[f"generator_predictions/{name}"] = np.ones(48, np.float32)

    edit(prefix, untie)
    convert(prefix, "--output", tmp_path / "ours")
    convert("--to", "tensorflow", tmp_path / "ours", "--output", tmp_path / "theirs/model.ckpt")
    before, after = read_checkpoint(prefix), read_checkpoint(tmp_path / "theirs/model.ckpt")
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name]) for name in after)
    settings = json.loads((tmp_path / "theirs/configure.json").read_text())
    assert settings["pretraining_config"]["untied_generator_embeddings"] is True
    convert(
        tmp_path / "theirs", "--config", tmp_path / "theirs/configure.json", "--output", tmp_path / "again"
    )


def test_heads_of_another_ratio(prefix, convert, tmp_path):
    """One head of full width, the original's small generator, has sizes that transformers cannot derive."""
    config = tiny.config(num_attention_heads=1, attention_head_size=32, num_groups=2)
    convbert.ConvBertForMaskedLM(config).save_pretrained(tmp_path / "one_head")
    convert("--to", "tensorflow", tmp_path / "one_head", "--output", tmp_path / "theirs/model.ckpt")
    for options in ([], ["--config", tmp_path / "theirs/configure.json"]):
        out = tmp_path / f"ours{len(options)}"
        report = convert(tmp_path / "theirs", *options, "--output", out)
        assert [model["architecture"] for model in report["models"]] == ["ConvBertForMaskedLM"]
        found = convbert.ConvBertConfig.from_pretrained(out / "model")
        assert (found.num_kept_heads, found.head_size, found.num_groups) == (1, 32, 2)


def test_a_pretraining_folder(convert, tmp_path):
    """As `convbert pretrain` leaves it."""
    model = convbert.ConvBertForPreTraining(tiny.config())
    generator = convbert.ConvBertForMaskedLM(
        tiny.config(hidden_size=16, num_attention_heads=2, intermediate_size=64)
    )
    generator.convbert.embeddings = model.convbert.embeddings
    generator.generator_lm_head.weight = model.convbert.embeddings.word_embeddings.weight
    run = tmp_path / "run"
    model.save_pretrained(run / "model")
    generator.save_pretrained(run / "generator")
    for part in ("model", "generator"):
        vocabulary = {word: number for number, word in enumerate(tiny.WORDS)}
        convbert.ConvBertTokenizerFast(vocab=vocabulary, do_lower_case=False).save_pretrained(run / part)
    (run / "metrics.json").write_text('{"steps": 77}')
    report = convert("--to", "tensorflow", run, "--output", tmp_path / "theirs/model.ckpt")
    assert report["global_step"] == 77
    assert sorted(path.name for path in (tmp_path / "theirs").iterdir()) == [
        "checkpoint",
        "configure.json",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
        "vocab.txt",
    ]
    theirs = tmp_path / "theirs"
    convert(
        theirs,
        "--config",
        theirs / "configure.json",
        "--vocab",
        theirs / "vocab.txt",
        "--output",
        tmp_path / "again",
    )
    for part in ("model", "generator"):
        before, after = (
            load_file(folder / part / "model.safetensors") for folder in (run, tmp_path / "again")
        )
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        tokenizer = convbert.ConvBertTokenizerFast.from_pretrained(tmp_path / "again" / part)
        assert tokenizer.do_lower_case is False
        assert tokenizer.model_max_length == tiny.POSITIONS


def test_the_summary_names_what_happened(checkpoints, vocab, tmp_path, capsys):
    assert (
        main(
            ["convert", str(checkpoints["set_a"]), "--vocab", str(vocab), "--output", str(tmp_path / "ours")]
        )
        == 0
    )
    shown = capsys.readouterr().out
    for word in ("generator", "108 of 325", "216 × optimizer slot", "inferred", "assumed", "200 tokens"):
        assert word in shown


# ------------------------------------------------------------------------------------- the vocabulary


def test_the_tokenizer_goes_with_every_model(checkpoints, vocab, convert, tmp_path):
    report = convert(checkpoints["set_b"], "--vocab", vocab, "--output", tmp_path / "ours")
    assert report["vocabulary"] == {"tokens": 200, "crlf": 0, "restored": 0, "completed": 0}
    for folder in PARTS:
        tokenizer = convbert.ConvBertTokenizerFast.from_pretrained(tmp_path / "ours" / folder)
        assert tokenizer.get_vocab() == {word: number for number, word in enumerate(WORDS)}
        assert tokenizer.model_max_length == 512
    text = "the cat [MASK] on the mat ."
    assert convbert.pipeline("fill-mask", tmp_path / "ours/generator")(text)


def test_line_ends_and_misread_characters_are_repaired_on_request(
    checkpoints, vocab, convert, refused, tmp_path
):
    words = [*WORDS[:-8], *"¡¢£éßñ", "##中x", "one"]
    misread = [word.encode().decode("gbk") for word in words]
    vocab.write_bytes("".join(f"{word}\r\n" for word in misread).encode())
    assert "--repair-vocab" in refused(checkpoints["set_b"], "--vocab", vocab)
    report = convert(checkpoints["set_b"], "--vocab", vocab, "--repair-vocab", "--output", tmp_path / "ours")
    assert report["vocabulary"] == {"tokens": 200, "crlf": 200, "restored": 7, "completed": 0}
    assert (tmp_path / "ours/model/vocab.txt").read_text(encoding="utf-8").splitlines() == words


ORIGINAL = Path(__file__).parents[1] / "data/tokenization/vocab.txt"


def test_the_file_of_the_original_repository_is_repaired(convert, tmp_path):
    """Every line has the checksum of BERT's vocabulary, which also gives what the file has lost."""
    convbert.ConvBertModel(tiny.config(vocab_size=30_522)).save_pretrained(tmp_path / "source")
    report = convert(
        tmp_path / "source", "--vocab", ORIGINAL, "--repair-vocab", "--output", tmp_path / "ours"
    )
    assert report["vocabulary"] == {"tokens": 30_522, "crlf": 30_522, "restored": 1_900, "completed": 1_346}
    repaired = (tmp_path / "ours/vocab.txt").read_bytes()
    assert hashlib.sha256(repaired).hexdigest() == (
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"  # of google-bert/bert-base-uncased
    )


def test_what_is_lost_is_named_and_not_guessed(checkpoints, vocab, refused):
    damaged = ORIGINAL.read_bytes().splitlines(keepends=True)
    del damaged[2000:2002], damaged[1400]
    vocab.write_bytes(b"".join(damaged))
    assert "--repair-vocab" not in refused(checkpoints["set_b"], "--vocab", vocab)
    told = refused(checkpoints["set_b"], "--vocab", vocab, "--repair-vocab")
    for fact in ("30,519", "554", "1,345", "1312", "google-bert/bert-base-uncased"):
        assert fact in told


# ----------------------------------------------------------------------------- what people have lying about


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lying_about") / "classifier"
    tiny.write_model(folder)
    names = {"id2label": {0: "bad", 1: "good", 2: "odd"}, "label2id": {"bad": 0, "good": 1, "odd": 2}}
    convbert.ConvBertForSequenceClassification(tiny.config(**names)).save_pretrained(folder)
    return folder


WRAPPED = {
    "plain": lambda state: state,
    "DataParallel": lambda state: {f"module.{name}": x for name, x in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": x for name, x in state.items()},
    "FSDP": lambda state: {
        f"_fsdp_wrapped_module.{name.replace('attention.', '_fsdp_wrapped_module.attention.')}": x
        for name, x in state.items()
    },
    "Lightning": lambda state: {
        "epoch": 3,
        "state_dict": {f"model.{name}": x for name, x in state.items()} | {"loss.weight": torch.ones(3)},
        "lr": torch.tensor(0.1),
    },
    "a backbone": lambda state: {"model": {f"net.backbone.{name}": x for name, x in state.items()}},
    "old norms": lambda state: {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for name, x in state.items()
    },
    "old buffers": lambda state: state | {"convbert.embeddings.position_ids": torch.arange(32)[None]},
    "half precision": lambda state: {name: x.half() for name, x in state.items()},
}


@pytest.mark.parametrize("suffix", ["bin", "pt", "ckpt", "safetensors"])
@pytest.mark.parametrize("case", WRAPPED)
def test_weights_in_a_wrapper(case, suffix, classifier, convert, tmp_path):
    state = load_file(classifier / "model.safetensors")
    wrapped = WRAPPED[case](state)
    source = tmp_path / f"model.{suffix}"
    if suffix != "safetensors":
        torch.save(wrapped, source)
    elif case in ("Lightning", "a backbone"):
        pytest.skip("safetensors does not nest")
    else:
        save_file(wrapped, source)
    report = convert(source, "--output", tmp_path / "ours")
    assert report["models"][0]["architecture"] == "ConvBertForSequenceClassification"
    assert report["used"] + sum(map(len, report["unused"].values())) == report["tensors"]
    found = load_file(tmp_path / "ours/model.safetensors")
    assert found.keys() == state.keys()
    for name, tensor in found.items():
        expected = state[name].half().float() if case == "half precision" else state[name]
        assert torch.equal(tensor, expected)
    config = convbert.ConvBertConfig.from_pretrained(tmp_path / "ours")
    assert (config.num_labels, config.head_size, config.dtype) == (3, 8, torch.float32)
    convbert.load(shutil.copytree(tmp_path / "ours", tmp_path / "moved"), "text-classification")


@pytest.mark.parametrize(
    "name",
    [
        *("ConvBertForMaskedLM", "ConvBertForPreTraining", "ConvBertForQuestionAnswering", "ConvBertModel"),
        *("ConvBertForTokenClassification", "ConvBertForMultipleChoice", "ConvBertForSequenceClassification"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_the_class_is_found(name, with_config, convert, tmp_path):
    source = tmp_path / "source"
    getattr(convbert, name)(tiny.config()).save_pretrained(source)
    if with_config:
        content = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(content | {"model_type": "conv_bert"}))
    else:
        (source / "config.json").unlink()
    report = convert(source, "--output", tmp_path / "ours")
    assert report["models"][0]["architecture"] == name
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[tensor], after[tensor]) for tensor in before)
    assert json.loads((tmp_path / "ours/config.json").read_text())["model_type"] == "convbert"


def test_a_folder_keeps_configuration_and_tokenizer(classifier, convert, tmp_path):
    convert("--from", "pytorch", classifier, "--output", tmp_path / "ours")
    ask = convbert.pipeline("text-classification", tmp_path / "ours", top_k=None)
    assert ask("the cat sat .") == convbert.pipeline("text-classification", classifier, top_k=None)(
        "the cat sat ."
    )


FOREIGN = {"tf_model.h5": "TensorFlow", "flax_model.msgpack": "Flax", "model_state.pdparams": "PaddlePaddle"}


@pytest.mark.parametrize("name", FOREIGN)
def test_weights_of_other_frameworks_are_named(name, refused, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / name).write_bytes(b"weights")
    for source in (folder, folder / name):
        told = refused(source)
        assert name in told
        assert FOREIGN[name] in told


# ------------------------------------------------------------------------------------------- bad input


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 16
    path.write_bytes(content)


DAMAGE = {
    "no such file": (lambda prefix: prefix.with_name("model.ckpt-6.index").unlink(), "model.ckpt-6.index"),
    "no values": (
        lambda prefix: prefix.with_name("model.ckpt-6.data-00000-of-00001").unlink(),
        "data-00000-of-00001",
    ),
    "truncated": (
        lambda prefix: prefix.with_name("model.ckpt-6.data-00000-of-00001").write_bytes(b"short"),
        "truncated",
    ),
    "changed": (lambda prefix: flip(prefix.with_name("model.ckpt-6.data-00000-of-00001")), "checksum"),
    "missing": (
        lambda prefix: edit(prefix, lambda x: remove(x, "electra/encoder/layer_0/attention/self/key")),
        "electra/encoder/layer_0/attention/self/key/kernel",
    ),
    "foreign": (
        lambda prefix: edit(
            prefix, lambda x: x.update({"electra/encoder/layer_1/adapter": np.ones(3, np.float32)})
        ),
        "electra/encoder/layer_1/adapter",
    ),
    "NaN": (
        lambda prefix: edit(
            prefix, lambda x: x.update({"electra/embeddings/LayerNorm/beta": np.full(32, np.nan, "f4")})
        ),
        "NaN",
    ),
    "of BERT": (
        lambda prefix: edit(
            prefix,
            lambda x: (remove(x, "electra", "generator"), x.update({"bert/pooler": np.ones(2, np.float32)})),
        ),
        "bert/pooler",
    ),
}


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("case", DAMAGE)
def test_a_bad_checkpoint(case, with_config, prefix, refused):
    damage, told = DAMAGE[case]
    damage(prefix)
    options = ["--config", settings_of("set_b")] if with_config else []
    assert told in refused("--from", "tensorflow", prefix, *options)


SETTINGS = {
    "not JSON": (lambda content: "{", "JSON"),
    "null": (lambda content: "null", "bert_config"),
    "flat": (lambda content: json.dumps(content["bert_config"]), "bert_config"),
    "no generator": (lambda content: json.dumps({**content, "generator_config": None}), "generator_config"),
    "other sizes": (
        lambda content: json.dumps(
            {**content, "bert_config": {**content["bert_config"], "intermediate_size": 400}}
        ),
        "intermediate.dense",
    ),
    "other layers": (
        lambda content: json.dumps(
            {**content, "bert_config": {**content["bert_config"], "num_hidden_layers": 3}}
        ),
        "encoder.layer.2",
    ),
    "fewer layers": (
        lambda content: json.dumps(
            {**content, "bert_config": {**content["bert_config"], "num_hidden_layers": 1}}
        ),
        "encoder.layer.1",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_bad_configuration(case, prefix, refused, tmp_path):
    change, told = SETTINGS[case]
    path = tmp_path / "configure.json"
    path.write_text(change(json.loads(settings_of("set_b").read_text())))
    assert told in refused(prefix, "--config", path)


def test_a_head_of_its_own_matrix(convert, refused, tmp_path):
    source = tmp_path / "source"
    convbert.ConvBertForMaskedLM(tiny.config(tie_word_embeddings=False)).save_pretrained(source)
    assert "tie_word_embeddings" in refused("--to", "tensorflow", source)
    convert(source, "--output", tmp_path / "ours")
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "ours"))
    assert before.keys() == after.keys()
    content = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(content | {"tie_word_embeddings": True}))
    assert "generator_lm_head.weight" in refused(source)


def test_no_such_configuration_or_vocabulary(prefix, refused, tmp_path):
    for option in ("--config", "--vocab"):
        assert "nowhere" in refused(prefix, option, tmp_path / "nowhere")


def test_a_vocabulary_of_another_model(prefix, vocab, refused):
    vocab.write_text("".join(f"{word}\n" for word in [*WORDS, "more"]), encoding="utf-8")
    told = refused(prefix, "--vocab", vocab)
    assert "201" in told
    assert "200" in told


def test_an_output_that_exists(prefix, classifier, refused, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    assert str(there) in refused(prefix, output=there)
    assert str(there) in refused(classifier, output=there)
    assert str(there) in refused("--to", "tensorflow", classifier, output=there)
    assert str(prefix) in refused("--to", "tensorflow", classifier, output=prefix)


@pytest.mark.parametrize(
    "options",
    [
        ["--from", "jax"],
        ["--to", "onnx"],
        ["--from", "tensorflow", "--to", "tensorflow"],
        ["--repair-vocab"],
        ["--to", "tensorflow", "--vocab", "vocab.txt"],
    ],
    ids=" ".join,
)
def test_options_that_contradict(options, prefix, refused):
    assert "--" in refused(prefix, *options)


def test_a_head_that_the_original_does_not_have(classifier, refused):
    assert "ConvBertForSequenceClassification" in refused("--to", "tensorflow", classifier)


CHANGED = {
    "a head of another model": ({"architectures": ["ConvBertForPets"]}, "ConvBertForPets"),
    "another model": ({"model_type": "electra"}, "electra"),
    "another size": ({"intermediate_size": 99}, "intermediate.dense"),
    "a quantised one": ({"quantization_config": {"bits": 4}}, "quantization_config"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_bad_config_of_pytorch(case, classifier, refused, tmp_path):
    folder = shutil.copytree(classifier, tmp_path / "source")
    change, told = CHANGED[case]
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))
    assert told in refused(folder)


class NotATensor:
    """What only unpickling code could build."""


WEIGHTS = {
    "foreign": (lambda state: state | {"convbert.adapter.weight": torch.ones(2)}, "convbert.adapter.weight"),
    "missing": (
        lambda state: {name: x for name, x in state.items() if "layer.1.attention.self.value" not in name},
        "layer.1.attention.self.value",
    ),
    "of another model": (lambda state: {"bert.pooler.weight": torch.ones(2)}, "bert.pooler.weight"),
    "two models": (
        lambda state: {f"{side}.{name}": x for side in ("left", "right") for name, x in state.items()},
        "several",
    ),
    "code": (lambda state: state | {"hyper_parameters": NotATensor()}, "state_dict"),
    "quantised": (lambda state: {name: x.to(torch.int8) for name, x in state.items()}, "int8"),
    "NaN": (lambda state: {name: x * torch.nan for name, x in state.items()}, "NaN"),
    "no tensors": (lambda state: [1, 2], "list"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_bad_weights(case, classifier, refused, tmp_path):
    change, told = WEIGHTS[case]
    torch.save(change(load_file(classifier / "model.safetensors")), tmp_path / "model.pt")
    assert told in refused(tmp_path / "model.pt")


def test_several_files_or_none(refused, tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere")
    folder = tmp_path / "source"
    folder.mkdir()
    assert "holds no weights" in refused(folder)
    for name in ("first.ckpt", "last.ckpt"):
        (folder / name).write_bytes(b"")
    assert "first.ckpt, last.ckpt" in refused(folder)


def test_damaged_files_are_converted_or_refused(prefix, classifier, tmp_path, capsys):
    """Nothing crashes, and what is refused leaves nothing."""
    settings = tmp_path / "configure.json"
    content = json.loads(settings_of("set_b").read_text())
    weights = (classifier / "model.safetensors").read_bytes()
    torch.save(load_file(classifier / "model.safetensors"), tmp_path / "sound.bin")
    pickled = (tmp_path / "sound.bin").read_bytes()
    codes = []
    for seed in range(12):
        settings.write_text(json.dumps(damaged_json(content, seed)))
        (tmp_path / "damaged.safetensors").write_bytes(damaged_bytes(weights, seed))
        (tmp_path / "damaged.bin").write_bytes(damaged_bytes(pickled, seed))
        words = random.Random(seed).choice(
            [
                [prefix, "--config", settings],
                [tmp_path / "damaged.safetensors"],
                [tmp_path / "damaged.bin"],
            ]
        )
        output = tmp_path / f"output-{seed}"
        codes.append(main(["convert", *map(str, words), "--output", str(output)]))
        assert output.exists() == (codes[-1] == 0), capsys.readouterr().err
    assert set(codes) <= {0, 2}
    assert 2 in codes
