"""The pages open in a real browser, draw what they should, complain of nothing, and ask for no other file."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from browser import CHROMIUM, open_in_browser, overflow
from convbert import ConvBertForQuestionAnswering, ConvBertForSequenceClassification, ConvBertTokenizerFast
from convbert.cli import main
from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.data import Example, Feature, Split
from convbert.finetuning.evaluation import FinetunedModel, write_pages
from convbert.finetuning.explain import explain_html
from convbert.finetuning.mistakes import answered, tagged, token_influence, worst_mistakes
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.report import intervals, report_html
from convbert.finetuning.tasks import TASKS
from convbert.report.page import tokens
from labelled import sentence, write_objects, write_sentences


@pytest.fixture(scope="module")
def run(start, tmp_path_factory) -> Path:
    """A short run on texts with characters that HTML gives a meaning to."""
    folder = tmp_path_factory.mktemp("pages")
    write_sentences(folder / "train.tsv", 32)
    write_sentences(folder / "dev.tsv", 8)  # then there are nine
    with (folder / "dev.tsv").open("a") as more:
        more.write("the <b>cat</b> & </script><script>alert(1)</script>\t0\n")
    words = ["finetune", "--task", "sst2", "--data", str(folder), "--model", str(start), "--device", "cpu"]
    fields = (f"--set={field}" for field in ("epochs=1", "batch_size=8", "log_every=1"))
    assert main([*words, "--output", str(folder / "run"), *fields, "--explain"]) == 0
    return folder / "run"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_report_opens_in_a_browser(run, tmp_path):
    script = """
      const count = what => document.querySelectorAll(what).length;
      document.title += ` ${count('svg')} ${count('.card')}`;
    """
    document = open_in_browser(run / "report.html", tmp_path, script)
    curves, cards = document.split("<title>")[1].split("</title>")[0].split()[-2:]
    assert curves == "1"  # the loss; of one evaluation there is no curve, but a row of a table
    assert int(cards) >= 1
    assert "negative" in document
    assert "confusion" in document
    assert overflow(run / "report.html", tmp_path) == 0


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
    adapter, plan = adapter_of(TASKS["squad1"]), FinetuningPlan(max_length=100, stride=4)
    examples = [
        Example("here", str(n), {"question": f"{animal} cat", "context": "the cat " * 80}, (("the", 0),))
        for n, animal in enumerate(("a", "the"))
    ]
    split = Split("dev", adapter, examples, adapter.features(examples, tokenizer, plan), plan)
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
        "convbert.finetuning.mistakes.token_influence", lambda *a: explained.append(a[-1]) or [0.0] * 3
    )
    adapter = adapter_of(TASKS["multi-label-classification"], ("a", "b", "c"))
    tokenizer = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    example, feature = Example("here", "0", {"text": "cat"}, ("a",)), Feature(0, [2, 5, 3], [0, 0, 0])
    split = Split("dev", adapter, [example], [feature], FinetuningPlan())
    prediction = {"answer": ["a", "c"], "probabilities": {"a": 0.6, "b": 0.3, "c": 0.9}}
    shown = worst_mistakes(split, [prediction], None, tokenizer)
    assert explained == [2]
    assert (
        "model: <b><bdi>a, c</bdi></b>, right: <b><bdi>a</bdi></b>, most wrong: <b><bdi>c</bdi></b>" in shown
    )
    assert "speak for the label that is most wrong</mark>" in shown


@pytest.mark.parametrize("name", ["report.html", "explain.html"])
def test_pages_need_no_network_and_escape_their_texts(name, run):
    document = (run / name).read_text(encoding="utf-8")
    assert "alert(1)</script>" not in document
    assert "src=" not in document
    assert "http" not in document.replace("http://www.w3.org", "")  # names of SVG; nothing that is loaded


def test_the_report_names_what_it_is_of(run):
    document = (run / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((run / "metrics.json").read_text())
    text = re.sub(r"<[^>]+>", " ", document.split("<body>")[1])
    for name in ("train", "dev"):
        assert str(run.parent / f"{name}.tsv") in text
    for said in (metrics["model"], metrics["date"], "32 examples", "9 examples", f"torch {metrics['torch']}"):
        assert said in text
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in document.split("<tr>")]
    rows = {row[0]: row[1:] for row in cells if row}
    # label: right answers in dev, the model's, those in training
    assert (rows["negative"][3], rows["negative"][5]) == ("5", "16")
    assert (rows["positive"][3], rows["positive"][5]) == ("4", "16")
    assert int(rows["negative"][4]) + int(rows["positive"][4]) == 9
    assert "gold" not in text
    assert "dev loss" in text or "loss, dev" in text


def test_the_dev_loss_is_that_of_the_model(run):
    """Cross-entropy of the predictions on file, by hand, beside what the last step logged."""
    lines = (run / "dev_predictions.jsonl").read_text().splitlines()
    shares = [found["probabilities"][found["gold"]] for found in map(json.loads, lines)]
    logged = [json.loads(line) for line in (run / "seed-0/log.jsonl").read_text().splitlines()]
    (dev_loss,) = (entry["dev_loss"] for entry in logged if "dev_loss" in entry)
    assert dev_loss == pytest.approx(-np.log(shares).mean(), rel=1e-4)


def made_split(task: str, labels: tuple[str, ...], targets: list, **more) -> Split:
    """Labelled examples without tokens, for what is worked out from answers alone."""
    examples = [Example(f"file: line {n}", str(n), {"text": "a"}, target) for n, target in enumerate(targets)]
    return Split("dev", adapter_of(TASKS[task], labels, **more), examples, [], FinetuningPlan())


def test_an_accuracy_has_wilsons_interval():
    """Its bounds solve (p - x)² = z² p (1 - p) / n: 45 of 60 right."""
    split = made_split("sst2", ("negative", "positive"), ["positive"] * 60)
    low, high = intervals(split, [{"answer": ("negative", "positive")[n < 45]} for n in range(60)])[
        "accuracy"
    ]
    for bound in (low, high):
        assert (bound - 0.75) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / 60, rel=1e-4)
    assert low < 0.75 < high


def test_other_scores_have_the_bootstraps_interval():
    """Close to what theory says: of words tagged right at random, a binomial's; of a correlation, Fisher's."""
    dice = np.random.default_rng(1)
    tags = [{"answer": ["A" if dice.random() < 0.8 else "B"]} for _ in range(400)]
    split = made_split("tagging", ("A", "B"), [("A",)] * 400)
    share = np.mean([tag["answer"] == ["A"] for tag in tags])
    low, high = intervals(split, tags)["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * (share * (1 - share) / 400) ** 0.5, rel=0.15)
    right = dice.normal(size=400)
    answers = right + dice.normal(size=400)
    low, high = intervals(
        made_split("regression", (), right.tolist()), [{"answer": a} for a in answers.tolist()]
    )["pearson"]
    found = np.arctanh(np.corrcoef(right, answers)[0, 1])
    expected = np.tanh(found + 1.96 / 397**0.5) - np.tanh(found - 1.96 / 397**0.5)
    assert high - low == pytest.approx(expected, rel=0.2)
    assert low < np.tanh(found) < high


def report_of(split: Split, predictions: list, histories=None, **metrics) -> str:
    scores = {"scores": {"dev": split.score(predictions)}, **metrics}
    return report_html("a title", scores, split, predictions, None, None, histories)


def test_a_label_that_is_never_answered_is_named_and_has_no_precision():
    split = made_split("sst2", ("negative", "positive"), ["negative"] * 4)
    for target in split.examples:  # right throughout, so that no model is asked why
        assert target.target == "negative"
    document = report_of(split, [{"answer": "negative"}] * 4)
    row = document.split("<td dir='auto'>positive</td>")[1].split("</tr>")[0]
    assert re.findall(r">([^<>]+)</td>", row) == ["–", "–", "–", "0", "0"]


def test_choices_are_counted_by_their_place():
    """Whatever labels a configuration has."""
    split = made_split("copa", ("LABEL_0",), [0, 1, 1])
    answers = [{"answer": n, "probabilities": [0.4, 0.6]} for n in (0, 1, 1)]
    document = report_of(split, answers)
    rows = [re.findall(r">([^<>]+)</t[hd]>", row) for row in document.split("<tr>")]
    assert ["choice 1", "1", "1", "1", "1", "1"] in rows
    assert ["choice 2", "1", "1", "1", "2", "2"] in rows
    assert ["choice 2", "0", "2"] in rows  # of the matrix
    assert "LABEL_0" not in document


def test_a_model_that_says_one_thing_has_no_interval_of_no_width():
    split = made_split("cola", ("unacceptable", "acceptable"), ["acceptable", "unacceptable"] * 9)
    found = intervals(split, [{"answer": "acceptable"}] * 18)
    assert found.keys() == {"accuracy"}
    assert found["accuracy"][0] < 0.5 < found["accuracy"][1]


@pytest.mark.parametrize("count", [1, 3])
def test_numbers_that_are_all_right_or_all_the_same(count):
    """No spread, no correlation, perhaps one example: the page is written all the same."""
    split = made_split("regression", (), [2.5] * count)
    document = report_of(split, [{"answer": 2.5}] * count)
    assert ("<svg" in document) == (count > 1)
    assert "nan" not in document.lower()


def test_scores_of_seeds_are_drawn_on_one_scale_and_one_evaluation_is_none():
    split = made_split("sst2", ("negative", "positive"), ["negative", "positive"] * 4)
    answers = [{"answer": label} for label in ("negative", "positive") * 4]

    def history(*scores: float) -> list[dict]:
        return [{"step": n, "dev_accuracy": score, "dev_loss": 1.0} for n, score in enumerate(scores, 1)]

    more = {"metric": "accuracy", "spread": {"lowest": 0.5, "highest": 0.52}, "best_seed": 0}
    once = report_of(split, answers, {"seed 0": history(0.5)}, **more)
    assert "<svg" not in once
    twice = report_of(split, answers, {"seed 0": history(0.5, 0.51), "seed 1": history(0.52)}, **more)
    drawing = twice.split("<figcaption>accuracy on dev</figcaption>")[1].split("</svg>")[0]
    ticks = re.findall(r">([0-9.]+)</text>", drawing.split('id="matplotlib.axis_2"')[1])
    assert (min(map(float, ticks)), max(map(float, ticks))) == (0, 1)


HARD = ("x" * 300, "\u05e9\u05dc\u05d5\u05dd" * 40, "\u4f60\u597d" * 150)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("task", ["tagging", "question-answering", "explain"])
def test_no_text_is_wider_than_a_phone(task, tmp_path):
    page = tmp_path / "page.html"
    about = {"model": "/".join(HARD), "files": {"dev": "/".join(HARD)}, "examples": {"dev": 1}}
    if task == "explain":
        tokenizer = ConvBertTokenizerFast(vocab={word: n for n, word in enumerate((*tiny.WORDS, *HARD))})
        ids = [*range(len(tokenizer))][-60:]
        config = tiny.config(vocab_size=len(tokenizer), max_position_embeddings=64)
        model = ConvBertForSequenceClassification(config)
        page.write_text(
            explain_html(model, tokenizer, [Feature(0, ids, [0] * len(ids))], [" ".join(HARD)], about)
        )
    elif task == "tagging":
        split = made_split("tagging", HARD, [HARD])
        split.examples[0].inputs["tokens"] = list(HARD)
        page.write_text(report_of(split, [{"answer": list(HARD[::-1])}], **about))
    else:
        context = " ".join(HARD * 9)
        inputs = {"question": HARD[2], "context": context}
        adapter = adapter_of(TASKS["question-answering"])
        split = Split("dev", adapter, [Example(HARD[0], "0", inputs, ((HARD[0], 0),))], [], FinetuningPlan())
        start = context.index(HARD[1])
        page.write_text(report_of(split, [{"answer": HARD[1], "start": start, "score": 0.5}], **about))
    assert overflow(page, tmp_path) == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_columns_of_attention_have_their_tokens(tmp_path):
    model = ConvBertForSequenceClassification(tiny.config())
    tokenizer = ConvBertTokenizerFast(vocab={word: index for index, word in enumerate(tiny.WORDS)})
    ids = tokenizer("the cat sat on the mat .")["input_ids"]
    page = tmp_path / "explain.html"
    page.write_text(explain_html(model, tokenizer, [Feature(0, ids, [0] * len(ids))], ["a sentence"]))
    script = """
      const of = kind => [...document.querySelectorAll(`#attention figure:first-child .${kind}`)];
      const canvas = document.querySelector('#attention canvas').getBoundingClientRect();
      const middle = box => Math.round((box.left + box.width / 2 - canvas.left) / canvas.width * 1000);
      document.title = [of('column').map(e => e.textContent), of('row').map(e => e.textContent),
        of('column').map(e => middle(e.getBoundingClientRect()))].map(e => e.join(' ')).join('|');
    """
    document = open_in_browser(page, tmp_path, script)
    columns, rows, places = document.split("<title>")[1].split("</title>")[0].split("|")
    names = tokenizer.convert_ids_to_tokens(ids)
    assert columns.split() == rows.split() == names
    expected = [1000 * (n + 0.5) / len(names) for n in range(len(names))]  # each above its column
    assert [int(place) for place in places.split()] == pytest.approx(expected, abs=10)


def test_a_long_context_is_shown_around_its_answers():
    context = "a" * 5000 + " right " + "b" * 5000
    example = Example("here", "q", {"question": "who ?", "context": context}, (("right", 5001),))
    shown = answered(example, {"answer": "", "start": 0, "score": 0.5})
    assert "<mark class='gold'>right</mark>" in shown
    assert len(shown) < 2000


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
    assert token_influence(model, split.adapter, feature, 1) == pytest.approx(
        [s / largest for s in slopes], abs=1e-4
    )


def test_rendered_spans_by_eye():
    question = Example("here", "q", {"question": "who ?", "context": "the cat & dog"}, (("cat & dog", 4),))
    shown = answered(question, {"answer": "cat", "start": 4, "score": 0.5})
    assert "the <mark class='both'>cat</mark><mark class='gold'> &amp; dog</mark>" in shown
    words = Example("here", "0", {"tokens": ["the", "cat"]}, ("O", "B-X"))
    assert (
        tagged(words, {"answer": ["O", "B-Y"]})
        == "<p dir='auto'>the <mark class='answer'>cat<sub>B-Y, right: B-X</sub></mark></p>"
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
