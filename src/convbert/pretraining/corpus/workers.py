"""Who encodes chunks: this process, several on this machine, or a Ray cluster."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from convbert.pretraining.corpus.encoding import Encoder
from convbert.pretraining.corpus.reading import Chunk
from convbert.pretraining.corpus.shards import Counts
from convbert.util.errors import InputError
from convbert.util.optional import require

ENGINES = ("local", "ray")
_NO_CLUSTER = "no Ray cluster is running here: start one (ray start --head), or set RAY_ADDRESS"
Encoded = tuple[bytes, Counts]
Submit = Callable[[Chunk], "Future[Encoded]"]

_encoder: Encoder | None = None  # of this worker process


def check_engine(engine: str) -> None:
    """Refuse an engine that there is not, or that is not installed, before any work is done."""
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    if engine == "ray":
        require("ray", "--engine ray")


def encode_in_order(
    chunks: Iterable[Chunk], encoder: Encoder, workers: int, engine: str = "local"
) -> Generator[tuple[Chunk, Encoded]]:
    """Yield every chunk with what became of it; of as many chunks as there are workers, and two, at a time.

    Args:
        workers: processes; 1 encodes here, on the tokenizer's own threads. With Ray, the cluster's CPUs count.

    Raises:
        InputError: a chunk cannot be encoded, a worker died, or there is no cluster.
    """
    if engine == "local" and workers == 1:
        yield from ((chunk, encoder.encode(chunk)) for chunk in chunks)
        return
    with _ray(encoder) if engine == "ray" else _processes(encoder, workers) as (submit, width):
        waiting: deque[tuple[Chunk, Future[Encoded]]] = deque()
        chunks = iter(chunks)
        while True:
            for chunk in itertools.islice(chunks, width + 2 - len(waiting)):
                waiting.append((chunk, submit(chunk)))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            yield chunk, future.result()


@contextmanager
def _processes(encoder: Encoder, workers: int) -> Iterator[tuple[Submit, int]]:
    # Not forked: a process in which a tokenizer or PyTorch has started threads does not survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(encoder,))
    try:
        yield lambda chunk: pool.submit(_encode, chunk), workers
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died (killed, perhaps for want of memory); finished shards are kept: "
            "run again, with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(encoder: Encoder) -> None:
    global _encoder
    _encoder = encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the pool
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Workers of a killed process would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(chunk: Chunk) -> Encoded:
    assert _encoder is not None
    return _encoder.encode(chunk)


@contextmanager
def _ray(encoder: Encoder) -> Iterator[tuple[Submit, int]]:
    """Tasks rather than a `ray.data` pipeline: chunks are read one after the other, and keep their order."""
    import ray

    here = not ray.is_initialized()
    if here:
        _check_ray_address(os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="error")
        except ConnectionError as error:
            raise InputError(_NO_CLUSTER) from error
    try:
        shared = ray.put(encoder)
        task = ray.remote(num_cpus=1)(_encode_remotely)
        width = max(1, int(ray.cluster_resources().get("CPU", 1)))
        yield lambda chunk: task.remote(shared, chunk).future(), width
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise InputError(f"the Ray cluster failed, finished shards are kept: {error}") from error
    finally:
        if here:
            with contextlib.suppress(Exception):
                ray.shutdown()


def _check_ray_address(address: str) -> None:
    """Where nothing listens, Ray itself would wait for minutes and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise InputError(f"{_NO_CLUSTER} (now {address}, which does not answer: {error})") from error


def _encode_remotely(encoder: Encoder, chunk: Chunk) -> Encoded:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return encoder.encode(chunk)
