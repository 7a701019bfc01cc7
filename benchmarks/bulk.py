"""`convbert predict` over a large file, end to end: time, texts/s, peak memory of all processes.

    python -m benchmarks.bulk                                # 1 GB of lines to vectors in a Parquet file
    python -m benchmarks.bulk --megabytes 10 --engine ray    # the same by a Ray cluster of this machine
    python -m benchmarks.bulk --narrow                       # a model that costs next to nothing: what is around it
    python -m benchmarks.bulk --megabytes 0.1 --results build     # a trial

The lines are the real sentences of the other benchmarks, over and over, each with its number, so that no two are the
same. The embedded model, or a random one of one narrow layer, turns each into a vector, the mean of its tokens. Memory
is the sum over all processes of what each has for itself and of its share of what they have in common (PSS), once a
second. What was written is read again: every line is there once, in order, and the first vectors are those of
`convbert.pipeline`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import date
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
import typer

import convbert
from benchmarks.cases import SENTENCES
from benchmarks.report import RESULTS, processor_name, slug, world
from benchmarks.streaming import narrow_model
from convbert.util.cores import usable_cores

POOLING = "mean"
COMPARED = 16
MARK = "CONVBERT_BENCHMARK"


def main(
    megabytes: Annotated[float, typer.Option(help="Size of the file.")] = 1000.0,
    workers: Annotated[int, typer.Option(help="Processes or actors; 0 is one a core.")] = 0,
    engine: Annotated[str, typer.Option(help="local or ray")] = "local",
    precision: Annotated[str, typer.Option(help="as of convbert predict")] = "auto",
    narrow: Annotated[bool, typer.Option("--narrow", help="A random model of one narrow layer.")] = False,
    folder: Annotated[Path | None, typer.Option(help="For the files, several GB; by default /tmp.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of the page.")] = RESULTS,
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source, output = Path(name) / "lines.txt", Path(name) / "vectors.parquet"
        lines = write_lines(source, megabytes * 1e6)
        count = workers or usable_cores()
        words = ["--input", source, "--output", output, "--embeddings", POOLING, "--precision", precision]
        model = narrow_model(Path(name) / "model") if narrow else None
        words += ["--model", model] if model else []
        words += ["--workers", count, "--engine", engine, "--device", "cpu"]
        seconds, peak = run([sys.executable, "-m", "convbert", "predict", *map(str, words)], engine, count)
        check(output, lines, source, model)
        sizes = (source.stat().st_size / 1e6, lines, seconds, peak, output.stat().st_size / 1e6)
        page(results, engine, count, precision, narrow, *sizes)


def write_lines(path: Path, size: float) -> int:
    """A file of about `size` bytes; how many lines it has."""
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    written = count = 0
    with path.open("wb", buffering=1 << 20) as file:
        while written < size:
            written += file.write(f"{count} {sentences[count % len(sentences)]}\n".encode())
            count += 1
    return count


def run(command: list[str], engine: str, cpus: int) -> tuple[float, float]:
    """Seconds to the end, and the peak of memory in MiB."""
    mark, peak = {MARK: str(os.getpid())}, 0.0
    with cluster(cpus, mark) if engine == "ray" else nullcontext({}) as more:
        started = time.monotonic()
        with subprocess.Popen(command, env={**os.environ, **mark, **more}) as process:
            while process.poll() is None:
                peak = max(peak, memory(mark))
                time.sleep(1)
        assert process.returncode == 0, process.returncode
        return time.monotonic() - started, peak


@contextmanager
def cluster(cpus: int, mark: dict[str, str]) -> Iterator[dict[str, str]]:
    """A Ray cluster of this machine; what a process needs to find it."""
    import ray

    os.environ.update(mark)
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    finally:
        ray.shutdown()


def memory(mark: dict[str, str]) -> float:
    """MiB of the processes that have been started with this mark."""
    total = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and mark.items() <= process.environ().items():
                total += process.memory_full_info().pss
    return total / 2**20


def check(output: Path, lines: int, source: Path, model: Path | None) -> None:
    """Every line once, in order, with the vector that the pipeline gives."""
    file, count = pq.ParquetFile(output), 0
    for batch in file.iter_batches(columns=["line", "embedding", "error"]):
        assert batch["line"].to_pylist() == list(range(count + 1, count + 1 + len(batch)))
        assert batch["error"].null_count == len(batch)
        assert batch["embedding"].null_count == 0
        count += len(batch)
    assert count == lines, (count, lines)
    with source.open(encoding="utf-8") as stream:
        texts = [line.rstrip("\n") for line, _ in zip(stream, range(COMPARED), strict=False)]
    first = next(file.iter_batches(batch_size=len(texts), columns=["embedding"]))["embedding"]
    expected = convbert.pipeline("feature-extraction", model, pooling=POOLING, device="cpu")(texts)
    found = first.flatten().to_numpy().reshape(len(texts), -1)
    assert found.dtype == np.float32
    similarity = torch.cosine_similarity(torch.tensor(found), torch.tensor(expected))
    assert similarity.min() > 0.99, similarity  # int8 is not exact


def page(
    folder: Path,
    engine: str,
    workers: int,
    precision: str,
    narrow: bool,
    size: float,
    lines: int,
    seconds: float,
    peak: float,
    out: float,
) -> None:
    facts = world(torch.device("cpu"), {})
    words = f"--megabytes {size:.0f} --engine {engine} --workers {workers} --precision {precision}"
    words += " --narrow" if narrow else ""
    model = "a random model of one narrow layer" if narrow else "the embedded model"
    numbers = (
        f"{size:,.1f} MB",
        f"{lines:,}",
        f"{seconds:,.0f} s",
        f"{lines / seconds:,.0f}",
        f"{size / seconds:.2f}",
        f"{peak:,.0f} MiB",
        f"{out:,.1f} MB",
    )
    text = f"""# Bulk inference, {processor_name(facts)}, {date.today()}

`python -m benchmarks.bulk {words}`: lines of text to vectors of
{model} in a Parquet file (`convbert predict --embeddings {POOLING}`), end to end: starting, reading, tokenizing,
answering, writing. {facts["cores"]} cores, torch {facts["torch"]}, transformers {facts["transformers"]}.
Every line was there once and in order, and the first {COMPARED} vectors were those of the pipeline.

| input | lines | time | texts/s | MB/s | peak memory, all processes | output |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| {" | ".join(numbers)} |
"""
    path = folder / f"bulk_{slug(facts)}_{date.today()}{'_ray' * (engine == 'ray')}{'_narrow' * narrow}.md"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    typer.run(main)
