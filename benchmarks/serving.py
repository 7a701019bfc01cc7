"""`convbert serve` under load: `python -m benchmarks.serving [--size base] [--requests 512] [--overload SECONDS]`.

Real sentences, one to eight (--longest) of them joined to a text, are classified by random weights of a published
size, one text a request, by 64 clients in this process over loopback; the server is a process of its own. Side by side,
in turns:

- pipeline: `convbert.pipeline` over all texts in one list, in a process of its own;
- ours: `convbert serve`;
- peer: transformers' pipeline with transformers' ConvBERT behind FastAPI, a text at a time.

Every answer is compared with that for the text alone. With --overload, requests then arrive at twice the rate that ours
has just answered (or at twice --rate, with nothing measured before), whether or not answers come: statuses, latency of
what was accepted, and memory of the server.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import psutil
import torch
import typer

import convbert
from benchmarks.cases import SENTENCES, SIZES
from benchmarks.pipeline import write_base
from benchmarks.subjects import lively

CLIENTS = 64
LABELS = 3
TOLERANCE = 1e-4
TIMEOUT = 30.0
"""Seconds that an answer may take."""
OURS = "from convbert.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
PEER = """
import sys, uvicorn, transformers
from fastapi import FastAPI
from transformers.models.convbert import ConvBertForSequenceClassification
folder, port = sys.argv[1], int(sys.argv[2])
model = ConvBertForSequenceClassification.from_pretrained(folder)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
classify = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, truncation=True)
app = FastAPI()
@app.post("/predict")
def predict(body: dict):
    return classify(body["inputs"])
@app.get("/health")
def health():
    return {}
uvicorn.run(app, port=port, log_level="warning")
"""


class Load(NamedTuple):
    """Requests as they were answered."""

    seconds: float
    latencies: list[float]
    statuses: Counter[int]
    answers: list[object]

    def line(self) -> str:
        done = sorted(self.latencies)
        p50, p95 = done[len(done) // 2], done[int(0.95 * (len(done) - 1))]
        rate = len(done) / self.seconds
        return f"{rate:7.1f} texts/s, p50 {p50 * 1e3:6.0f} ms, p95 {p95 * 1e3:6.0f} ms, {dict(self.statuses)}"


class Client:
    """A connection that is kept open, as little work for this machine as can be."""

    async def post(self, port: int, body: bytes) -> tuple[int, bytes]:
        if not hasattr(self, "reader"):
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
        self.writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        head_lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head_lines.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head_lines.split()[1]), await self.reader.readexactly(length)


async def closed_loop(port: int, texts: Sequence[str]) -> Load:
    """Each client asks as soon as it has been answered."""
    waiting, latencies, statuses = list(enumerate(texts))[::-1], [], Counter()
    answers: list[object] = [None] * len(texts)

    async def one() -> None:
        client = Client()
        while waiting:
            number, text = waiting.pop()
            began = time.perf_counter()
            status, content = await client.post(port, json.dumps({"inputs": text}).encode())
            latencies.append(time.perf_counter() - began)
            statuses[status] += 1
            answers[number] = json.loads(content)
        client.writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return Load(time.perf_counter() - began, latencies, statuses, answers)


async def open_loop(
    port: int, texts: Sequence[str], rate: float, seconds: float, look: Callable[[], None]
) -> Load:
    """A request every 1 / rate seconds; latencies are those of accepted ones. `look` is called ten times meanwhile."""
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    free: list[Client] = []

    async def one(text: str) -> None:
        client = free.pop() if free else Client()
        began = time.perf_counter()
        status, _ = await client.post(port, json.dumps({"inputs": text}).encode())
        statuses[status] += 1
        if status == 200:
            latencies.append(time.perf_counter() - began)
        free.append(client)

    looks, began = 0, time.perf_counter()
    tasks: list[asyncio.Task[None]] = []
    while (now := time.perf_counter() - began) < seconds:
        tasks += [asyncio.create_task(one(texts[n % len(texts)])) for n in range(len(tasks), int(now * rate))]
        if now * 10 >= seconds * (looks + 1):
            look()
            looks += 1
        await asyncio.sleep(0.01)
    look()
    await asyncio.gather(*tasks)
    return Load(time.perf_counter() - began, latencies, statuses, [])


def texts_of(count: int, longest: int) -> list[str]:
    """One to `longest` sentences a text, in an order without a pattern."""
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    joined = [lines[(7 * n + k) % len(lines)] for n in range(count) for k in range(longest)]
    return [" ".join(joined[longest * n :][: 1 + n * 5 % longest]) for n in range(count)]


def write_classifier(folder: Path, size: str) -> Path:
    """Random weights under the embedded model's vocabulary."""
    write_base(folder)
    lively(convbert.ConvBertForSequenceClassification, SIZES[size](num_labels=LABELS)).save_pretrained(folder)
    return folder


