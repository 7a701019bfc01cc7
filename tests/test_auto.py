"""`register_auto_classes` makes transformers' own front doors open to our classes.

Registration changes the whole process, so each test runs in a process of its own.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import convbert

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "plants", "create", "energy", "through"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    config = convbert.ConvBertConfig.small(vocab_size=len(WORDS), num_hidden_layers=1)
    convbert.ConvBertForMaskedLM(config).save_pretrained(path)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    convbert.ConvBertTokenizerFast(vocabulary).save_pretrained(path)
    return path


def run(program, *arguments):
    """What the program prints, in a fresh process that finds the package where this one did."""
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(convbert.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_snippets_of_transformers_documentation_run_on_our_classes(folder):
    """Both on one folder; the result is that of our own pipeline."""
    program = """
        import sys
        import torch
        from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
        import convbert

        convbert.register_auto_classes()
        convbert.register_auto_classes()  # again, for no effect
        folder = sys.argv[1]
        text = "Plants create [MASK] through"

        pipe = pipeline(task="fill-mask", model=folder)
        assert type(pipe.model) is convbert.ConvBertForMaskedLM
        assert type(pipe.tokenizer) is convbert.ConvBertTokenizerFast
        scores = [result["score"] for result in pipe(text)]

        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            predictions = model(**inputs).logits
        masked_index = torch.where(inputs["input_ids"] == tokenizer.mask_token_id)[1]
        best = predictions[0, masked_index].softmax(-1).topk(5).values[0].tolist()
        ours = [result["score"] for result in convbert.pipeline("fill-mask", folder, precision="fp32")(text)]
        for other in (best, ours):
            torch.testing.assert_close(torch.tensor(scores), torch.tensor(other))
        print("done")
    """
    assert run(program, folder).endswith("done\n")


def test_every_auto_class_builds_ours(folder):
    program = """
        import sys
        import transformers
        import convbert

        convbert.register_auto_classes()
        config = transformers.AutoConfig.from_pretrained(sys.argv[1])
        assert type(config) is convbert.ConvBertConfig
        assert type(transformers.AutoConfig.for_model("convbert")) is convbert.ConvBertConfig
        names = {"": "Model", "ForPreTraining": "ForPreTraining"}
        tasks = "MaskedLM SequenceClassification MultipleChoice TokenClassification QuestionAnswering"
        names |= {f"For{task}": f"For{task}" for task in tasks.split()}
        for theirs, ours in names.items():
            model = getattr(transformers, f"AutoModel{theirs}").from_config(config)
            assert type(model) is getattr(convbert, f"ConvBert{ours}"), type(model)
        print(len(names))
    """
    assert run(program, folder) == "7\n"


def test_folders_that_name_another_tokenizer_class_get_ours(folder, tmp_path):
    """Released folders name BERT's or ConvBERT's tokenizer, or none at all."""
    program = """
        import json, pathlib, shutil, sys
        import transformers
        import convbert

        convbert.register_auto_classes()
        folder = pathlib.Path(shutil.copytree(sys.argv[1], sys.argv[2]))
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        for name in ("ConvBertTokenizer", "ConvBertTokenizerFast", None):
            settings["tokenizer_class"] = name
            path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            assert type(tokenizer) is convbert.ConvBertTokenizerFast, (name, type(tokenizer))
        print("done")
    """
    assert run(program, folder, tmp_path / "copy") == "done\n"


def test_without_asking_nothing_changes(folder):
    program = """
        import sys
        import convbert
        import transformers
        import convbert.inference.pipelines, convbert.auto

        config = transformers.AutoConfig.from_pretrained(sys.argv[1])
        print(type(config).__module__.split(".")[0])
    """
    assert run(program, folder) == "transformers\n"
