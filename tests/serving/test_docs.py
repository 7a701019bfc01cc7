"""What the README, the guide and the tutorial say of the server runs as written, against one in this process."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from convbert.cli import main
from convbert.serving.worker import Models
from servers import Batcher, in_thread, serving

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/serving.md", "docs/tutorials/serve.md")
}
ADDRESS = "http://127.0.0.1:8000"
PROGRAMS = [
    (name, text)
    for name, page in PAGES.items()
    for text in re.findall(r"^```py\n(.*?)^```$", page, re.M | re.S)
    if ADDRESS in text
]
QUESTIONS = [line.strip() for page in PAGES.values() for line in page.splitlines() if "curl http" in line]
COMMANDS = [
    line.strip()
    for page in PAGES.values()
    for line in page.splitlines()
    if re.match(r"\s+(CONVBERT_API_KEY=\S+ )?convbert serve", line)
]


@pytest.fixture(scope="module")
def server(folders):
    models = Models((("convbert", None), ("reviews", str(folders["reviews"]))), "fp32")
    with serving(Batcher(models, make_pool=in_thread)) as running:
        yield running


def test_every_page_has_something_to_run():
    assert {name for name, _ in PROGRAMS} == set(PAGES)
    assert (len(PROGRAMS), len(QUESTIONS), len(COMMANDS)) == (4, 2, 4)


@pytest.mark.filterwarnings("ignore::convbert.util.errors.DataWarning")  # the classifier knows few words
@pytest.mark.parametrize(("name", "text"), PROGRAMS)
def test_programs_run(server, name, text, monkeypatch, capsys):
    if "openai" in text:
        pytest.importorskip("openai", reason="needs the client")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    exec(text.replace(ADDRESS, server.url), {})
    assert "print" not in text or "LABEL" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("line", QUESTIONS)
def test_questions_of_a_terminal_are_answered(server, line):
    words = shlex.split(line.replace(ADDRESS, server.url))
    done = subprocess.run(
        [*words, "--silent", "--fail-with-body"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all("score" in str(each) for each in json.loads(done.stdout))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line, monkeypatch):
    started = []
    monkeypatch.setattr(
        "convbert.serving.run.serve", lambda models, **options: started.append((models, options["port"]))
    )
    words = shlex.split(line, comments=True)
    assert main(words[words.index("serve") :]) == 0
    ((models, port),) = started
    assert (len(models), port) == (words.count("--model"), 8080 if "8080" in words else 8000)
