"""A cluster of two workers on this machine answers as one process does, also where a worker or a command dies."""

from __future__ import annotations

import gzip
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import convbert
from clusters import actors, cluster  # noqa: F401
from convbert.bulk import predict_dataset
from convbert.bulk.answers import FileAnswers
from labelled import sentence

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.usefixtures("cluster")


def test_the_cluster_finishes_what_one_process_began_though_a_worker_dies(embed, tmp_path, monkeypatch):
    for name in "ac":
        rows = [{"text": sentence(n)[0], "n": n} for n in range(2000)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    source, output = f"{tmp_path}/?.parquet", tmp_path / "out.parquet"
    alone, *_ = embed(source, tmp_path / "alone.parquet")
    write = FileAnswers.write

    def stop(self, answered):
        if self.done > 500:
            raise KeyboardInterrupt
        write(self, answered)

    with monkeypatch.context() as patch:
        patch.setattr(FileAnswers, "write", stop)
        assert embed(source, output)[1] == 130

    def kill(self, answered):
        if answered.position.number == 1024:
            actors()[0].kill()
        write(self, answered)

    monkeypatch.setattr(FileAnswers, "write", kill)
    found, code, said = embed(source, output, "--engine", "ray")
    assert code == 0
    assert "3,489 texts" in said
    assert "1 row has no answer" in said
    assert len(found) == len(alone) == 4001
    for ours, theirs in zip(found, alone, strict=True):
        vector, expected = ours.pop("embedding", None), theirs.pop("embedding", None)
        assert ours == theirs
        assert vector is expected is None or np.allclose(vector, expected, atol=1e-6)


def test_a_dataset_keeps_its_columns_and_gets_vectors_of_fp32(model, tmp_path):
    texts = [sentence(n)[0] for n in range(20)] + [" "]
    ds = ray.data.from_arrow(pa.table({"review": texts, "n": range(21), "error": ["?"] * 21}))
    ds.context.execution_options.preserve_order = True
    answered = predict_dataset(ds, str(model), embeddings="mean", columns={"text": "review"}, device="cpu")
    answered.write_parquet(str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out").sort_by("n")
    assert table.column_names == ["review", "n", "input_error", "embedding", "error"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert table["review"].to_pylist() == texts
    assert "empty" in table["error"].to_pylist().pop()
    assert table["error"].null_count == 20
    expected = convbert.pipeline("feature-extraction", str(model), pooling="mean")(texts[:20])
    np.testing.assert_allclose(np.stack(table["embedding"][:20].to_numpy()), expected, atol=1e-6)


def test_a_file_with_a_damaged_end_is_named_by_the_worker_that_reads_it(embed, tmp_path):
    noise = Random(0)
    lines = "".join(f"the {noise.random()} sat .\n" for _ in range(30_000))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines.encode())[:-99])
    found, code, said = embed(tmp_path / "a.txt.gz", tmp_path / "out.jsonl", "--engine", "ray")
    assert (found, code) == ([], 2)
    assert "a.txt.gz: damaged gzip file" in said
