"""Model folders as old programs, other libraries and people's hands leave them: the sound folder's answer, or one
sentence that names what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import convbert
import tiny
from convbert import InputError
from convbert.files import embedded
from convbert.inference.loading import load_filled

TEXT = "the cat sat on the mat ."
KINDS = {
    "fill-mask": convbert.ConvBertForMaskedLM,
    "text-classification": convbert.ConvBertForSequenceClassification,
    "token-classification": convbert.ConvBertForTokenClassification,
    "question-answering": convbert.ConvBertForQuestionAnswering,
    "feature-extraction": convbert.ConvBertModel,
}
LABELS = {"0": "neg", "1": "neutral", "2": "pos"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    """A folder for each task, with weights large enough for differences to show; classifiers have three labels."""
    folders = {}
    for task, kind in KINDS.items():
        torch.manual_seed(0)
        more = {"num_labels": 3, "id2label": LABELS} if "classification" in task else {}
        model = kind(tiny.config(**more))
        for weight in model.parameters():
            weight.data += 0.3 * torch.randn_like(weight)
        folders[task] = tmp_path_factory.mktemp(task)
        model.save_pretrained(folders[task])
        tokenizer().save_pretrained(folders[task])
    return folders


@pytest.fixture
def classifier(sound, tmp_path) -> Path:
    """A copy of the text classifier, to be changed."""
    return copy_of(sound["text-classification"], tmp_path)


def copy_of(folder: Path, parent: Path) -> Path:
    return Path(shutil.copytree(folder, parent / "changed"))


def tokenizer() -> convbert.ConvBertTokenizerFast:
    return convbert.ConvBertTokenizerFast(vocab={word: number for number, word in enumerate(tiny.WORDS)})


def edit(folder: Path, **changes: object) -> None:
    """Change keys of config.json; `...` removes one."""
    content = json.loads((folder / "config.json").read_text()) | changes
    content = {key: value for key, value in content.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(content))


def answer(task: str, model: object, **kwargs: object) -> object:
    """A task's answer to a text, made comparable."""
    ask = convbert.pipeline(task, model, **kwargs)
    if task == "question-answering":
        return ask(question="the cat sat", context=TEXT)
    more = {"text-classification": {"top_k": None}, "token-classification": {"ignore_labels": []}}
    return ask(TEXT.replace("sat", "[MASK]") if task == "fill-mask" else TEXT, **more.get(task, {}))


def logits(folder: Path) -> torch.Tensor:
    """Of the classifier in a folder, by transformers' usual way."""
    model = convbert.ConvBertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer()(TEXT, return_tensors="pt")).logits


# ------------------------------------------------------------------------------------------ config.json

