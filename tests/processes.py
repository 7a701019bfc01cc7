"""Processes, forked from one that has imported everything (see conftest.py), so that they begin at once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

FORKED = multiprocessing.get_context("forkserver")


def start(
    function: Callable[..., int | None],
    *arguments: Any,
    environment: dict[str, str] | None = None,
    stdin: Path | None = None,
    stdout: Path | None = None,
    stderr: Path | None = None,
    daemon: bool = True,
) -> multiprocessing.process.BaseProcess:
    """A process that ends with the code that `function` returns; the files take the place of its own.

    Args:
        daemon: it ends with the tests, but cannot have processes of its own.
    """
    files = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    process = FORKED.Process(
        target=_enter, args=(function, arguments, environment or {}, files), daemon=daemon
    )
    process.start()
    return process


def _enter(
    function: Callable, arguments: tuple, environment: dict[str, str], files: dict[str, Path | None]
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    for number, (name, path) in enumerate(files.items()):
        if path is not None:
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    raise SystemExit(function(*arguments) or 0)


def places(processes: int) -> list[dict[str, str]]:
    """What torchrun tells each of several processes by its environment; nothing to a single one."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def finish(processes: list[multiprocessing.process.BaseProcess]) -> list[int | None]:
    """Their exit codes."""
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def torchrun(function: Callable[..., int], *arguments: Any, logs: Path) -> list[tuple[str, str]]:
    """What `torchrun --standalone --nproc-per-node 2` does; stdout and stderr of each process."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="tests",
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(str(logs), redirects=Std.ALL),
    )
    with ThreadPoolExecutor(1) as thread:  # in the main thread it would keep the handlers of signals
        thread.submit(elastic_launch(config, _succeed), function, arguments).result()
    return [
        tuple(next(logs.rglob(f"{rank}/{name}.log")).read_text() for name in ("stdout", "stderr"))
        for rank in range(2)
    ]


def _succeed(function: Callable[..., int], arguments: tuple) -> None:
    torch.set_num_threads(1)
    assert function(*arguments) == 0
