"""`register_auto_classes` makes transformers' own front doors open to our classes.

Registration changes the whole process, so each test runs in a process of its own.
"""

import json
import shutil
from importlib import import_module

import pytest
import torch
import transformers

import convbert
import tiny
from processes import finish, start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("model"), num_hidden_layers=1)


def documented_snippets(folder):
    """Both of transformers' documentation, on one folder; the result is that of our own pipeline."""
    convbert.register_auto_classes()
    convbert.register_auto_classes()  # again, for no effect
    text = "the [MASK] sat on"

    pipe = transformers.pipeline(task="fill-mask", model=folder)
    assert type(pipe.model) is convbert.ConvBertForMaskedLM
    assert type(pipe.tokenizer) is convbert.ConvBertTokenizerFast
    scores = [result["score"] for result in pipe(text)]

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        predictions = model(**inputs).logits
    masked_index = torch.where(inputs["input_ids"] == tokenizer.mask_token_id)[1]
    best = predictions[0, masked_index].softmax(-1).topk(5).values[0].tolist()
    ours = convbert.pipeline("fill-mask", folder, precision="fp32")(text)
    for other in (best, [result["score"] for result in ours]):
        torch.testing.assert_close(torch.tensor(scores), torch.tensor(other))


def every_auto_class(folder):
    convbert.register_auto_classes()
    config = transformers.AutoConfig.from_pretrained(folder)
    assert type(config) is convbert.ConvBertConfig
    assert type(transformers.AutoConfig.for_model("convbert")) is convbert.ConvBertConfig
    names = {"": "Model", "ForPreTraining": "ForPreTraining"}
    tasks = "MaskedLM SequenceClassification MultipleChoice TokenClassification QuestionAnswering"
    names |= {f"For{task}": f"For{task}" for task in tasks.split()}
    for theirs, ours in names.items():
        model = getattr(transformers, f"AutoModel{theirs}").from_config(config)
        assert type(model) is getattr(convbert, f"ConvBert{ours}"), type(model)


def other_tokenizer_classes(folder):
    """Released folders name BERT's or ConvBERT's tokenizer, or none at all."""
    convbert.register_auto_classes()
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for name in ("ConvBertTokenizer", "ConvBertTokenizerFast", None):
        settings["tokenizer_class"] = name
        path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        assert type(tokenizer) is convbert.ConvBertTokenizerFast, (name, type(tokenizer))


def without_asking(folder):
    for name in ("convbert.auto", "convbert.inference.pipelines"):
        import_module(name)
    config = transformers.AutoConfig.from_pretrained(folder)
    assert type(config).__module__.split(".")[0] == "transformers"


@pytest.mark.parametrize(
    "program", [documented_snippets, every_auto_class, other_tokenizer_classes, without_asking]
)
def test_in_a_process_of_its_own(program, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    process = start(program, copy, stderr=tmp_path / "said")
    assert finish([process]) == [0], (tmp_path / "said").read_text()