HARMLESS = {
    "the first model type": {"model_type": "conv_bert"},
    "no model type": {"model_type": ...},
    "keys of BERT": {
        "use_cache": True,
        "position_embedding_type": "absolute",
        "gradient_checkpointing": True,
        "pruned_heads": {},
        "xla_device": None,
        "finetuning_task": "sst-2",
        "transformers_version": "4.3.2",
        "torch_dtype": "float32",
    },
    "architectures of TensorFlow": {"architectures": ["TFConvBertForSequenceClassification"]},
    "two architectures": {"architectures": ["ConvBertModel", "ConvBertForSequenceClassification"]},
    "no architectures": {"architectures": None},
    "architectures as text": {"architectures": "ConvBertForSequenceClassification"},
    "keys that are Python's": {"save_pretrained": 1, "__class__": "x", "small": 3, "": 4, "to_dict": None},
    "remote code": {"auto_map": {"AutoModel": "modeling_x.Y"}},
    "attention maps": {"output_attentions": True},
    "hidden states": {"output_hidden_states": True},
    "tuples": {"return_dict": False},
    "a traced model's": {"torchscript": True},
    "num_labels as text": {"num_labels": "3"},
    "stale num_labels": {"num_labels": 2},
    "_num_labels": {"_num_labels": 3},
    "label keys from 1": {"id2label": {"1": "neg", "2": "neutral", "3": "pos"}, "label2id": ...},
    "labels out of order": {"id2label": {"2": "pos", "0": "neg", "1": "neutral"}},
    "labels in a list": {"id2label": list(LABELS.values())},
    "a padding id of none": {"pad_token_id": None},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_a_key_that_changes_nothing(case, classifier):
    before, raw = answer("text-classification", classifier), logits(classifier)
    edit(classifier, **HARMLESS[case])
    assert answer("text-classification", classifier) == before
    if "return_dict" not in HARMLESS[case] and "torchscript" not in HARMLESS[case]:
        assert torch.allclose(logits(classifier), raw, atol=1e-6)


LABELLED = {
    "stale names by number": {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": ...},
    "no names": {"id2label": ..., "label2id": ...},
    "null": {"id2label": None, "label2id": None},
    "num_labels alone": {"id2label": ..., "label2id": ..., "num_labels": 5},
    "nameless ones": {"id2label": {"0": None, "1": None, "2": None}},
    "empty": {"id2label": {}, "label2id": {}},
}


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
@pytest.mark.parametrize("case", LABELLED)
def test_without_names_there_are_as_many_labels_as_the_weights_have(case, task, sound, tmp_path):
    folder = copy_of(sound[task], tmp_path)
    edit(folder, **LABELLED[case])
    config = convbert.ConvBertConfig.from_pretrained(folder)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    before = [found["score"] for found in answer(task, sound[task])]
    assert [found["score"] for found in answer(task, folder)] == before


def test_a_configuration_is_read_without_weights(classifier):
    (classifier / "model.safetensors").unlink()
    edit(classifier, id2label=..., label2id=...)
    assert convbert.ConvBertConfig.from_pretrained(classifier).num_labels == 2


@pytest.mark.parametrize("key", ["summary_type", "summary_activation"])
def test_words_that_multiple_choice_does_not_know_are_named(key, tmp_path):
    convbert.ConvBertForMultipleChoice(tiny.config()).save_pretrained(tmp_path)
    edit(tmp_path, **{key: "guess"})
    with pytest.raises(InputError, match=key) as caught:
        convbert.load(tmp_path, "multiple-choice")
    assert str(tmp_path) in str(caught.value)


def test_names_that_are_numbers_become_text(classifier):
    edit(classifier, id2label={"0": 0, "1": 1, "2": 2}, label2id={"0": 0, "1": 1, "2": 2})
    assert {found["label"] for found in answer("text-classification", classifier)} == {"0", "1", "2"}


def test_keywords_go_before_the_file(classifier):
    of = convbert.ConvBertConfig.from_pretrained
    assert of(classifier, num_labels=3).id2label == {0: "neg", 1: "neutral", 2: "pos"}
    assert of(classifier, num_labels=5).num_labels == 5
    assert of(classifier, num_labels=2, id2label={0: "no", 1: "yes"}).id2label == {0: "no", 1: "yes"}
    kind = convbert.ConvBertForSequenceClassification
    model, report = kind.from_pretrained(
        classifier, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert model.classifier.out_proj.out_features == 5
    assert {name for name, *_ in report["mismatched_keys"]} == {
        "classifier.out_proj.weight",
        "classifier.out_proj.bias",
    }
    assert len(kind.from_pretrained(classifier, num_hidden_layers=1).convbert.encoder.layer) == 1
    with pytest.raises(InputError, match="ignore_mismatched_sizes"):
        kind.from_pretrained(classifier, num_labels=5)


REFUSED = {
    "model_type": "electra",
    "architectures": 3,
    "hidden_size": "../../etc/passwd",
    "num_hidden_layers": 100_000,
    "vocab_size": 10**9,
    "num_attention_heads": True,
    "intermediate_size": 2**63,
    "embedding_size": [16],
    "layer_norm_eps": -1,
    "initializer_range": float("nan"),
    "hidden_act": ["gelu"],
    "hidden_dropout_prob": 1.5,
    "pad_token_id": True,
    "eos_token_id": {"a": 1},
    "num_labels": 10**9,
    "id2label": {"0": "neg", "7": "pos"},
    "problem_type": "guess",
    "dtype": "int8",
    "chunk_size_feed_forward": "2",
    "summary_type": 7,
    "quantization_config": {"load_in_8bit": True},
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_cannot_be_is_named(key, classifier):
    edit(classifier, **{key: REFUSED[key]})
    for read in (convbert.ConvBertConfig, convbert.ConvBertForSequenceClassification):
        with pytest.raises(InputError) as caught:
            read.from_pretrained(classifier)
        assert str(classifier) in str(caught.value)
        assert key in str(caught.value)


CONTRADICTIONS = {
    "num_hidden_layers": (1, "2 layers"),
    "vocab_size": (40, "word_embeddings"),
    "max_position_embeddings": (64, "position_embeddings"),
    "intermediate_size": (96, "intermediate"),
    "conv_kernel_size": (5, "depthwise"),
    "id2label": ({"0": "no", "1": "yes"}, "3 labels"),
}


@pytest.mark.parametrize("key", CONTRADICTIONS)
def test_sizes_other_than_the_weights_are_refused(key, classifier):
    value, named = CONTRADICTIONS[key]
    edit(classifier, **{key: value})
    reads = (
        convbert.ConvBertForSequenceClassification.from_pretrained,
        lambda folder: convbert.load(folder, "text-classification"),
        lambda folder: load_filled(
            convbert.ConvBertModel, str(folder), convbert.ConvBertConfig.from_pretrained(folder)
        ),
    )
    for read in reads:
        with pytest.raises(InputError, match=named) as caught:
            read(classifier)
        assert str(classifier) in str(caught.value)


@pytest.mark.parametrize(
    "switch", ["output_attentions", "output_hidden_states", "return_dict", "torchscript"]
)
@pytest.mark.parametrize("task", KINDS)
def test_switches_never_reach_a_pipeline(task, switch, sound, tmp_path):
    before = answer(task, sound[task], precision="fp32")
    folder = copy_of(sound[task], tmp_path)
    edit(folder, **{switch: switch != "return_dict"})
    assert answer(task, folder, precision="fp32") == before
    assert answer(task, KINDS[task].from_pretrained(folder), tokenizer=folder) == before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"bos_token_id": "x"}', '{"max_length": [1]}', "null"])
def test_a_damaged_generation_config_is_of_no_account(content, sound, tmp_path):
    folder = copy_of(sound["fill-mask"], tmp_path)
    (folder / "generation_config.json").write_text(content)
    assert answer("fill-mask", folder) == answer("fill-mask", sound["fill-mask"])


# ---------------------------------------------------------------------------------------------- weights

NAMES = {
    "DataParallel": lambda name: f"module.{name}",
    "Lightning": lambda name: f"model.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "two wrappers": lambda name: f"module._orig_mod.{name}",
    "compiled parts": lambda name: name.replace("encoder.", "_orig_mod.encoder.").replace(
        "attention.", "_orig_mod.attention."
    ),
    "both": lambda name: "_orig_mod." + name.replace("convbert.", "convbert._orig_mod."),
    "flattened": lambda name: f"state_dict.model.{name}",
    "TensorFlow's norms": lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    ),
}


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("case", NAMES)
def test_names_that_a_wrapper_has_given(case, suffix, classifier):
    before, raw = answer("text-classification", classifier), logits(classifier)
    path = classifier / "model.safetensors"
    names = set(load_file(path))
    state = {NAMES[case](name): weight for name, weight in load_file(path).items()}
    path.unlink()
    if suffix == "safetensors":
        save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save(state, classifier / "pytorch_model.bin")
    # Weights lie elsewhere in memory, and are added up in another order.
    for found, wanted in zip(answer("text-classification", classifier), before, strict=True):
        assert found == {"label": wanted["label"], "score": pytest.approx(wanted["score"], abs=1e-6)}
    assert torch.allclose(logits(classifier), raw, atol=1e-5)
    convbert.ConvBertForSequenceClassification.from_pretrained(classifier).save_pretrained(classifier / "new")
    assert set(load_file(classifier / "new" / "model.safetensors")) == names


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_weights_within_a_checkpoint_are_named(key, classifier):
    state = load_file(classifier / "model.safetensors")
    (classifier / "model.safetensors").unlink()
    torch.save({"epoch": 3, key: state}, classifier / "pytorch_model.bin")
    with pytest.raises(InputError, match=key):
        convbert.load(classifier, "text-classification")
    with pytest.raises(InputError, match=key):
        convbert.ConvBertForSequenceClassification.from_pretrained(classifier)


def test_names_of_another_model_are_shown(classifier):
    path = classifier / "model.safetensors"
    state = {name.replace("convbert.", "electra."): weight for name, weight in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"'electra\.'"):
        convbert.load(classifier, "text-classification")


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack"])
def test_weights_of_another_framework_alone(name, classifier):
    (classifier / "model.safetensors").rename(classifier / name)
    with pytest.raises(InputError, match=name):
        convbert.load(classifier, "text-classification")


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "..", "no.safetensors", 3, "a\0b", "n" * 300]
)
def test_an_index_that_leads_out_of_the_folder(name, classifier):
    (classifier / "model.safetensors").rename(classifier.parent / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"classifier.dense.bias": name}}
    (classifier / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="weight_map"):
        convbert.load(classifier, "text-classification")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(value, classifier):
    path = classifier / "model.safetensors"
    state = load_file(path)
    state["convbert.encoder.layer.1.output.dense.weight"][3, 5] = value
    save_file(state, path, metadata={"format": "pt"})
    for read in (
        lambda: convbert.load(classifier, "text-classification"),
        lambda: load_filled(convbert.ConvBertForSequenceClassification, str(classifier)),
        lambda: answer("text-classification", classifier),
    ):
        with pytest.raises(InputError, match=r"layer\.1\.output\.dense\.weight"):
            read()


