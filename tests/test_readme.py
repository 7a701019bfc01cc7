"""Every snippet of the README runs, as written, offline."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import transformers.models.convbert as theirs

import convbert

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"^```(python|bash)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the snippets name: lines, a corpus, a released checkpoint (a random twin of theirs)."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "lines.txt").write_text("The [MASK] is blue.\n" * 3, encoding="utf-8")
    paragraph = "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"
    (folder / "corpus.txt").write_text("\n".join([paragraph * 5] * 40), encoding="utf-8")
    released = folder / "YituTech/conv-bert-base"
    config = theirs.ConvBertConfig(vocab_size=len(tiny.WORDS), num_hidden_layers=2, pad_token_id=0)
    theirs.ConvBertForMaskedLM(config).save_pretrained(released)
    (released / "vocab.txt").write_text("".join(f"{word}\n" for word in tiny.WORDS), encoding="utf-8")
    return folder


def test_the_readme_has_its_snippets():
    assert [language for language, _ in SNIPPETS] == ["bash", "python", "python", "bash", "python"]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number, workplace):
    language, text = SNIPPETS[number]
    commands = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euc", text]
    done = subprocess.run(
        command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    if "conv-bert-base" in text and language == "python" and "output_conv_kernels" in text:
        assert "torch.Size([2, " in done.stdout


def test_what_the_snippets_made(workplace):
    """Runs after the snippets: the fine-tuned folder opens in transformers, the filled lines are all there."""
    if not (workplace / "runs/sentiment/model").exists():
        pytest.skip("needs the snippets before it")
    theirs.ConvBertForSequenceClassification.from_pretrained(workplace / "runs/sentiment/model")
    convbert.ConvBertForMaskedLM.from_pretrained(workplace / "runs/first/model")
    assert len((workplace / "filled.jsonl").read_text(encoding="utf-8").splitlines()) == 3
