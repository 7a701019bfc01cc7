"""`convbert serve` as a process: a worker is killed, the server is told to end, the port is taken."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from convbert.cli import main
from servers import Server

MASKED = "the cat [MASK] on the mat ."


def worker_of(process: subprocess.Popen) -> int:
    """The process that holds the model: the child which was spawned with a main module."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (worker,) = [
        int(each) for each in children if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]
    return worker


def is_alive(number: int) -> bool:
    status = Path(f"/proc/{number}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the worker in Linux' /proc")
def test_a_worker_is_killed_and_the_server_ends_gracefully(folders, tmp_path):
    folder, gone = tmp_path / "words", tmp_path / "gone"
    shutil.copytree(folders["words"], folder)
    words = ["serve", "--model", str(folder), "--port", "0", "--max-tokens", "256", "--log"]
    process = subprocess.Popen(
        [sys.executable, "-m", "convbert", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = iter(process.stdout.readline, "")
    try:
        found = next(filter(None, (re.search(r"listening on (http:\S+)", line) for line in lines)))
        server = Server(found[1], None)
        whole = server.send("/fill-mask", {"inputs": MASKED})
        assert whole.status == 200
        with ThreadPoolExecutor(8) as clients:
            # What the worker had fails; what comes later is answered by the next one, once it finds its model.
            dying = clients.submit(server.send, "/fill-mask", {"inputs": [MASKED] * 1000})
            worker = worker_of(process)
            while "convbert_queue_texts 0.0" in server.send("/metrics").content and not dying.done():
                time.sleep(0.01)
            folder.rename(gone)
            os.kill(worker, signal.SIGKILL)
            assert dying.result().status == 503
            without = server.send("/fill-mask", {"inputs": MASKED})
            assert (without.status, str(folder) in without.content["error"]) == (503, True)
            gone.rename(folder)
            assert server.send("/fill-mask", {"inputs": MASKED}).content == whole.content
            assert "convbert_worker_restarts_total 1.0" in server.send("/metrics").content
            worker = worker_of(process)
            # What was accepted is answered after the signal, too; a terminal sends it to the worker as well.
            last = [clients.submit(server.send, "/fill-mask", {"inputs": [MASKED] * 300}) for _ in range(3)]
            while "convbert_queue_texts 0.0" in server.send("/metrics").content and not last[0].done():
                time.sleep(0.01)
            os.kill(worker, signal.SIGTERM)
            process.terminate()
            assert [(each.result().status, len(each.result().content)) for each in last] == [(200, 300)] * 3
        said = "".join(lines)
        assert process.wait(30) == 0
        assert not is_alive(worker)
        assert "POST /fill-mask" in said
        assert "mat" not in said  # no text in the log
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "{taken}"], "{taken}"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--model", "{model}", "--model", "{model}"], "NAME="),
        (["--precision", "fp8"], "fp8"),
        (["--pooling", "sum"], "sum"),
        (["--api-key", ""], "key"),
    ],
)
def test_what_cannot_be_served_is_named_before_a_model_is_loaded(words, said, folders, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"taken": taken.getsockname()[1], "model": folders["words"]}
        port = [] if "--port" in words else ["--port", "0"]
        assert main(["serve", *port, *(word.format(**names) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said.format(**names) in line
    assert json.dumps(line)