def test_other_peoples_classes_keep_their_own_names(tmp_path):
    """Two encoders, or one under the name that a wrapper would give."""

    class Siamese(convbert.model.convbert.ConvBertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.model, self.other = convbert.ConvBertModel(config), convbert.ConvBertModel(config)
            self.post_init()

    saved = Siamese(tiny.config())
    saved.save_pretrained(tmp_path)
    loaded = Siamese.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in saved.state_dict().items())


def test_a_subfolder(classifier):
    found = convbert.ConvBertForSequenceClassification.from_pretrained(
        classifier.parent, subfolder=classifier.name
    )
    assert found.config.id2label == {0: "neg", 1: "neutral", 2: "pos"}


def test_files_have_the_modes_that_the_umask_gives(tmp_path):
    before = os.umask(0o022)
    try:
        convbert.ConvBertModel(tiny.config()).save_pretrained(tmp_path / "m")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "m").iterdir()} == {0o644}


def test_transformers_own_class_loads_the_embedded_model_in_single_precision():
    theirs = transformers.ConvBertForMaskedLM.from_pretrained(embedded.folder())
    assert theirs.dtype == torch.float32
    assert {weight.dtype for weight in load_file(embedded.folder() / "model.safetensors").values()} == {
        torch.float16
    }


# -------------------------------------------------------------------------------------------- labels of heads


@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.int16, torch.float32, torch.float16])
def test_replaced_tokens_are_labelled_in_numbers_of_any_type(dtype):
    model = convbert.ConvBertForPreTraining(tiny.config()).eval()
    ids = torch.randint(5, len(tiny.WORDS), (2, 6))
    labels = torch.tensor([[0, 1, 0, 0, 1, -100], [1, 1, 0, -100, 0, 0]])
    judged = torch.sigmoid(model(ids).logits)[labels != -100]
    expected = torch.nn.functional.binary_cross_entropy(judged, labels[labels != -100].float())
    assert torch.allclose(model(ids, labels=labels.to(dtype)).loss, expected, atol=1e-5)
    assert model(ids, labels=labels.clamp(0).bool()).loss.isfinite()
    for wrong in (labels[:, :5], labels + 1, -labels):
        with pytest.raises(InputError, match="labels"):
            model(ids, labels=wrong)
