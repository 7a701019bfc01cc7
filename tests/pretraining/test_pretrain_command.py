"""The commands `pretrain` and `prepare`: what they read, what they refuse before any work, what they write."""

import json
import subprocess
import sys

import pytest

from convbert.cli import main
from convbert.cli.prepare import check_tokenizer_options
from convbert.cli.pretrain import RECIPE_NAMES
from convbert.pretraining.corpus.prepare import Preparation
from convbert.pretraining.corpus.reading import Reading
from convbert.pretraining.prepare import NewVocabulary, prepare
from convbert.pretraining.recipes import RECIPES, smoke
from convbert.pretraining.run import pretrain
from convbert.util.errors import InputError
from convbert.util.schema import to_json

SENTENCE = "the old farmer likes a letter and the cat watches the river in the morning"


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.jsonl", "\n".join(f'{{"body": "{SENTENCE}"}}' for _ in range(40)), ["--text-column", "body"]),
        ("a.csv", "body,n\n" + f"{SENTENCE},1\n" * 40, ["--text-column", "body"]),
        ("a.txt", f"{SENTENCE}\n" * 40, ["--document-per-line"]),
    ],
)
def test_a_column_or_a_line_is_a_document(tmp_path, capsys, name, content, options):
    (tmp_path / name).write_text(content)
    command = [
        *(
            "pretrain",
            "--recipe",
            "smoke",
            "--corpus",
            str(tmp_path / name),
            "--output",
            str(tmp_path / "run"),
        ),
        *("--device", "cpu", "--max-steps", "1", "--set", "min_sequence_length=3", *options),
    ]
    assert main(command) == 0
    manifest = json.loads((tmp_path / "run/data/train/manifest.json").read_text())
    assert manifest["documents"] == 40
    assert f"{name} (" in capsys.readouterr().err  # with its size
    (tmp_path / "run/metrics.json").unlink()
    assert main(command[: -len(options)]) == 2  # another run than the one that began


def test_a_prepared_corpus_has_decided_its_column(corpus, tmp_path):
    made = tmp_path / "made"
    manifest = prepare(Preparation(corpus, made, smoke().packing), NewVocabulary(200))
    quiet = {"device": "cpu", "report": lambda message: None}
    with pytest.raises(InputError, match="document_per_line"):
        pretrain(smoke(), made, tmp_path / "run", reading=Reading(document_per_line=True), **quiet)
    told: list[str] = []
    assert pretrain(smoke(max_steps=1), made, tmp_path / "run", device="cpu", report=told.append).finished
    assert f"{manifest.count('tokens'):,} tokens" in told[0]
    assert "train.txt (" in told[0]


USAGE = [
    ([], "corpus"),
    (["--corpus", "{corpus}"], "--output is missing"),
    (["--corpus", "{corpus}", "--output", "out", "--recipe", "large"], "large"),
    (["--corpus", "not/there.txt", "--output", "out"], "not/there.txt"),
    (["--corpus", "{corpus}", "--heldout", "not/there", "--output", "out"], "not/there"),
    (["--corpus", "{corpus}", "--output", "out", "--tokenizer", "not/there"], "not/there"),
    (["--corpus", "{corpus}", "--output", "out", "--start-from", "./not/there"], "not/there"),
    (["--corpus", "{corpus}", "--output", "out", "--start-from", "embedded", "--cased"], "--cased"),
    (["--corpus", "{corpus}", "--output", "out", "--tokenizer", "{folder}", "--strip-accents"], "--strip"),
    (["--corpus", "{corpus}", "--output", "out", "--device", "tpu"], "tpu"),
]


def test_wrong_usage_is_said_before_torch_is_loaded(corpus):
    commands = [["pretrain", *options] for options, _ in USAGE]
    commands += [["prepare", "--output", "out"], ["prepare", "--output", "out", "--corpus", "not/there.txt"]]
    commands = [
        [word.format(corpus=corpus, folder=corpus.parent) for word in command] for command in commands
    ]
    script = (
        "import json, sys\nfrom convbert.cli import main\n"
        "codes = [main(command) for command in json.loads(sys.argv[1])]\n"
        "print(codes, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == f"{[2] * len(commands)} False".split()
    lines = [line for line in done.stderr.splitlines() if "error" in line or "issing" in line]
    for line, named in zip(
        lines, [*(named for _, named in USAGE), "nothing to prepare", "not/there"], strict=True
    ):
        assert named in line


def test_the_recipes_that_the_command_names_are_those_there_are():
    assert tuple(RECIPES) == RECIPE_NAMES


def test_json_has_null_in_place_of_nan():
    figures = json.loads(to_json({"auc": float("nan"), "inner": {"loss": float("inf"), "steps": 3}}))
    assert figures == {"auc": None, "inner": {"loss": None, "steps": 3}}


def test_a_size_that_a_given_tokenizer_has_decided_is_said_not_to_be_used(tmp_path, capsys):
    check_tokenizer_options(tmp_path, None, 300, None, None)
    assert "--vocab-size 300 is not used" in capsys.readouterr().err
    check_tokenizer_options(None, None, 300, None, None)
    assert not capsys.readouterr().err
