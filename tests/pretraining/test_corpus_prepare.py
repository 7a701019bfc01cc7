"""Shards: the same whoever makes them, kept when a run is interrupted, refused when they are damaged."""

import fcntl
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from convbert.cli import main
from convbert.files.atomic import folder_lock
from convbert.pretraining.corpus import prepare as preparing
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.prepare import Preparation
from convbert.pretraining.corpus.reading import CorpusReader
from convbert.pretraining.corpus.shards import Manifest
from convbert.pretraining.corpus.sources import find_sources
from convbert.pretraining.data import (
    open_corpus,
    prepare_sequences,
    tokenizer_fingerprint,
    vocabulary_of,
)
from convbert.pretraining.vocabulary import load_tokenizer
from convbert.util.errors import InputError

PACKING = Packing(32, 4, "two")


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(preparing, "SMALLEST_BLOCK", 3000)


def run(source, tokenizer, folder, watch=lambda progress: None, **options) -> Manifest:
    """Prepare without a tokenizer folder, and the files whose shards were made anew."""
    with folder_lock(folder, "preparing"):
        return Preparation(source, folder, PACKING, **options).run(vocabulary_of(tokenizer), watch)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}


@pytest.fixture
def prepared(corpus, tokenizer, tmp_path, small_blocks):
    run(corpus, tokenizer, tmp_path / "whole")
    return tmp_path / "whole"


def test_the_number_of_workers_changes_nothing(prepared, corpus, tokenizer, tmp_path):
    run(corpus, tokenizer, tmp_path / "parallel", workers=2)
    assert len(contents(prepared)) > 3
    assert contents(tmp_path / "parallel") == contents(prepared)
    one, other = (open_corpus(folder).manifest for folder in (prepared, tmp_path / "parallel"))
    assert one == other


def test_the_manifest_tells_what_there_is(prepared, corpus):
    stored = json.loads((prepared / "manifest.json").read_text())
    assert stored["documents"] == corpus.read_text().count("\n\n") + 1
    dataset = open_corpus(prepared)
    lengths = [len(item["input_ids"]) for item in dataset.__getitems__(list(range(len(dataset))))]
    assert (stored["sequences"], stored["tokens"]) == (len(lengths), sum(lengths))
    (source,) = stored["sources"]
    assert source["size"] == corpus.stat().st_size
    digest = subprocess.run(["sha256sum", corpus], capture_output=True, text=True, check=True)
    assert source["sha256"] == digest.stdout.split()[0]
    assert stored["fingerprint"] == dataset.fingerprint
    assert not (prepared / "journal.jsonl").exists()


def test_an_interrupted_run_goes_on_and_keeps_what_is_finished(prepared, corpus, tokenizer, tmp_path):
    folder, written = tmp_path / "broken", []

    def interrupt(progress):
        written.append(progress)
        if len(written) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(corpus, tokenizer, folder, interrupt)
    with pytest.raises(InputError, match="was interrupted; repeat it"):
        open_corpus(folder)
    with open(folder / "journal.jsonl", "a") as journal:
        journal.write('{"file": "0000')  # where a killed process got to
    damaged = folder / "shards" / "000001.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    kept = times(folder)
    run(corpus, tokenizer, folder)
    assert contents(folder) == contents(prepared)
    same = {name for name, when in times(folder).items() if kept.get(name) == when}
    assert same == {"000000.bin", "000002.bin"}
    assert open_corpus(folder).fingerprint == open_corpus(prepared).fingerprint


def test_a_corpus_that_grew_keeps_the_shards_of_its_beginning(prepared, corpus, tokenizer, tmp_path):
    grown = tmp_path / "grown.txt"
    grown.write_text(corpus.read_text() + "\n" + "the cat follows the dog.\n" * 30)
    before = times(prepared)
    manifest = run(grown, tokenizer, prepared)
    unchanged = [name for name, when in times(prepared).items() if before.get(name) == when]
    assert len(unchanged) >= len(before) - 1
    assert manifest.count("documents") == Manifest.read(prepared).count("documents") == 61


