"""The command line: what it prints, in which order, and with which exit code."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import convbert
import processes
import tiny
from convbert.bulk.inputs import LONGEST_LINE_BYTES, open_lines, read_blocks
from convbert.cli import main

SOURCE = str(Path(convbert.__file__).parents[1])
VERBS = (
    ["fill-mask"],
    ["tokenizer", "train"],
    ["pretrain"],
    ["finetune"],
    ["evaluate"],
    ["predict"],
    ["prepare"],
    ["convert"],
    ["push"],
    ["doctor"],
    ["serve"],
)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture
def stdin(monkeypatch):
    """Set what the command reads from stdin."""

    def set_bytes(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return set_bytes


def test_the_shell_completes_verbs():
    words = {"_CONVBERT_COMPLETE": "complete_bash", "COMP_WORDS": "convbert fi", "COMP_CWORD": "1"}
    environment = {**os.environ, **words, "PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, "-m", "convbert"], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["fill-mask", "finetune"]


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# ------------------------------------------------------------------------------------------ the command


def test_help_and_version_import_nothing_heavy():
    script = (
        "import sys; from convbert.cli import main\n"
        "for words in ('--help', '--version', 'pretrain --help', 'fill-mask --help', '--nope'):\n"
        "    main(words.split())\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_of_every_verb_has_examples(verb, capsys):
    assert main([*verb, "--help"]) == 0
    help_text = capsys.readouterr().out
    assert "Examples:\n  " in help_text.replace("    convbert", "  convbert")
    assert help_text.count(f"convbert {' '.join(verb)} ") + help_text.count("convbert doctor\n") >= 2


def test_without_arguments_shows_help(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: convbert")


def test_version_is_the_package_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"convbert {convbert.__version__}\n"


def test_unknown_option_is_one_line(capsys):
    assert main(["fill-mask", "--nope"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("convbert: error: ")
    assert "--nope" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["--debug", "fill-mask", "no mask"], ["fill-mask", "no mask", "--debug"]])
def test_debug_shows_where_an_error_came_from(words, model_dir):
    with pytest.raises(convbert.InputError, match="MASK"):
        main([*words, "--model", str(model_dir)])


def test_own_mistakes_are_told_apart_from_wrong_input(capsys, monkeypatch):
    monkeypatch.setattr("convbert.cli.doctor.json", None)
    monkeypatch.setattr("convbert.inference.doctor.examine", list)
    assert main(["doctor", "--json"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("convbert: internal error: AttributeError")
    assert error.count("\n") == 1


def test_ctrl_c_is_quiet(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("convbert.inference.doctor.examine", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == ""


# -------------------------------------------------------------------------------------------- fill-mask


def test_fill_mask_gives_what_the_pipeline_gives(model_dir, capsys):
    texts = ["the [MASK] sat .", "a [MASK] ran to the [MASK] ."]
    assert main(["fill-mask", *texts, "--json", "--top-k", "3", "--model", str(model_dir)]) == 0
    found = json_lines(capsys.readouterr().out)
    expected = convbert.pipeline("fill-mask", str(model_dir), top_k=3)(texts)
    assert [answer["text"] for answer in found] == texts
    assert found[0]["masks"] == [expected[0]]
    assert found[1]["masks"] == expected[1]
    assert [len(mask) for mask in found[1]["masks"]] == [3, 3]


def test_fill_mask_table(model_dir, capsys):
    assert main(["fill-mask", "the [MASK] sat .", "--top-k", "2", "--model", str(model_dir)]) == 0
    table = capsys.readouterr().out
    best = convbert.pipeline("fill-mask", str(model_dir))("the [MASK] sat .")
    assert "the [MASK] sat ." in table
    assert all(found["token_str"] in table and f"{found['score']:.3f}" in table for found in best[:2])


def test_fill_mask_reads_a_compressed_file_as_it_reads_the_file(model_dir, tmp_path, capsys):
    plain, packed = tmp_path / "texts.txt", tmp_path / "texts.txt.gz"
    plain.write_bytes(b"the [MASK] sat .\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    said = []
    for file in (plain, packed):
        assert main(["fill-mask", "--file", str(file), "--model", str(model_dir)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    packed.write_bytes(packed.read_bytes()[:-9])
    assert main(["fill-mask", "--file", str(packed), "--model", str(model_dir)]) == 2
    assert str(packed) in capsys.readouterr().err


def test_fill_mask_answers_a_file_in_its_order(model_dir, tmp_path, capsys):
    texts = [f"the [MASK] {'and a dog ' * (number % 5)}." for number in range(40)]
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeff".encode() + "\r\n".join(texts).encode())
    assert main(["fill-mask", "--file", str(file), "--json", "--model", str(model_dir)]) == 0
    found = json_lines(capsys.readouterr().out)
    assert [answer["text"] for answer in found] == texts
    assert [answer["line"] for answer in found] == list(range(1, 41))
    alone = convbert.pipeline("fill-mask", str(model_dir))(texts[3])
    assert [word["token"] for word in found[3]["masks"][0]] == [word["token"] for word in alone]
    assert [word["score"] for word in found[3]["masks"][0]] == pytest.approx(
        [w["score"] for w in alone], abs=1e-5
    )


def test_fill_mask_rows_of_stdin(model_dir, stdin, capsys):
    stdin(b"the [MASK] sat .\na [MASK] and a [MASK] .")
    assert main(["fill-mask", "-", "--top-k", "2", "--model", str(model_dir)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [len(row) for row in rows] == [2, 3]
    assert [row[0] for row in rows] == ["the [MASK] sat .", "a [MASK] and a [MASK] ."]
    assert all(len(cell.split()) == 2 for row in rows for cell in row[1:])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_fill_mask_in_every_precision(precision, monkeypatch, capsys):
    monkeypatch.setattr("convbert.inference.precision.supports_bfloat16", lambda device: False)
    assert main(["fill-mask", "He did [MASK] know.", "--json", "--precision", precision]) == 0
    captured = capsys.readouterr()
    assert json_lines(captured.out)[0]["masks"][0][0]["token_str"] == "not"
    slower = ["convbert: warning: bf16 is slower than fp32 here: this processor has no bf16 instructions"]
    assert captured.err.splitlines() == (slower if precision == "bf16" else [])


def test_fill_mask_refuses_a_precision(capsys):
    assert main(["fill-mask", "He did [MASK] know.", "--precision", "fp8"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "convbert: error: precision must be one of auto, fp32, bf16, int8; got 'fp8'\n"
    assert captured.out == ""


BAD_LINES = {
    "no mask": (b"the cat sat .", "[MASK]"),
    "empty": (b"", "empty"),
    "too long": (b"[MASK]" + b" cat" * 40, "43 tokens"),
    "not UTF-8": (b"the [MASK] \xff", "not UTF-8"),
}


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_line_stops_after_the_results_before_it(bad, model_dir, stdin, capsys):
    line, reason = BAD_LINES[bad]
    stdin(b"the [MASK] sat .\na [MASK] .\n" + line + b"\nthe [MASK] .\n")
    assert main(["fill-mask", "-", "--json", "--long", "refuse", "--model", str(model_dir)]) == 2
    captured = capsys.readouterr()
    assert [answer["line"] for answer in json_lines(captured.out)] == [1, 2]
    assert captured.err.startswith("convbert: error: stdin: line 3: ")
    assert reason in captured.err
    assert captured.err.count("\n") == 1


def test_skip_bad_passes_over_bad_lines_and_counts_them(model_dir, stdin, capsys):
    bad = [line for line, _ in BAD_LINES.values()]
    good = b"the [MASK] sat ."
    stdin(b"\n".join([good, *bad, good, bad[0], good]))
    assert (
        main(["fill-mask", "-", "--json", "--long", "refuse", "--skip-bad", "--model", str(model_dir)]) == 0
    )
    captured = capsys.readouterr()
    assert [answer["line"] for answer in json_lines(captured.out)] == [1, 6, 8]
    assert captured.err.startswith("convbert: 5 lines skipped; the first: stdin: line 2: ")


def test_answers_come_while_lines_are_still_being_written(model_dir, tmp_path):
    for name in ("lines", "answers"):
        os.mkfifo(tmp_path / name)
    words = ["fill-mask", "-", "--json", "--model", str(model_dir)]
    process = processes.start(main, words, stdin=tmp_path / "lines", stdout=tmp_path / "answers")
    with open(tmp_path / "lines", "wb", buffering=0) as lines, open(tmp_path / "answers") as answers:
        for number in (1, 2):
            lines.write(b"the [MASK] sat .\n")
            assert json.loads(answers.readline())["line"] == number
    assert processes.finish([process]) == [0]


def test_a_reader_that_goes_away_is_no_error(model_dir, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("the [MASK] sat .\n" * 400)
    command = (
        f'"{sys.executable}" -m convbert fill-mask --file "{file}" --json --model "{model_dir}" | head -n 1'
    )
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout)["line"] == 1
    assert done.stderr == ""


def test_blocks_are_small_and_lose_nothing():
    class CountingStream(io.BytesIO):
        largest = 0

        def read1(self, size: int = -1) -> bytes:
            self.largest = max(self.largest, size)
            return super().read1(size)

    lines = [b"%d " % number + b"word " * (number % 300) for number in range(3000)]
    stream = CountingStream(b"\n".join(lines))
    blocks = list(read_blocks(stream, "big"))
    assert [line.content.encode() for block in blocks for line in block] == lines
    assert 0 < stream.largest <= 1 << 20
    assert max(sum(line.size for line in block) for block in blocks) < 1 << 20


def test_a_named_pipe_is_read_from_its_first_byte(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"the cat\na dog\n",))
    writer.start()
    blocks, _ = open_lines(str(pipe))
    assert [line.content for block in blocks for line in block] == ["the cat", "a dog"]
    writer.join()


def test_a_line_without_end_does_not_fill_the_memory():
    class Endless(io.RawIOBase):
        left = 40 * LONGEST_LINE_BYTES

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            count = min(len(buffer), self.left)
            buffer[:count] = b"x" * count
            self.left -= count
            return count

    (block,) = read_blocks(io.BufferedReader(Endless()), "endless")
    assert "longer than 1 MiB" in str(block[0].content)
    assert block[0].size <= LONGEST_LINE_BYTES + 1


# ----------------------------------------------------------------------------- tokenizer train, pretrain


def test_train_a_tokenizer_then_a_model_then_use_it(tmp_path, capsys):
    corpus = tiny.write_corpus(tmp_path / "corpus.txt")
    words, run = tmp_path / "words", tmp_path / "run"
    assert main(["tokenizer", "train", str(corpus), "--vocab-size", "60", "--output", str(words)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"written to {words}" in captured.err
    assert main(["tokenizer", "train", str(corpus), "--vocab-size", "70", "--output", str(words)]) == 2
    assert "holds a model or a tokenizer already (tokenizer.json)" in capsys.readouterr().err
    options = ["--recipe", "smoke", "--max-steps", "2", "--batch-size", "4", "--device", "cpu"]
    fields = ("bf16=false", "hidden_size=16", "num_hidden_layers=1", "learning_rate=0.001")
    settings = [word for field in fields for word in ("--set", field)]
    files = [
        "--corpus",
        str(corpus),
        "--heldout",
        str(corpus),
        "--tokenizer",
        str(words),
        "--output",
        str(run),
    ]
    assert main(["pretrain", *options, *settings, *files, "--json"]) == 0
    captured = capsys.readouterr()
    metrics = json.loads(captured.out)
    assert metrics["steps"] == 2
    assert "Warning" not in captured.err
    for field in ("name=smoke", "objective=rtd", "batch_size=4", "hidden_size=16", "conv_kernel_size=9"):
        assert field in captured.err
    config = json.loads((run / "model" / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"]) == (16, 1)
    assert main(["fill-mask", "the [MASK] sat .", "--json", "--model", str(run / "generator")]) == 0
    assert len(json_lines(capsys.readouterr().out)[0]["masks"][0]) == 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--recipe", "huge"], "huge"),
        (["--objective", "guessing"], "guessing"),
        (["--set", "batch_size"], "NAME=VALUE"),
        (["--set", "batch_size=many"], "int wanted"),
        (["--set", "no_such_field=1"], "no_such_field"),
        (["--set", "seed=1", "--set", "seed=2"], "twice"),
        (["--batch-size", "3", "--set", "batch_size=4"], "twice"),
        (["--set", "conv_kernel_size=8"], "conv_kernel_size"),
        (["--set", "hidden_size=33"], "hidden_size"),
        (["--set", "max_minutes=abc"], "max_minutes"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--max-steps", "0"], "max_steps"),
        (["--sequence-length", "100000"], "sequence_length"),
        (["--tokenizer", "nowhere"], "nowhere"),
        (["--corpus", "nothing.txt"], "nothing.txt"),
    ],
    ids=str,
)
def test_pretrain_refuses_before_it_starts(arguments, named, tmp_path, capsys):
    corpus, output = tiny.write_corpus(tmp_path / "corpus.txt"), tmp_path / "run"
    common = ["pretrain", "--recipe", "smoke", "--corpus", str(corpus), "--output", str(output)]
    assert main([*common, *arguments]) == 2
    error = capsys.readouterr().err
    (line,) = (line for line in error.splitlines() if line.startswith("convbert: error: "))
    assert named in line
    assert "Traceback" not in error
    assert not list(output.glob("model*"))


def test_settings_take_the_type_of_their_field():
    from convbert.cli.pretrain import settable_fields
    from convbert.pretraining.recipes import smoke
    from convbert.util.settings import parse_settings

    words = ["weight_decay=0", "hidden_act=relu", "lowercase=false", "seed=3"]
    parsed = parse_settings(words, settable_fields(smoke()))
    assert parsed == {"weight_decay": 0.0, "hidden_act": "relu", "lowercase": False, "seed": 3}
    assert isinstance(parsed["weight_decay"], float)


# ----------------------------------------------------------------------------------- streams and ends


def test_stdout_is_utf8_whatever_the_locale(model_dir, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    text = "the [MASK] sat 猫 😀"
    assert main(["fill-mask", text, "--json", "--model", str(model_dir)]) == 0
    assert json.loads(written.getvalue().decode("utf-8"))["text"] == text


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
def test_a_closed_stream_is_said(closed, monkeypatch, model_dir, capsys):
    monkeypatch.setattr(sys, closed, None)
    assert main(["fill-mask", "-", "--model", str(model_dir)]) == 2
    assert f"{closed} is closed" in capsys.readouterr().err


def test_a_file_that_ends_early_is_not_ctrl_c(monkeypatch, capsys):
    def ends(*_, **__):
        raise EOFError("Ran out of input")

    monkeypatch.setattr("convbert.inference.doctor.examine", ends)
    assert main(["doctor"]) == 1
    assert "EOFError: Ran out of input" in capsys.readouterr().err


def test_unknown_words_are_said_once_on_the_command_line(model_dir, stdin, capsys):
    stdin("хороший [MASK]\nплохой [MASK]\n".encode())
    assert main(["fill-mask", "-", "--json", "--model", str(model_dir)]) == 0
    captured = capsys.readouterr()
    assert len(json_lines(captured.out)) == 2
    assert captured.err.count("[UNK]") == 1
    assert "хороший" in captured.err


def test_nothing_but_bad_lines_is_a_failure(model_dir, stdin, capsys):
    stdin(b"no mask\nnor here\n")
    assert main(["fill-mask", "-", "--json", "--skip-bad", "--model", str(model_dir)]) == 2
    assert "2 lines skipped" in capsys.readouterr().err


def test_a_hub_out_of_reach_is_said(monkeypatch, capsys):
    import huggingface_hub

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert main(["fill-mask", "the [MASK]", "--model", "nobody/nothing"]) == 2
    assert "nobody/nothing" in capsys.readouterr().err
