"""The baselines and the bootstrap of `scripts/results.py`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from convbert.finetuning.adapters import adapter_of
from convbert.finetuning.data import Example
from convbert.finetuning.tasks import TASKS

SCRIPT = Path(__file__).parents[2] / "scripts/results.py"
WORDS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("results", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(task: str, number: int) -> Example:
    word = WORDS[number % 3]
    inputs, target = {
        "text-classification": ({"text": f"the {word} house"}, word),
        "regression": ({"text": f"the {word} house"}, float(number % 3)),
        "multiple-choice": (
            {"text": "a house", "choices": ["it is green", "it is red"][:: 1 - 2 * (number % 2)]},
            number % 2,
        ),
        "tagging": ({"tokens": ["the", word, "house"]}, ("DET", word.upper(), "NOUN")),
    }[task]
    return Example("here", str(number), inputs, target)


@pytest.mark.parametrize("task", ["text-classification", "regression", "multiple-choice", "tagging"])
def test_the_linear_model_learns_what_words_tell(task, results):
    examples = [example(task, number) for number in range(60)]
    adapter = adapter_of(TASKS[task])
    adapter.learn(examples)
    answers = results.linear_answers(adapter, examples[:48], examples[48:])
    scores = adapter.score(examples[48:], [{"answer": answer} for answer in answers])
    assert scores[adapter.task.metrics[0]] == pytest.approx(1.0, abs=0.02)


def test_there_is_no_linear_model_of_questions(results):
    assert results.linear_answers(adapter_of(TASKS["squad1"]), [], []) is None


def test_share_of_wins(results):
    examples = [example("text-classification", number) for number in range(30)]
    adapter = adapter_of(TASKS["text-classification"], WORDS)
    right = [{"answer": each.target} for each in examples]
    wrong = [{"answer": WORDS[(number + 1) % 3]} for number in range(30)]
    half = [(right, wrong)[number % 2][number] for number in range(30)]
    other_half = [(wrong, right)[number % 2][number] for number in range(30)]

    def share(ours, theirs):
        return results.share_of_wins(adapter, examples, ours, theirs, "accuracy", samples=30)

    assert share(right, wrong) == 1.0
    assert share(right, right) == 0.5
    assert 0.2 < share(half, other_half) < 0.8


def test_a_shortened_file_has_the_first_questions(results, tmp_path):
    paragraphs = [
        {"context": f"c{p}", "qas": [{"id": f"{p}-{q}", "question": "?", "answers": []} for q in range(3)]}
        for p in range(4)
    ]
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs[:1]}, {"paragraphs": paragraphs[1:]}]}))
    short = json.loads(results.shortened(path, 5, tmp_path / "new/short.json").read_text())
    ids = [qa["id"] for paragraph in short["data"][0]["paragraphs"] for qa in paragraph["qas"]]
    assert ids == ["0-0", "0-1", "0-2", "1-0", "1-1"]


def test_what_is_said_of_the_table_follows_from_its_numbers(results):
    shares = {"btc": (1.0, 0.98), "cola": (0.99, 0.6), "cosmosqa": (0.7, 0.01), "qamr": (0.98, 0.974)}
    said = results.summary([results.Outcome(name, "", *pair) for name, pair in shares.items()])
    assert "most frequent answer on 3 of 4 sets (btc, cola, qamr)" in " ".join(said.split())
    assert "both baselines on 1 (btc)" in " ".join(said.split())
    assert "- cola: no clear difference; asks for a sense of grammar" in said
    assert f"- cosmosqa: behind; {results.REASONS['cosmosqa']}\n" in said
    assert said.endswith("- qamr: no clear difference\n")
    assert "- btc" not in said


def test_the_footer_says_what_the_runs_say(results, tmp_path):
    for name, date, device, bf16 in (("a", "2026-11-24", "cpu", False), ("b", "2026-11-25", "cuda:0", True)):
        (tmp_path / name).mkdir()
        versions = {"torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"}
        seeds = {"0": {"device": device, "bf16": bf16}}
        (tmp_path / name / "metrics.json").write_text(json.dumps({"date": date, "seeds": seeds, **versions}))
    versions = "torch 2.13.0, transformers 5.23.0, Python 3.11.7"
    assert results.footer(tmp_path, ["a"]) == f"\n2026-11-24, {versions}, cpu, fp32.\n"
    (tmp_path / "undated").mkdir()
    undated = json.loads((tmp_path / "a/metrics.json").read_text())
    del undated["date"]
    (tmp_path / "undated/metrics.json").write_text(json.dumps(undated))
    assert results.footer(tmp_path, ["undated"]) == f"\n{versions}, cpu, fp32.\n"
    both = f"\n2026-11-24 to 2026-11-25, {versions}, cpu and cuda, bf16 and fp32.\n"
    assert results.footer(tmp_path, ["a", "b"]) == both
