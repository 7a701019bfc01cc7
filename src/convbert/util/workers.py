"""Work in order by several processes of this machine, or by a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, TypeVar

from convbert.util.errors import InputError
from convbert.util.optional import require

ENGINES = ("local", "ray")
_NO_CLUSTER = "no Ray cluster is running here: start one (ray start --head), or set RAY_ADDRESS"
Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Any], Any]

_work: Work | None = None  # of this worker process


def check_engine(engine: str) -> None:
    """Refuse an engine that there is not, or that is not installed, before any work is done."""
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    if engine == "ray":
        require("ray", "--engine ray")


def in_order(
    items: Iterable[Item], submit: Callable[[Item], Future[Result]], workers: int
) -> Generator[tuple[Item, Result]]:
    """Yield every item with its result, of as many items as there are workers, and two, at a time."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    items = iter(items)
    while True:
        for item in islice(items, workers + 2 - len(waiting)):
            waiting.append((item, submit(item)))
        if not waiting:
            return
        item, future = waiting.popleft()
        yield item, future.result()


@contextmanager
def processes(
    make: Callable[[], Work], workers: int, shared: str | None = None
) -> Iterator[Callable[[Any], Future[Any]]]:
    """Give what submits an item to one of `workers` processes, each of which makes its work once.

    Args:
        shared: a module whose import takes long: once for all of them, where the system can fork.

    Raises:
        InputError: a process died.
    """
    # Not forked from here: a process in which a tokenizer or PyTorch has started threads does not survive it.
    context: Any = multiprocessing.get_context("spawn")
    if shared and "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([shared])
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(make,))
    try:
        yield lambda item: pool.submit(_do, item)
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died (killed, perhaps for want of memory); what is finished is kept: "
            "run again, with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[], Work]) -> None:
    global _work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the pool
    threading.Thread(target=_follow_parent, daemon=True).start()
    _work = make()


def _follow_parent() -> None:
    """Workers of a killed process would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)


@contextmanager
def ray_cluster() -> Iterator[None]:
    """Be connected to the Ray cluster that runs here or at RAY_ADDRESS.

    Raises:
        InputError: there is none, it failed, or what one of its workers raised.
    """
    import ray

    here = not ray.is_initialized()
    if here:
        _check_ray_address(os.environ.get("RAY_ADDRESS", ""))
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what fails is raised
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="error")
        except ConnectionError as error:
            raise InputError(_NO_CLUSTER) from error
    try:
        yield
    except Exception as error:
        cause: Any = error
        while cause is not None and not isinstance(cause, InputError):  # Ray wraps what a worker raised
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from error
        if isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError):
            raise InputError(f"the Ray cluster failed, what is finished is kept: {error}") from error
        raise
    finally:
        if here:
            with suppress(Exception):
                ray.shutdown()


def _check_ray_address(address: str) -> None:
    """Where nothing listens, Ray itself would wait for minutes and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise InputError(f"{_NO_CLUSTER} (now {address}, which does not answer: {error})") from error
