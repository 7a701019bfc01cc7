"""A cluster of two workers on this machine makes the shards that one process makes."""

import json

import pytest

from clusters import cluster  # noqa: F401
from convbert.cli import main
from convbert.files.atomic import folder_lock
from convbert.pretraining.corpus import prepare as preparing
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.prepare import Preparation
from convbert.pretraining.data import vocabulary_of
from convbert.util.errors import InputError

ray = pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.mark.usefixtures("cluster")
def test_ray_makes_the_same_shards_and_names_bad_input(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "SMALLEST_BLOCK", 3000)
    made = []
    for folder, options in ((tmp_path / "one", {}), (tmp_path / "two", {"engine": "ray"})):
        with folder_lock(folder, "preparing"):
            manifest = Preparation(corpus, folder, Packing(32, 4), **options).run(vocabulary_of(tokenizer))
        made.append((manifest.fingerprint, [path.read_bytes() for path in sorted(folder.glob("shards/*"))]))
    assert made[0] == made[1]
    assert len(made[0][1]) > 3
    (tmp_path / "bad.jsonl").write_text(json.dumps({"body": "text"}))
    preparation = Preparation(tmp_path / "bad.jsonl", tmp_path / "three", Packing(32, 4), engine="ray")
    with pytest.raises(InputError, match="line 1: no column 'text'; there are body"):
        preparation.run(vocabulary_of(tokenizer))


def test_without_a_cluster_one_is_asked_for(corpus, tmp_path, capsys, monkeypatch):
    if ray.is_initialized():
        ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    words = ["prepare", "--corpus", str(corpus), "--output", str(tmp_path / "out"), "--engine", "ray"]
    assert main([*words, "--vocab-size", "200"]) == 2
    assert "no Ray cluster is running here" in capsys.readouterr().err
