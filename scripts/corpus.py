"""How prepared corpora are best kept on disk, and what reading one costs: `python scripts/corpus.py`.

Prints two tables: forms of the same sequences side by side (Arrow as `datasets` writes it, plain arrays read through
a memory map, plain arrays read by position), and, for `SequenceDataset` with `EpochSampler` on corpora of growing size,
the time to open one, and the resident memory that reading adds. Times are processor time, so that a busy machine
disturbs them less; files come from the system's cache.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from convbert.pretraining.corpus.packing import Packing
from convbert.pretraining.corpus.shards import SHARDS, Manifest, Shard, ShardLayout
from convbert.pretraining.data import EpochSampler, SequenceDataset

LENGTH, BATCH, PER_SHARD = 128, 128, 65_536
LAYOUT = ShardLayout("uint16", False)
BYTES_OF_TEXT = 4.4  # a token of English, in the embedded vocabulary


def rows(count: int, seed: int) -> np.ndarray:
    """(count, LENGTH) random ids."""
    return np.random.default_rng(seed).integers(5, 30_000, (count, LENGTH), dtype=np.uint16)


def write_plain(folder: Path, shards: int) -> None:
    manifest = Manifest("", 30_000, Packing(LENGTH), "text", False, 1, complete=True)
    (folder / SHARDS).mkdir(parents=True)
    for number in range(shards):
        data = LAYOUT.to_bytes(list(rows(PER_SHARD, number)), [])
        (folder / SHARDS / f"{number}.bin").write_bytes(data)
        counts: dict[str, Any] = {
            "documents": PER_SHARD,
            "sequences": PER_SHARD,
            "tokens": PER_SHARD * LENGTH,
        }
        manifest.shards.append(Shard(file=f"{number}.bin", size=len(data), sha256="", key="", **counts))
    (folder / "manifest.json").write_text(manifest.to_json())


def write_arrow(folder: Path, shards: int) -> None:
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    folder.mkdir(parents=True)
    with ArrowWriter(path=str(folder / "data.arrow")) as writer:
        for number in range(shards):
            offsets = np.arange(0, PER_SHARD * LENGTH + 1, LENGTH, dtype=np.int32)
            lists = pa.ListArray.from_arrays(offsets, rows(PER_SHARD, number).ravel())
            writer.write_table(pa.table({"input_ids": lists}))
        writer.finalize()


def open_plain(folder: Path) -> SequenceDataset:
    manifest = Manifest.read(folder)
    assert manifest is not None
    if problem := manifest.problem(folder, thorough=False):
        raise SystemExit(problem)
    return SequenceDataset(folder, manifest)


class Mapped(SequenceDataset):
    """The same files through memory maps."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder, manifest)
        self._maps: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _read(self, draw: int, shard: int, place: int) -> dict[str, Any]:
        if shard not in self._maps:
            tokens, path = self.manifest.shards[shard].tokens, self.folder / SHARDS / f"{shard}.bin"
            data = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
            self._maps[shard] = data[: 2 * tokens].view("<u2"), data[2 * tokens :].view("<u4")
        ids, ends = self._maps[shard]
        return {"input_ids": ids[ends[place - 1] if place else 0 : ends[place]].copy(), "draw": draw}


class ArrowRows:
    def __init__(self, folder: Path) -> None:
        import datasets

        self.table = datasets.Dataset.from_file(str(folder / "data.arrow")).with_format("numpy")

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, draws: list[int]) -> list[Any]:
        return list(self.table[draws]["input_ids"])


def open_mapped(folder: Path) -> Mapped:
    plain = open_plain(folder)
    return Mapped(plain.folder, plain.manifest)


FORMS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], Any]]] = {
    "Arrow (datasets)": (write_arrow, ArrowRows),
    "arrays, memory map": (write_plain, open_mapped),
    "arrays, read": (write_plain, open_plain),
}


def measure(form: str, shards: int, items: int) -> dict[str, float]:
    """Write, open and read in random order; run in a process of its own."""
    write, open_form = FORMS[form]
    with tempfile.TemporaryDirectory() as root:
        start = time.process_time()
        write(Path(root, "data"), shards)
        written = time.process_time() - start
        size = sum(file.stat().st_size for file in Path(root).rglob("*") if file.is_file())
        open_form(Path(root, "data")).__getitems__([0, 1])  # imports are not counted
        before = peak = resident()
        start = time.process_time()
        dataset = open_form(Path(root, "data"))
        opened = time.process_time() - start
        draws = iter(EpochSampler(len(dataset), 0))
        start = time.process_time()
        for _ in range(items // BATCH):
            dataset.__getitems__([next(draws) for _ in range(BATCH)])
            peak = max(peak, resident())
        read = time.process_time() - start
    return {
        "MB": size / 1e6,
        "write, MB/s": size / 1e6 / written,
        "open, ms": 1e3 * opened,
        "items/s": items / read,
        "resident, MB": (peak - before) / 1e6,
    }


def resident() -> int:
    """Bytes of this process that are in memory, mapped files included."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(lines: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(lines.values())))
    head = f"| | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}\n"
    cells = ({name: f"{value:,.1f}" for name, value in line.items()} for line in lines.values())
    body = [f"| {name} | {' | '.join(cell.values())} |" for name, cell in zip(lines, cells, strict=True)]
    return head + "\n".join(body)


def main(
    shards: Annotated[int, typer.Argument(min=1, help=f"Of {PER_SHARD:,} sequences each.")] = 8,
    items: Annotated[int, typer.Argument(min=BATCH, help="Sequences to read.")] = 64_000,
) -> None:
    """Print two tables: forms of the same sequences side by side, and the memory that larger corpora take."""

    def alone(*arguments: Any) -> dict[str, float]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(measure, arguments)

    print(table({form: alone(form, shards, items) for form in FORMS}), "\n")
    plain = "arrays, read"
    grown = {n * shards: alone(plain, n * shards, items) for n in (1, 3)}
    print(table({f"{n} shards": line for n, line in grown.items()}))
    (small, one), (large, other) = grown.items()
    slope = (other["resident, MB"] - one["resident, MB"]) / (large - small)
    needed = 10e9 / BYTES_OF_TEXT / (PER_SHARD * LENGTH)
    expected = one["resident, MB"] + slope * (needed - small)
    print(f"\n10 GB of text: {needed:.0f} such shards, by this slope {expected:.0f} MB of resident memory")


if __name__ == "__main__":
    typer.run(main)
