"""Every snippet of the README and of the guide runs, as written, offline."""

import contextlib
import os
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import transformers.models.convbert as theirs

import convbert
import tiny

ROOT = Path(__file__).parent.parent
README, GUIDE = (
    re.findall(r"^```(python|bash)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    for page in ("README.md", "docs/using.md")
)
SNIPPETS = README + GUIDE


@pytest.fixture(scope="module")
def snippets_folder(tmp_path_factory):
    """A folder with what the snippets name: lines, a corpus, a released checkpoint (a random twin of theirs)."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "lines.txt").write_text("The [MASK] is blue.\n" * 3, encoding="utf-8")
    reviews = "".join(f"{text},{stars}\n" for text, stars in (("a warm film", 5), ("two lost hours", 1)) * 8)
    for name in ("train.csv", "dev.csv"):
        (folder / name).write_text(f"review,stars\n{reviews}", encoding="utf-8")
    (folder / "new.csv").write_text("review\na warm and funny film\n", encoding="utf-8")
    paragraph = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"
    (folder / "corpus.txt").write_text("\n".join([paragraph * 5] * 40), encoding="utf-8")
    released = folder / "YituTech/conv-bert-base"
    config = theirs.ConvBertConfig(vocab_size=len(tiny.WORDS), num_hidden_layers=2, pad_token_id=0)
    theirs.ConvBertForMaskedLM(config).save_pretrained(released)
    (released / "vocab.txt").write_text("".join(f"{word}\n" for word in tiny.WORDS), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def names_of(snippets_folder):
    """What a snippet defined; those before it on the page have run by then, each once, and in its own test."""
    done = []

    def run(number):
        while len(done) <= number:
            with contextlib.chdir(snippets_folder):
                done.append(run_snippet(*SNIPPETS[len(done)]))
        return done[number]

    return run


def run_snippet(language, text):
    """In this process, as most of the time of another would go into its imports."""
    names = {"__name__": "__main__"}
    if language == "python":
        exec(text, names)
        return names
    for line in text.replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        words, file = (words[:-2], words[-1]) if ">" in words else (words, os.devnull)
        (command,) = entry_points(group="console_scripts", name=words[0])
        with open(file, "w") as stdout, contextlib.redirect_stdout(stdout):
            assert command.load()(words[1:]) == 0, line
    return names


def test_the_readme_has_its_snippets():
    languages = ["bash", "python", "python", "bash", "python", "bash", "python"]
    assert [language for language, _ in README] == languages
    assert len(GUIDE) == 2


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs(number, names_of):
    assert names_of(number)


def test_what_the_snippets_made(names_of, snippets_folder):
    """The fine-tuned folder opens in transformers, the filled lines are all there, the shapes are as said."""
    output = names_of(len(README) - 1)["output"]
    theirs.ConvBertForSequenceClassification.from_pretrained(snippets_folder / "runs/sentiment/model")
    convbert.ConvBertForMaskedLM.from_pretrained(snippets_folder / "runs/first/model")
    theirs.ConvBertForSequenceClassification.from_pretrained(snippets_folder / "runs/reviews/model")
    assert '"answer": "' in (snippets_folder / "stars.jsonl").read_text(encoding="utf-8")
    assert len((snippets_folder / "filled.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert output.last_hidden_state.shape[:2] == output.conv_kernels[0].shape[:2] == (2, 7)