def start(program: str, *words: str, port: int) -> subprocess.Popen:
    """A server that answers."""
    process = subprocess.Popen([sys.executable, "-c", program, *words])
    probe = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/health')"
    while subprocess.run([sys.executable, "-S", "-c", probe], capture_output=True, check=False).returncode:
        if process.poll() is not None:
            raise SystemExit(f"a server ended with code {process.returncode}")
        time.sleep(0.5)
    return process


def memory(process: subprocess.Popen) -> float:
    """MB of a process and of those that it started."""
    root = psutil.Process(process.pid)
    return sum(each.memory_info().rss for each in (root, *root.children(recursive=True))) / 1e6


def refuse_other_answers(found: Load, expected: list[list[dict[str, float]]]) -> None:
    if set(found.statuses) != {200}:
        raise SystemExit(f"not all were answered: {dict(found.statuses)}")
    for number, (one, other) in enumerate(zip(found.answers, expected, strict=True)):
        scores = {each["label"]: each["score"] for each in other}
        for each in one:  # type: ignore[attr-defined]
            if abs(each["score"] - scores[each["label"]]) > TOLERANCE:
                raise SystemExit(f"text {number} has another answer than alone")


def compare(folder: Path, port: int, texts: list[str], rounds: int, precision: str) -> float:
    """Ours, the pipeline and the peer in turns; texts/s of ours, in the median."""
    requests = len(texts)
    peer = start(PEER, str(folder), str(port + 1), port=port + 1)
    try:
        pipe = convbert.pipeline("text-classification", folder, precision=precision, top_k=None)
        alone = [pipe(text, top_k=None) for text in texts]
        rates: dict[str, list[float]] = {"pipeline": [], "ours": [], "peer": []}
        few = max(CLIENTS, requests // 4)  # of the peer, which takes longest
        asyncio.run(closed_loop(port, texts[:CLIENTS]))
        asyncio.run(closed_loop(port + 1, texts[:CLIENTS]))
        for _ in range(rounds):
            began = time.perf_counter()
            pipe(texts, top_k=None)
            rates["pipeline"].append(requests / (time.perf_counter() - began))
            found = asyncio.run(closed_loop(port, texts))
            refuse_other_answers(found, alone)
            theirs = asyncio.run(closed_loop(port + 1, texts[:few]))
            rates["ours"].append(requests / found.seconds)
            rates["peer"].append(few / theirs.seconds)
            print(f"ours {found.line()}\npeer {theirs.line()}", flush=True)
    finally:
        peer.terminate()
    medians = {name: round(statistics.median(each), 1) for name, each in rates.items()}
    print(f"texts/s, medians of {rounds} rounds: {medians}; torch {torch.__version__}")
    for other, bar in (("pipeline", 0.85), ("peer", 3)):
        ratios = sorted(one / two for one, two in zip(rates["ours"], rates[other], strict=True))
        shown = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"ours / {other}, within a round: {shown}; to reach: {bar}", flush=True)
    return medians["ours"]


def main(
    size: Annotated[str, typer.Option(help=f"of {', '.join(SIZES)}")] = "base",
    requests: int = 512,
    rounds: int = 3,
    longest: Annotated[int, typer.Option(help="sentences in a text, at most")] = 8,
    precision: Annotated[str, typer.Option(help="of ours and of the pipeline")] = "fp32",
    overload: Annotated[float, typer.Option(help="seconds of twice the load; 0 leaves it out")] = 0.0,
    rate: Annotated[float, typer.Option(help="texts/s that ours can answer; 0 measures them")] = 0.0,
    port: int = 8765,
) -> None:
    """Measure side by side. Run nothing else on the machine meanwhile."""
    texts = texts_of(requests, longest)
    with tempfile.TemporaryDirectory() as place:
        folder = write_classifier(Path(place), size)
        words = ("serve", "--model", f"load={folder}", "--precision", precision, "--timeout", str(TIMEOUT))
        ours = start(OURS, *words, "--port", str(port), port=port)
        try:
            rate = rate or compare(folder, port, texts, rounds, precision)
            if overload:
                held: list[float] = []
                load = open_loop(port, texts, 2 * rate, overload, lambda: held.append(memory(ours)))
                print(f"at {2 * rate:.1f} texts/s for {overload:.0f} s, {size}: {asyncio.run(load).line()}")
                print(f"MB in ten equal parts: {[round(each) for each in held]}; deadline {TIMEOUT:.0f} s")
        finally:
            ours.terminate()
            ours.wait(60)


if __name__ == "__main__":
    typer.run(main)
