"""The pages open in a real browser, draw what they should, complain of nothing, and ask for no other file."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from browser import CHROMIUM, open_in_browser
from convbert import ConvBertForQuestionAnswering, ConvBertForSequenceClassification, ConvBertTokenizerFast
from convbert.cli import main
from convbert.finetuning.data import Example, Feature
from convbert.finetuning.evaluation import FinetunedModel, write_pages
from convbert.finetuning.explain import explain_html
from convbert.finetuning.inference import Split
from convbert.finetuning.kinds import kind_of
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.report import _answered, _tagged, _worst
from convbert.finetuning.saliency import token_influence
from convbert.finetuning.tasks import TASKS
from convbert.page import tokens
from labelled import sentence, write_objects, write_sentences


@pytest.fixture(scope="module")
def run(start, tmp_path_factory) -> Path:
    """A short run on texts with characters that HTML gives a meaning to."""
    folder = tmp_path_factory.mktemp("pages")
    write_sentences(folder / "train.tsv", 32)
    write_sentences(folder / "dev.tsv", 8)
    with (folder / "dev.tsv").open("a") as more:
        more.write("the <b>cat</b> & </script><script>alert(1)</script>\t0\n")
    words = ["finetune", "--task", "sst2", "--data", str(folder), "--model", str(start), "--device", "cpu"]
    assert main([*words, "--output", str(folder / "run"), "--set", "epochs=1", "--explain"]) == 0
    return folder / "run"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_report_opens_in_a_browser(run, tmp_path):
    script = """
      const count = what => document.querySelectorAll(what).length;
      document.title += ` ${count('svg')} ${count('.card')}`;
    """
    document = open_in_browser(run / "report.html", tmp_path, script)
    curves, cards = document.split("<title>")[1].split("</title>")[0].split()[-2:]
    assert curves == "1"
    assert int(cards) >= 1
    assert "negative" in document
    assert "confusion" in document


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_explanation_draws_every_head_in_a_browser(tmp_path):
    """Counts the canvases, and the colours on the first of each: a blank one has a single colour."""
    script = """
      const colours = canvas => {
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
        return seen.size;
      };
      const count = id => {
        const all = [...document.querySelectorAll(`#${id} canvas`)];
        return `${all.length}:${Math.min(...all.map(colours))}`;
      };
      document.getElementById('layer').value = '1';
      document.getElementById('layer').onchange();
      document.title = `${count('attention')} ${count('kernels')}`;
    """
    model = ConvBertForSequenceClassification(tiny.config()).requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(10)  # weights as they start leave every map almost uniform
    tokenizer = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    ids = tokenizer("the cat ran to the house and a dog sat on the mat .")["input_ids"]
    page = tmp_path / "made.html"
    page.write_text(explain_html(model, tokenizer, [Feature(0, ids, [0] * len(ids))], ["a sentence"]))
    document = open_in_browser(page, tmp_path, script)
    for found in document.split("<title>")[1].split("</title>")[0].split():
        heads, fewest_colours = map(int, found.split(":"))
        assert heads == 2
        assert fewest_colours > 1


def test_an_explanation_says_where_a_text_was_longer(tmp_path):
    """Its first tokens are shown as they were read, among all of them; and a question once, whatever its windows."""
    model = ConvBertForQuestionAnswering(tiny.config(max_position_embeddings=128)).eval()
    tokenizer = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    kind, plan = kind_of(TASKS["squad1"]), FinetuningPlan(max_length=100, stride=4)
    examples = [
        Example("here", str(n), {"question": f"{animal} cat", "context": "the cat " * 80}, (("the", 0),))
        for n, animal in enumerate(("a", "the"))
    ]
    split = Split("dev", kind, examples, kind.features(examples, tokenizer, plan), plan, 0)
    answers = split.predict(model)
    write_pages(tmp_path, {"scores": {}}, split, answers, model, tokenizer, explain=True)
    page = (tmp_path / "explain.html").read_text()
    assert "Of longer texts the first 64 tokens are shown." in page
    shown = json.loads(page.split("id='data'>")[1].split("</script>")[0])
    assert [each["caption"] for each in shown] == ["a cat", "the cat"]
    assert [len(each["tokens"]) for each in shown] == [64, 64]
    ids, types = (
        torch.tensor([row]) for row in (split.features[0].input_ids, split.features[0].token_type_ids)
    )
    with torch.no_grad():
        read = model.base_model(ids, token_type_ids=types, output_attentions=True)
    first = np.frombuffer(base64.b64decode(shown[0]["layers"][0]["attention"]), "uint8")
    expected = (read.attentions[0][0, :, :64, :64] * 255).round().flatten().numpy()
    assert np.abs(first - expected).max() <= 1


def test_the_label_that_is_most_wrong_is_explained(monkeypatch):
    explained = []
    monkeypatch.setattr(
        "convbert.finetuning.report.token_influence", lambda *a: explained.append(a[-1]) or [0.0] * 3
    )
    kind = kind_of(TASKS["multi-label-classification"], ("a", "b", "c"))
    tokenizer = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    example, feature = Example("here", "0", {"text": "cat"}, ("a",)), Feature(0, [2, 5, 3], [0, 0, 0])
    split = Split("dev", kind, [example], [feature], FinetuningPlan(), 0)
    prediction = {"answer": ["a", "c"], "probabilities": {"a": 0.6, "b": 0.3, "c": 0.9}}
    shown = _worst(split, [prediction], None, tokenizer)
    assert explained == [2]
    assert "<b>a, c</b>, gold <b>a</b>, most wrong <b>c</b>" in shown
    assert "speak for the label that is most wrong</mark>" in shown


@pytest.mark.parametrize("name", ["report.html", "explain.html"])
def test_pages_need_no_network_and_escape_their_texts(name, run):
    document = (run / name).read_text(encoding="utf-8")
    assert "alert(1)</script>" not in document
    assert "src=" not in document
    assert "http" not in document.replace("http://www.w3.org", "")  # names of SVG; nothing that is loaded


def test_influence_is_the_change_of_the_logit(run):
    """Along a token's own embedding: gradient times input is the slope there, by finite differences."""
    found = FinetunedModel.load(str(run / "model"), device="cpu")
    split = found.split("dev", run.parent / "dev.tsv")
    feature = split.features[0]
    model = found.model.double()
    words = model.get_input_embeddings()(torch.tensor([feature.input_ids])).detach()

    def logit(token: int, by: float) -> float:
        moved = words.clone()
        moved[0, token] *= 1 + by
        with torch.no_grad():
            return model(inputs_embeds=moved).logits[0, 1].item()

    slopes = [(logit(n, 1e-5) - logit(n, -1e-5)) / 2e-5 for n in range(feature.length)]
    largest = max(map(abs, slopes))
    assert token_influence(model, split.kind, feature, 1) == pytest.approx(
        [s / largest for s in slopes], abs=1e-4
    )


