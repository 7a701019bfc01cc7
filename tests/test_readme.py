"""Every snippet of the README, of the guide and of the tutorials runs, as written, offline."""

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
TUTORIALS = ("fill-masks", "fine-tune", "pre-train", "browser")
PAGES = (
    "README.md",
    "docs/using.md",
    "docs/distillation.md",
    *(f"docs/tutorials/{name}.md" for name in TUTORIALS),
)
SNIPPETS = [
    (page, language, text)
    for page in PAGES
    for language, text in re.findall(
        r"^```(python|bash)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S
    )
]
SNIPPETS.append(
    ("examples/own_language.sh", "bash", (ROOT / "examples/own_language.sh").read_text(encoding="utf-8"))
)
NODE_MODULES = os.environ.get("CONVBERT_NODE_MODULES", "")


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
    (folder / "all").mkdir()
    for name in ("one", "two"):
        (folder / f"all/{name}.csv").write_text("review\na warm and funny film\n", encoding="utf-8")
    (folder / "pairs.tsv").write_text("a warm film\ta good film\n", encoding="utf-8")
    (folder / "corpus.txt").write_text("\n".join([paragraph * 5] * 40), encoding="utf-8")
    released = folder / "YituTech/conv-bert-base"
    config = theirs.ConvBertConfig(vocab_size=len(tiny.WORDS), num_hidden_layers=2, pad_token_id=0)
    theirs.ConvBertForMaskedLM(config).save_pretrained(released)
    (released / "vocab.txt").write_text("".join(f"{word}\n" for word in tiny.WORDS), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def names_of(snippets_folder):
    """What a snippet and those before it on its page defined; they run in order, each once, and in its own test."""
    done, commands = [], set()

    def run(number):
        while len(done) <= number:
            page, language, text = SNIPPETS[len(done)]
            before = [names for (where, *_), names in zip(SNIPPETS, done, strict=False) if where == page]
            names = dict(before[-1]) if before else {"__name__": "__main__"}
            with contextlib.chdir(snippets_folder):
                if language == "python":
                    exec(text, names)
                else:
                    run_commands(text, commands)
            done.append(names)
        return done[number]

    return run


def run_commands(text, done):
    """In this process, as most of the time of another would go into its imports; what several pages say, once."""
    for line in text.replace("\\\n", "").splitlines():
        words = tuple(shlex.split(line, comments=True))
        if not words or words in done or words[0] == "set":
            continue
        done.add(words)
        words, file = (words[:-2], words[-1]) if ">" in words else (words, os.devnull)
        if words[0] == "python":
            assert words[1:4] == ("-m", "http.server", "--directory")  # never ends
            continue
        if "web" in words:
            if not NODE_MODULES:
                continue  # there is no npm; tests/export/test_page.py is skipped for the same reason, and says it
            words += ("--node-modules", NODE_MODULES)
        (command,) = entry_points(group="console_scripts", name=words[0])
        with open(file, "w") as stdout, contextlib.redirect_stdout(stdout):
            assert command.load()(list(words[1:])) == 0, line


def test_every_page_has_its_snippets():
    languages = [language for page, language, _ in SNIPPETS if page == "README.md"]
    assert languages == ["bash", "python", "bash", "bash", "python", "bash", "python", "python"]
    assert {page for page, *_ in SNIPPETS} == {*PAGES, "examples/own_language.sh"}


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs(number, names_of):
    names_of(number)


def test_what_the_snippets_made(names_of, snippets_folder):
    """The fine-tuned folder opens in transformers, the filled lines are all there, the shapes are as said."""
    names_of(len(SNIPPETS) - 1)
    shown = next(
        number for number, (*_, text) in enumerate(SNIPPETS) if "output = model(**batch, output_att" in text
    )
    output = names_of(shown)["output"]
    theirs.ConvBertForSequenceClassification.from_pretrained(snippets_folder / "runs/sentiment/model")
    convbert.ConvBertForMaskedLM.from_pretrained(snippets_folder / "runs/first/model")
    theirs.ConvBertForSequenceClassification.from_pretrained(snippets_folder / "runs/reviews/model")
    assert '"answer": "' in (snippets_folder / "stars.jsonl").read_text(encoding="utf-8")
    assert len((snippets_folder / "filled.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert (snippets_folder / "site/index.html").is_file() or not NODE_MODULES
    assert output.last_hidden_state.shape[:2] == output.conv_kernels[0].shape[:2] == (2, 7)
