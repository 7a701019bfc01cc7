"""Memory of `convbert predict` on a small and on a tenfold file, and a run that is killed and goes on.

    python -m benchmarks.streaming                                    # a model of one narrow layer: minutes
    python -m benchmarks.streaming --model runs/sst2/model --megabytes 0.5

The lines are of random length, some of them of no use: empty, not UTF-8, damaged JSON. The large file is run once more,
killed (SIGKILL) in the middle, and resumed: the answers must be the same, in the same order.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from convbert import ConvBertConfig, ConvBertForSequenceClassification, ConvBertTokenizerFast
from convbert.files import embedded

BAD = (b"", b"bad \xff bytes", b'{"text": ')
GIGABYTE = 1e9


def main(
    model: Annotated[Path | None, typer.Option(help="A fine-tuned folder.")] = None,
    megabytes: Annotated[
        float, typer.Option(help="Size of the small file; memory settles after about 2.")
    ] = 4.0,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = model or narrow_model(folder / "model")
        peaks = []
        for times in (1, 10):
            source, answers = folder / f"{times}.txt", folder / f"{times}.jsonl"
            lines = write_lines(source, times * megabytes * 1e6)
            started = time.monotonic()
            peaks.append(peak_memory(chosen, source, answers))
            check_order(answers, lines)
            seconds = time.monotonic() - started
            print(
                f"{source.stat().st_size / 1e6:.1f} MB, {lines:,} lines: {peaks[-1]:.1f} MiB, {seconds:.0f} s"
            )
        slope = (peaks[1] - peaks[0]) / (9 * megabytes)
        print(f"{1024 * slope:+.1f} KiB a megabyte; on 1 GB {peaks[1] + slope * GIGABYTE / 1e6:.0f} MiB")
        again = folder / "again.jsonl"
        done = kill_in_the_middle(chosen, source, again)
        peak_memory(chosen, source, again, "--resume")
        check_order(again, lines)
        same = says(again) == says(answers)
        print(f"killed after {done:,} answers, resumed: {'the same' if same else 'OTHER'} answers")
        raise typer.Exit(int(not same))


def narrow_model(folder: Path) -> Path:
    """A random classifier that runs fast: what memory does with the lines does not depend on its width."""
    tokenizer = ConvBertTokenizerFast.from_pretrained(embedded.folder())
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "embedding_size": 32, "intermediate_size": 32}
    config = ConvBertConfig(
        vocab_size=len(tokenizer), num_hidden_layers=1, num_attention_heads=2, pad_token_id=0, **sizes
    )
    ConvBertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, size: float) -> int:
    """A file of about `size` bytes; how many lines it has."""
    numbers, words = (
        random.Random(0),
        ("plants", "create", "a", "film", "that", "is", "not", "good", "enough", "."),
    )
    written = count = 0
    with path.open("wb") as file:
        while written < size:
            text = " ".join(numbers.choices(words, k=numbers.randint(1, 40))).encode()
            line = BAD[count // 100 % 3] if count % 100 == 7 else text
            written, count = written + file.write(line + b"\n"), count + 1
    return count


def command(model: Path, source: Path, answers: Path, *more: str) -> list[str]:
    files = ["--model", str(model), "--input", str(source), "--output", str(answers)]
    return [sys.executable, "-m", "convbert", "predict", *files, "--device", "cpu", *more]


def peak_memory(model: Path, source: Path, answers: Path, *more: str) -> float:
    """Run to the end; the peak of resident memory, in MiB."""
    process = subprocess.Popen(command(model, source, answers, *more), stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    return usage.ru_maxrss / 1024


def kill_in_the_middle(model: Path, source: Path, answers: Path) -> int:
    """Kill a run once it has answered something; how many lines it had."""
    partial = answers.with_name(answers.name + ".partial")
    with subprocess.Popen(command(model, source, answers), stderr=subprocess.DEVNULL) as process:
        while not (partial.exists() and partial.stat().st_size > 100_000):
            assert process.poll() is None, "ended before it could be killed: take a larger file"
            time.sleep(0.05)
        process.kill()
    return partial.read_bytes().count(b"\n")


def check_order(answers: Path, lines: int) -> None:
    """Every line has one answer, in order; those of no use have an error."""
    with answers.open(encoding="utf-8") as file:
        count = 0
        for count, line in enumerate(file, start=1):
            record = json.loads(line)
            assert record["line"] == count, record
            assert ("error" in record) == (count % 100 == 8), record
    assert count == lines, (count, lines)


def says(answers: Path) -> list[str | None]:
    """The labels alone: probabilities depend on the batch by rounding."""
    with answers.open(encoding="utf-8") as file:
        return [json.loads(line).get("answer") for line in file]


if __name__ == "__main__":
    typer.run(main)
