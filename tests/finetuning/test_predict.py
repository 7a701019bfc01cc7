"""What `convbert predict` reads, how it goes on, and when it fails."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from convbert.bulk.answers import FileAnswers, open_answers
from convbert.bulk.inputs import open_input
from convbert.cli import main
from labelled import sentence, write_objects

COLUMNS = ("--task", "text-classification", "--text-column", "review", "--label-column", "stars")
ROWS = [{"review": sentence(n)[0], "stars": sentence(n)[1], "id": f"n{n}"} for n in range(8)]


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def model(start, tmp_path_factory) -> Path:
    """A model of reviews in a CSV, trained for a moment; the dev part is split off."""
    folder = tmp_path_factory.mktemp("predict")
    write_csv(folder / "train.csv", ROWS * 4)
    words = ["finetune", *COLUMNS, "--train", str(folder / "train.csv"), "--model", str(start)]
    settings = ["--device", "cpu", "--set", "epochs=1", "--output", str(folder / "run")]
    assert main([*words, *settings]) == 0
    return folder / "run/model"


@pytest.fixture
def predict(model, tmp_path, capsys):
    """Answers, exit code and what was said."""

    def run(source: Path, *words: object, output: Path | None = None) -> tuple[list[dict], int, str]:
        target = output or tmp_path / f"answers{len(list(tmp_path.iterdir()))}.jsonl"
        given = [
            "predict",
            "--model",
            model,
            "--input",
            source,
            "--output",
            target,
            "--device",
            "cpu",
            *words,
        ]
        capsys.readouterr()
        code = main([str(word) for word in given])
        return read_answers(target), code, capsys.readouterr().err

    return run


def read_answers(path: Path) -> list[dict]:
    if not path.exists():
        return []
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def expected(predict, tmp_path) -> list[str]:
    """The answers for the texts as plain lines."""
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{row['review']}\n" for row in ROWS), encoding="utf-8")
    return [answer["answer"] for answer in predict(path)[0]]


def write_table(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif "jsonl" in name:
        content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    elif "tsv" in name:
        lines = ["review\tstars\tid", *("\t".join(row.values()) for row in ROWS)]
        path.write_text("\n".join(lines) + "\n")
    else:
        write_csv(folder / "plain.csv", ROWS)
        content = (folder / "plain.csv").read_bytes()
        if name.endswith(".zst"):
            with pa.output_stream(path, compression="zstd") as stream:
                stream.write(content)
        else:
            path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


TABLES = ("a.csv", "A.CSV", "a.csv.gz", "a.csv.zst", "a.tsv", "a.parquet", "a.jsonl", "a.jsonl.gz")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_by_the_columns_of_the_model(name, predict, expected, tmp_path):
    found, code, _ = predict(write_table(tmp_path, name))
    unit = "line" if "jsonl" in name else "row"
    assert code == 0
    assert [answer["answer"] for answer in found] == expected
    assert [(answer[unit], answer["id"]) for answer in found] == [(n + 1, f"n{n}") for n in range(8)]


def test_a_column_of_another_name_is_named(predict, expected, tmp_path):
    rows = [{"body": row["review"], "key": row["id"]} for row in ROWS]
    found, code, said = predict(write_csv(tmp_path / "a.csv", rows))
    assert (found, code) == ([], 2)
    assert "no column 'review'; there are body, key" in said
    found, code, _ = predict(tmp_path / "a.csv", "--text-column", "body", "--id-column", "key")
    assert [answer["answer"] for answer in found] == expected
    assert found[3]["id"] == "n3"


def test_a_row_that_cannot_be_used_stops_no_other(predict, tmp_path):
    rows = [*ROWS[:2], {**ROWS[2], "review": " "}, *ROWS[3:]]
    found, code, said = predict(write_csv(tmp_path / "a.csv", rows))
    assert [answer["row"] for answer in found if "error" in answer] == [3]
    assert code == 0
    assert "1 row has no answer" in said


def test_nothing_but_errors_is_a_failure(predict, tmp_path):
    found, code, _ = predict(write_objects(tmp_path / "a.jsonl", [{"other": 1}] * 3))
    assert ["error" in answer for answer in found] == [True] * 3
    assert code == 2


BRACES = ["{the cat} sat .", '{"review": "the dog ran ."}', "a cat sat ."]


def test_lines_with_braces_are_text_unless_the_file_is_json_lines(predict, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(BRACES))
    found, code, said = predict(path)
    assert code == 0
    assert not any("error" in answer for answer in found)
    assert "--format" in said
    found, *_ = predict(path, "--format", "jsonl")
    assert ["error" in answer for answer in found] == [True, False, True]
    path.write_text("\n".join([BRACES[1]] * 3))
    as_objects, code, said = predict(path)
    assert "jsonl" in said
    as_text, *_ = predict(path, "--format", "text")
    plain = tmp_path / "b.txt"
    plain.write_text("the dog ran .\n" * 3)
    assert as_objects == predict(plain)[0] != as_text


@pytest.mark.parametrize("name", ["a.txt", "a"])
def test_bytes_of_a_table_are_no_text(name, predict, tmp_path):
    write_table(tmp_path, "a.parquet").rename(tmp_path / name)
    found, code, said = predict(tmp_path / name)
    assert (found, code) == ([], 2)
    assert "Parquet" in said


def test_vectors_of_a_column(predict, tmp_path):
    words = ("--embeddings", "mean", "--text-column", "review")
    found, code, _ = predict(write_table(tmp_path, "a.parquet"), *words)
    lines, *_ = predict(write_table(tmp_path, "a.jsonl"), *words)
    assert code == 0
    assert [a["embedding"] for a in found] == [a["embedding"] for a in lines]
    assert found[0]["id"] == "n0"
    assert "no column 'text'" in predict(tmp_path / "a.parquet", "--embeddings", "mean")[2]


# ------------------------------------------------------------------------------------------- going on


@pytest.fixture(params=["parts.jsonl", "parts.parquet"])
def interrupted(request, predict, tmp_path, monkeypatch) -> Path:
    """A run that was stopped after its first answers."""
    source, target = write_csv(tmp_path / "a.csv", ROWS * 200), tmp_path / request.param
    write = FileAnswers.write

    def stop(self, answered):
        if self.done:
            raise KeyboardInterrupt
        write(self, answered)

    with monkeypatch.context() as patch:
        patch.setattr(FileAnswers, "write", stop)
        assert predict(source, output=target)[1] == 130
    assert not target.exists()
    return target


def test_the_same_command_goes_on(interrupted, predict, tmp_path):
    whole, *_ = predict(tmp_path / "a.csv", output=tmp_path / f"whole{interrupted.suffix}")
    found, code, said = predict(tmp_path / "a.csv", output=interrupted)
    assert (found, code) == (whole, 0)
    assert [row["row"] for row in found] == list(range(1, 1601))
    assert "1,600 texts" not in said
    assert not list(tmp_path.glob("*.partial*"))


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("*.partial/*.parquet")} | {
        path: path.read_bytes() for path in folder.glob("*.partial") if path.is_file()
    }


def test_another_command_is_refused(interrupted, predict, tmp_path):
    before = content_of(tmp_path)
    _, code, said = predict(tmp_path / "a.csv", "--precision", "fp32", "--resume", output=interrupted)
    assert code == 2
    assert "precision was auto, now fp32" in said
    with (tmp_path / "a.csv").open("a") as more:
        more.write("the dog sat .,1,n9\n")
    _, code, said = predict(tmp_path / "a.csv", output=interrupted)
    assert code == 2
    assert "input was" in said
    assert content_of(tmp_path) == before != {}


def test_two_at_once_on_one_file_are_refused(interrupted, predict, tmp_path):
    """The one that is running is not taken for an interrupted one."""
    command = json.loads(Path(f"{interrupted}.partial.json").read_text())
    with suppress(KeyboardInterrupt), open_answers(interrupted, False, command):
        before = content_of(tmp_path)
        _, code, said = predict(tmp_path / "a.csv", "--resume", output=interrupted)
        raise KeyboardInterrupt
    assert code == 2
    assert "another process" in said
    assert content_of(tmp_path) == before


# ------------------------------------------------------------------------------------- what is no number


def test_weights_that_are_no_numbers_are_named(model, predict, tmp_path, capsys):
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["classifier.out_proj.weight"][0, 0] = torch.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat .\n")
    table = write_table(tmp_path, "a.csv")
    commands = (
        ["predict", "--input", lines],
        ["evaluate", "--file", table, "--json"],
        ["finetune", *COLUMNS, "--train", table, "--dev", table, "--output", tmp_path / "run"],
    )
    for words in commands:
        capsys.readouterr()
        assert main([str(word) for word in (*words, "--model", broken, "--device", "cpu")]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "classifier.out_proj.weight" in captured.err
    assert not (tmp_path / "run/model").exists()


def test_unknown_words_are_said(predict, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\u0e2b\u0e19\u0e31\u0e07\u0e14\u0e35\n\u0e02\u0e49\u0e32\u0e27\n", encoding="utf-8")
    _, code, said = predict(path)
    assert code == 0
    assert "100.0% of the tokens are [UNK]" in said


# ------------------------------------------------------------------------------- switches of a configuration


@pytest.mark.parametrize(
    "switches",
    [
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"return_dict": False},
        {"torchscript": True},
    ],
    ids=str,
)
def test_switches_of_a_configuration_change_no_answer(switches, model, predict, expected, tmp_path):
    """And the commands that train and score go on as ever."""
    folder = Path(shutil.copytree(model, tmp_path / "switched"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | switches))
    table = write_table(tmp_path, "a.csv")
    found, code, _ = predict(table, "--model", folder)
    assert code == 0
    assert [answer["answer"] for answer in found] == expected
    common = ["--model", str(folder), "--device", "cpu"]
    assert main(["evaluate", "--file", str(table), *common]) == 0
    files = ["--train", str(table), "--dev", str(table), "--set", "epochs=1"]
    assert main(["finetune", *COLUMNS, *files, "--output", str(tmp_path / "run"), *common]) == 0
    written = json.loads((tmp_path / "run/model/config.json").read_text())
    assert written["dtype"] == "float32"


WORD_PER_LINE = ("eng.testb", "ned.dev", "a.iob2", "a.BMES", "a.bioes.gz", "a.conllup", "a.test", "a.train")


@pytest.mark.parametrize("name", WORD_PER_LINE)
def test_files_with_a_word_a_line_are_known_by_their_endings(name, tmp_path):
    content = b"the\ncat\n\na\ndog\n"  # nothing but words: the lines do not tell
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    given = open_input(str(tmp_path / name), "auto", ["tokens"], tags=["O", "B-X"], report=print)
    rows = [item.content.cells["tokens"] for block in given.blocks for item in block]
    assert rows == [["the", "cat"], ["a", "dog"]]


def test_texts_of_a_part_called_test_stay_texts(tmp_path):
    (tmp_path / "reviews.test").write_text("the cat\na dog\n")
    given = open_input(str(tmp_path / "reviews.test"), "auto", ["text"], report=print)
    assert [item.content.cells["text"] for block in given.blocks for item in block] == ["the cat", "a dog"]
