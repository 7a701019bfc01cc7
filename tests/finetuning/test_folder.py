"""The folder of a run: the same command goes on with it, and damage to what it holds is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from convbert import InputError
from convbert.cli import main
from convbert.finetuning.folder import Files, RunFolder
from fuzzing import damaged_bytes, damaged_json, outcome
from labelled import write_sentences


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> list[str]:
    """The command of a run that has come to its end; the last word is its folder."""
    folder = tmp_path_factory.mktemp("finished")
    train, dev = write_sentences(folder / "train.tsv", 32), write_sentences(folder / "dev.tsv", 8)
    words = ["finetune", "--task", "sst2", "--train", str(train), "--dev", str(dev), "--model", str(start)]
    command = [*words, "--device", "cpu", "--set", "epochs=1", "--output", str(folder / "run")]
    assert main(command) == 0
    return command


@pytest.fixture
def run(finished, tmp_path) -> list[str]:
    """The same command for a copy of the folder."""
    shutil.copytree(finished[-1], tmp_path / "run")
    return [*finished[:-1], str(tmp_path / "run")]


def test_a_finished_run_is_left_alone_by_its_command(run, capsys):
    before = (Path(run[-1]) / "metrics.json").read_bytes()
    assert main(run) == 0
    assert capsys.readouterr().out == f"{run[-1]}/model\n"
    assert main([*run, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(before)
    assert (Path(run[-1]) / "metrics.json").read_bytes() == before


def test_another_command_is_refused_by_what_differs(run, capsys):
    assert main([*run, "--set", "batch_size=4"]) == 2
    assert "batch_size was 32, now 4" in capsys.readouterr().err
    assert main([*run, "--on-bad-row", "skip"]) == 2
    assert "on_bad_row was fail, now skip" in capsys.readouterr().err


def test_a_model_that_is_gone_is_written_again(run):
    """From its seed's folder; and where that is gone, too, it is trained again."""
    folder = Path(run[-1])
    weights = load_file(folder / "model/model.safetensors")
    for gone in (["model"], ["model", "seed-0/model"]):
        for name in gone:
            shutil.rmtree(folder / name)
        assert main(run) == 0
        found = load_file(folder / "model/model.safetensors")
        assert all(torch.equal(found[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "seed-0/metrics.json", "seed-0/log.jsonl"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"seeds": 1}\n', b"\xff", b"NaN\n"])
def test_damage_is_named(name, content, run, capsys):
    folder = Path(run[-1])
    (folder / name).write_bytes(content)
    if name != "metrics.json" and name != "run.json":
        shutil.rmtree(folder / "model")  # so that they are read
    code, said = main(run), capsys.readouterr().err
    if name.endswith(".jsonl") and not content:
        assert code == 0  # a log without entries
    else:
        assert code == 2
        assert str(folder / name) in said


def test_a_run_from_nothing_but_what_a_kill_left_begins(run, finished):
    folder = Path(run[-1])
    shutil.rmtree(folder)
    (folder / ".saving-left").mkdir(parents=True)
    assert main(run) == 0
    assert (folder / "metrics.json").exists()


def test_damaged_files_of_a_run_end_in_a_sentence(run, finished):
    folder = RunFolder(Path(run[-1]))
    record = json.loads(folder.record.read_text())
    readers = {
        folder.record: lambda: folder.check(record),
        folder.metrics: lambda: folder.finished(1),
        folder.of_seed(0).metrics: lambda: folder.metrics_of_seed(0),
        folder.of_seed(0).log: lambda: folder.history(0),
    }
    for path, read in readers.items():
        raw = path.read_bytes()
        for seed in range(50):
            path.write_bytes(damaged_bytes(raw, seed))
            assert outcome(read) in ("answered", "refused")
            if path.suffix == ".json":
                path.write_text(json.dumps(damaged_json(json.loads(raw), seed)))
                assert outcome(read) in ("answered", "refused")
        path.write_bytes(raw)


def test_data_is_known_by_its_content(tmp_path):
    first, second = write_sentences(tmp_path / "a.tsv", 8), write_sentences(tmp_path / "b.tsv", 8)
    assert Files(first).contents() == Files(second).contents()
    second.write_text(second.read_text().replace("\t1", "\t0", 1))
    assert Files(first).contents() != Files(second).contents()


def test_a_dev_part_is_split_off_and_noted(start, tmp_path, capsys):
    train = write_sentences(tmp_path / "all.tsv", 40)
    words = ["finetune", "--task", "sst2", "--train", str(train), "--model", str(start), "--device", "cpu"]
    assert main([*words, "--set", "epochs=1", "--output", str(tmp_path / "run")]) == 0
    assert "split off" in capsys.readouterr().err
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["dev"] == []
    assert sum(record["examples"].values()) == 40
    assert record["examples"]["dev"] >= 1
    lines = (tmp_path / "run/dev_predictions.jsonl").read_text().splitlines()
    assert len(lines) == record["examples"]["dev"]


def test_steps_that_are_all_skipped_leave_no_model(finished, start, tmp_path, capsys, monkeypatch):
    """Weights that are numbers, and too large to be multiplied."""
    large = Path(shutil.copytree(start, tmp_path / "large"))
    weights = load_file(large / "model.safetensors")
    name = next(name for name in weights if name.endswith("layer.0.intermediate.dense.weight"))
    weights[name].fill_(3e38)
    save_file(weights, large / "model.safetensors", {"format": "pt"})
    words = [*finished[: finished.index("--model")], "--model", str(large), "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path / "run")]) == 2
    assert "finite" in capsys.readouterr().err
    assert not (tmp_path / "run/model").exists()
    assert not (tmp_path / "run/seed-0/model").exists()


USAGE = (
    ("finetune --task sst2", "--data"),
    ("finetune --task sst3 --data .", "sst3"),
    ("finetune --task sst2 --train nowhere.tsv", "nowhere.tsv"),
    ("finetune --task sst2 --train {file} --set epochs=many", "epochs"),
    ("evaluate --model ./nowhere", "--file"),
    ("evaluate --model ./nowhere --file {file}", "./nowhere"),
    ("predict", "--model"),
    ("predict --model ./nowhere --input {file}", "./nowhere"),
    ("predict --model m --input nowhere.csv", "nowhere.csv"),
    ("predict --model m --input {file} --format xml", "xml"),
)


def test_usage_errors_do_not_wait_for_torch(tmp_path):
    """Its import takes seconds."""
    (tmp_path / "a.tsv").write_text("sentence\tlabel\n")
    commands = [words.format(file=tmp_path / "a.tsv").split() for words, _ in USAGE]
    program = (
        "import sys; from convbert.cli import main\n"
        f"assert [main(words) for words in {commands!r}] == [2] * {len(USAGE)}\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert all(part in line for (_, part), line in zip(USAGE, said, strict=True)), said


def test_files_that_are_not_there_are_refused(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.finished(1) is None
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="no run in it"):
        folder.check({})