def test_a_corpus_that_grew_keeps_its_shards_also_where_blocks_follow_its_size(
    corpus, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(preparing, "SMALLEST_BLOCK", 100)
    monkeypatch.setattr(preparing, "BLOCKS", 8)
    run(corpus, tokenizer, tmp_path / "out")
    before = times(tmp_path / "out")
    grown = tmp_path / "grown.txt"
    grown.write_text(corpus.read_text() + "\n" + "the cat follows the dog.\n" * 30)
    run(grown, tokenizer, tmp_path / "out")
    unchanged = [name for name, when in times(tmp_path / "out").items() if before.get(name) == when]
    assert len(unchanged) >= len(before) - 1 >= 6


def command(corpus, tokenizer, folder, *more):
    return ["prepare", "--corpus", str(corpus), "--tokenizer", str(tokenizer), "--output", str(folder), *more]


@pytest.fixture
def own_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def test_a_killed_command_goes_on_and_its_workers_end(corpus, own_tokenizer, tmp_path, capsys, monkeypatch):
    text = corpus.read_text()
    (tmp_path / "big.txt").write_text("\n\n".join([text] * 60))
    words = [*command(tmp_path / "big.txt", own_tokenizer, tmp_path / "out"), "--sequence-length", "32"]
    program = (
        "import sys, convbert.pretraining.corpus.prepare as p; p.SMALLEST_BLOCK = 20_000\n"
        "from convbert.cli import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    process = subprocess.Popen([sys.executable, script, *words, "--workers", "2"], stderr=subprocess.DEVNULL)
    journal = tmp_path / "out" / "journal.jsonl"
    while not (journal.exists() and journal.read_text().count("\n") > 2):
        assert process.poll() is None
        time.sleep(0.01)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = journal.read_text().splitlines()
    kept = times(tmp_path / "out")
    monkeypatch.setattr(preparing, "SMALLEST_BLOCK", 20_000)
    assert main([*words, "--workers", "1", "--json"]) == 0
    names = [json.loads(line)["file"] for line in finished[:3]]
    assert all(times(tmp_path / "out")[name] == kept[name] for name in names)
    counts = json.loads(capsys.readouterr().out)
    assert counts["documents"] == 60 * 60
    while any(map(is_running, workers)):
        time.sleep(0.05)


def stat(pid: int) -> list[str]:
    """State, parent and more, as the system has them; nothing where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def children(pid: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [child for child in pids if stat(child)[1:2] == [str(pid)]]


def is_running(pid: int) -> bool:
    return stat(pid)[:1] not in ([], ["Z"])


def test_workers_start_without_the_heavy_libraries():
    program = (
        "import sys, convbert.pretraining.corpus.workers\n"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_two_at_once_on_one_folder_are_refused(corpus, own_tokenizer, tmp_path, capsys):
    words = command(corpus, own_tokenizer, tmp_path / "out")
    with folder_lock(tmp_path / "out", "preparing a corpus"):
        assert main(words) == 2
    assert "another process is preparing" in capsys.readouterr().err
    assert main(words) == 0


def test_a_process_that_waits_for_another_opens_what_that_one_made(corpus, tokenizer, tmp_path, monkeypatch):
    program = (
        "import sys; from convbert.files.atomic import folder_lock\n"
        "with folder_lock(sys.argv[1], 'preparing'): print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "data" / "train"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "locked\n"
    waits, flock = threading.Event(), fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *given: (waits.set(), flock(*given)))
    with ThreadPoolExecutor(1) as other:
        found = other.submit(prepare_sequences, corpus, tokenizer, tmp_path / "data", PACKING)
        waits.wait()
        assert not found.done()
        holder.communicate()
        assert len(found.result())


class TestDamage:
    def damage(self, folder, change):
        path = sorted((folder / "shards").iterdir())[2]
        data = bytearray(path.read_bytes())
        path.write_bytes(change(data))
        return path.name

    def test_a_truncated_shard_is_named(self, prepared):
        name = self.damage(prepared, lambda data: data[:-1])
        with pytest.raises(InputError, match=rf"{name}: damaged shard: \d+ bytes, \d+ expected"):
            open_corpus(prepared, verify=False)

    def test_a_missing_shard_is_named(self, prepared):
        (prepared / "shards" / "000001.bin").unlink()
        with pytest.raises(InputError, match=r"000001.bin: damaged shard: No such file"):
            open_corpus(prepared, verify=False)

    def test_a_flipped_bit_is_found_by_verifying_and_small_corpora_always_are(self, prepared, capsys):
        def flip(data):
            data[len(data) // 3] ^= 1
            return data

        name = self.damage(prepared, flip)
        with pytest.raises(InputError, match=f"{name}: damaged shard: its checksum"):
            open_corpus(prepared)
        open_corpus(prepared, verify=False)
        assert main(["prepare", "--verify", "--output", str(prepared)]) == 2
        assert f"{name}: damaged shard" in capsys.readouterr().err

    def test_ids_that_no_vocabulary_has_are_not_trained_on(self, prepared):
        name = self.damage(prepared, lambda data: b"\xff\xff" * 40 + data[80:])
        dataset = open_corpus(prepared, verify=False)
        first = sum(shard.sequences for shard in dataset.manifest.shards[:2])
        with pytest.raises(InputError, match=rf"{name}: damaged shard: sequence 0"):
            dataset[first]

    def test_a_shard_that_is_cut_short_under_a_reader_is_named(self, prepared):
        dataset = open_corpus(prepared)
        assert len(dataset[0]["input_ids"])
        with open(prepared / "shards" / "000000.bin", "r+b") as file:
            file.truncate(10)
        with pytest.raises(InputError, match=r"000000.bin: damaged shard: it ends too early"):
            dataset[0]

    def test_a_damaged_shard_is_replaced_by_preparing_again(self, prepared, corpus, tokenizer):
        before = contents(prepared)
        self.damage(prepared, lambda data: data[::-1])
        run(corpus, tokenizer, prepared)
        assert contents(prepared) == before

    @pytest.mark.parametrize("change", [lambda data: data[::-1], lambda data: data[:-1]], ids=["bits", "end"])
    def test_the_same_command_replaces_a_damaged_shard(
        self, corpus, own_tokenizer, tmp_path, small_blocks, change
    ):
        words = command(corpus, own_tokenizer, tmp_path / "out")
        assert main(words) == 0
        before = contents(tmp_path / "out")
        self.damage(tmp_path / "out", change)
        assert main(words) == 0
        assert contents(tmp_path / "out") == before

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: text[:-20], "manifest.json: not JSON"),
            (lambda text: text.replace('"sequences": ', '"sequences": 1'), "manifest.json: damaged"),
            (lambda text: text.replace('"format": 1', '"format": 7'), "format 7, this version"),
            (lambda text: "[]", "manifest.json: damaged"),
        ],
        ids=["truncated", "counts", "format", "a list"],
    )
    def test_a_damaged_manifest_is_named(self, prepared, change, message):
        path = prepared / "manifest.json"
        path.write_text(change(path.read_text()))
        with pytest.raises(InputError, match=message):
            open_corpus(prepared)


def test_a_missing_corpus_leaves_no_folder(own_tokenizer, tmp_path, capsys):
    assert main(command(tmp_path / "nowhere", own_tokenizer, tmp_path / "out")) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_a_kill_may_leave_does_not_stop_the_same_command(corpus, own_tokenizer, tmp_path):
    folder = tmp_path / "out"
    for name in ("shards", "tokenizer"):
        (folder / name).mkdir(parents=True)
    for name in ("journal.jsonl", "manifest.json.partial"):
        (folder / name).touch()
    assert main(command(corpus, own_tokenizer, folder)) == 0
    assert (
        tokenizer_fingerprint(load_tokenizer(folder / "tokenizer")) == open_corpus(folder).manifest.vocabulary
    )


def test_a_file_that_grows_while_it_is_read_is_not_taken_for_done(corpus, tokenizer, tmp_path):
    growing = tmp_path / "growing.txt"
    growing.write_text(corpus.read_text())

    def write_meanwhile(progress):
        with growing.open("a") as file:
            file.write("one line more\n")

    with pytest.raises(InputError, match=r"growing.txt: changed while it was read"):
        run(growing, tokenizer, tmp_path / "out", write_meanwhile)
    run(growing, tokenizer, tmp_path / "out")
    assert open_corpus(tmp_path / "out").manifest.sources[0]["size"] == growing.stat().st_size


def test_another_vocabulary_or_packing_is_refused(prepared, corpus, tmp_path):
    from convbert.pretraining.vocabulary import train_wordpiece

    other = train_wordpiece(corpus, 120, tmp_path / "other")
    with pytest.raises(InputError, match="another vocabulary"):
        prepare_sequences(prepared, other, tmp_path / "cache", PACKING)
    with pytest.raises(InputError, match="sequence_length 32, not 64"):
        open_corpus(prepared, packing=replace(PACKING, sequence_length=64))
    with pytest.raises(InputError, match="segments two, not one"):
        open_corpus(prepared, packing=replace(PACKING, segments="one"))
    with pytest.raises(InputError, match="is used alone"):
        prepare_sequences([prepared, corpus], other, tmp_path / "cache", PACKING)
    with pytest.raises(InputError, match="no prepared corpus here"):
        open_corpus(tmp_path / "other")


def test_the_command_learns_a_vocabulary_counts_and_is_repeatable(corpus, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(corpus.read_bytes())
    (tmp_path / "in" / "b.txt").touch()
    words = ["prepare", "--corpus", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--workers", "1"]
    words += ["--vocab-size", "300", "--sequence-length", "64", "--segments", "two", "--json"]
    assert main(words) == 2
    assert "b.txt: is empty" in capsys.readouterr().err
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*"))
    words.append("--skip-bad-files")
    assert main(words) == 0
    out, err = capsys.readouterr()
    counts = json.loads(out)
    assert "skipped: " in err
    assert "b.txt: is empty" in err
    assert (counts["documents"], counts["skipped"]) == (60, 1)
    assert main(words) == 0
    again, err = capsys.readouterr()
    assert json.loads(again) == counts
    assert "is complete" in err
    assert main([*words, "--sequence-length", "32"]) == 2
    assert "holds another corpus: packing was" in capsys.readouterr().err
    assert main([*words, "--vocab-size", "200"]) == 2
    assert "was prepared with a vocabulary learned by" in capsys.readouterr().err


def test_a_folder_with_other_files_is_refused(corpus, own_tokenizer, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert main(command(corpus, own_tokenizer, tmp_path / "out")) == 2
    assert "not empty (thesis.tex)" in capsys.readouterr().err
    assert main(command(corpus, own_tokenizer, corpus)) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["prepare", "--output", str(tmp_path / "new")]) == 2
    assert "give --corpus or --dataset" in capsys.readouterr().err
    assert main(command(corpus, own_tokenizer, tmp_path / "new", "--engine", "spark")) == 2
    assert "engine must be one of local, ray; got 'spark'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_pretraining_takes_a_prepared_folder(corpus, tmp_path):
    from convbert.pretraining.recipes import smoke
    from convbert.pretraining.run import pretrain

    words = ["prepare", "--corpus", str(corpus), "--output", str(tmp_path / "in"), "--workers", "1"]
    assert main([*words, "--vocab-size", "200", "--sequence-length", "32", "--min-sequence-length", "4"]) == 0
    plan = smoke(max_steps=2)
    quiet = {"device": "cpu", "report": lambda message: None}
    result = pretrain(plan, tmp_path / "in", tmp_path / "run", **quiet)
    assert result.finished
    assert not (tmp_path / "run" / "data").exists()
    size = len((tmp_path / "in/tokenizer/vocab.txt").read_text().splitlines())
    assert f'"vocab_size": {size}' in (result.model_dir / "README.md").read_text()  # and not the recipe's
    assert (result.model_dir / "vocab.txt").read_text() == (tmp_path / "in/tokenizer/vocab.txt").read_text()
    with pytest.raises(InputError, match="was prepared with sequence_length 32, not 64"):
        pretrain(
            smoke(max_steps=2, sequence_length=64),
            tmp_path / "in",
            tmp_path / "other",
            **quiet,
        )


def test_progress_is_told_in_the_units_of_the_sources(corpus, tokenizer, tmp_path, small_blocks):
    told = []
    preparation = Preparation(corpus, tmp_path / "out", PACKING)
    manifest = preparation.run(vocabulary_of(tokenizer), told.append)
    assert len(told) == len(manifest.shards)
    last = told[-1]
    assert (last.documents, last.tokens) == (manifest.count("documents"), manifest.count("tokens"))
    assert last.bytes_done == last.bytes_total == corpus.stat().st_size
    assert last.seconds_left == 0
    assert all(one.bytes_done < other.bytes_done for one, other in itertools.pairwise(told))


def test_memory_does_not_grow_with_a_corpus_that_has_no_empty_lines(tmp_path):
    import tracemalloc

    path = tmp_path / "lines.txt"
    path.write_text("a line of some words\n" * 300_000)  # 6 MB, one document by its form
    tracemalloc.start()
    for block in CorpusReader(find_sources(path)).chunks(1 << 18):
        for document in block.documents(Preparation.reading):
            assert document
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_resident_memory_does_not_grow_with_what_was_read(tmp_path):
    """Look-ups that touch every page of a corpus of 100 MB, in a process of its own."""
    program = """
import sys
import numpy as np
from pathlib import Path
from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.shards import Manifest, Shard
from convbert.pretraining.data import SequenceDataset

folder, sequences = Path(sys.argv[1]), 100_000
manifest = Manifest("", 30_000, Packing(), "text", False, 1)
ends = np.arange(128, 128 * sequences + 1, 128, dtype="<u4").tobytes()
(folder / "shards").mkdir()
for number in range(4):
    data = np.full(128 * sequences, number, dtype="<u2").tobytes() + ends
    (folder / "shards" / f"{number}.bin").write_bytes(data)
    counts = {"documents": 1, "sequences": sequences, "tokens": 128 * sequences}
    manifest.shards.append(Shard(file=f"{number}.bin", size=len(data), sha256="", key="", **counts))
del data, ends

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

dataset = SequenceDataset(folder, manifest)
dataset.__getitems__(list(range(10)))
before, peak = resident(), 0
for start in range(0, len(dataset), 32 * 256):
    rows = dataset.__getitems__(list(range(start, start + 32 * 256, 32)))
    assert rows[0]["input_ids"][0] == start // sequences
    peak = max(peak, resident())
print(peak - before)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20e6