def test_rendered_spans_by_eye():
    answered = Example("here", "q", {"question": "who ?", "context": "the cat & dog"}, (("cat & dog", 4),))
    shown = _answered(answered, {"answer": "cat", "start": 4, "score": 0.5})
    assert "the <mark class='both'>cat</mark><mark class='gold'> &amp; dog</mark>" in shown
    tagged = Example("here", "0", {"tokens": ["the", "cat"]}, ("O", "B-X"))
    assert (
        _tagged(tagged, {"answer": ["O", "B-Y"]})
        == "the <mark class='answer'>cat<sub>B-Y, gold B-X</sub></mark>"
    )
    assert "60,130,220" in tokens(["a"], [-1.0])


def test_tagging_and_questions_have_pages_too(start, tmp_path):
    sentences = [sentence(number)[0].split() for number in range(16)]
    rows = [{"tokens": words, "tags": ["O", "B-X", *["O"] * (len(words) - 2)]} for words in sentences]
    file = write_objects(tmp_path / "a.jsonl", rows)
    words = [
        "finetune",
        "--task",
        "entities",
        "--train",
        str(file),
        "--dev",
        str(file),
        "--model",
        str(start),
    ]
    assert main([*words, "--output", str(tmp_path / "run"), "--set", "epochs=1", "--device", "cpu"]) == 0
    report = (tmp_path / "run/report.html").read_text()
    assert "<mark class='answer'>" in report
    assert json.loads((tmp_path / "run/metrics.json").read_text())["metric"] == "entity_f1"
