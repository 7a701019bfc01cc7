"""`convbert similar`."""

import json

import pytest

import convbert
from convbert.cli import main


def similar(capsys, *words) -> tuple[int, list[str], str]:
    code = main(["similar", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err


def test_lines_come_by_their_cosines(tmp_path, capsys):
    lines = ["A puppy is running outside.", "", "The market fell sharply.", "How to cook rice", "A dog runs."]
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    code, found, _ = similar(capsys, "a dog is running", "--file", path, "--top-k", 3)
    assert code == 0
    cosines = convbert.pipeline("sentence-similarity")("a dog is running", list(filter(None, lines)))
    wanted = sorted(zip(cosines, filter(None, lines), strict=True), reverse=True)[:3]
    assert [line.split("\t")[2] for line in found] == [text for _, text in wanted]
    assert [float(line.split("\t")[0]) for line in found] == [round(cosine, 3) for cosine, _ in wanted]
    assert {text for _, text in wanted[:2]} == {lines[0], lines[4]}


def test_pairs_are_answered_in_order_and_bad_ones_said(tmp_path, capsys):
    path = tmp_path / "pairs.tsv"
    path.write_text("A dog runs.\tA puppy runs.\nalone\nThe sky\t\nThe sky\tA pan\n", encoding="utf-8")
    code, found, error = similar(capsys, "--pairs", path, "--json")
    assert code == 0
    records = [json.loads(line) for line in found]
    assert [record["line"] for record in records] == [1, 2, 3, 4]
    assert ["error" in record for record in records] == [False, True, True, False]
    assert records[0]["score"] > records[3]["score"]
    assert "line 2" in error


@pytest.mark.parametrize(
    "words",
    [
        ["a"],
        ["--file", "lines.txt"],
        ["a", "--pairs", "p.tsv"],
        [" ", "--file", "x"],
        ["a", "--file", "none"],
    ],
)
def test_bad_input(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, error = similar(capsys, *words)
    assert code == 2
    assert "Traceback" not in error
