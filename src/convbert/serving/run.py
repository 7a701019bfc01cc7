"""The server as a process: its socket, its models, its end."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from convbert.util.cores import usable_cores
from convbert.util.errors import InputError
from convbert.util.signals import handling


def named(sources: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """Models with their names: NAME=FOLDER, or the folder's own, of one called "model" that of its parent.

    Raises:
        InputError: two models have one name.
    """
    found: dict[str, str | None] = {}
    for source in sources:
        name, given, folder = source.partition("=")
        if not given or not name or "/" in name:
            folder = source
            path = Path(folder).resolve()
            name = path.parent.name if path.name == "model" else path.name
        if name in found:
            raise InputError(f"two models are called {name!r}: name one, as in --model NAME={folder}")
        found[name] = None if folder == "embedded" else folder
    return tuple(found.items()) or (("convbert", None),)


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address, before models take their time to load.

    Raises:
        InputError: the port is in use or reserved, or the address is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} is in use: give another one with --port") from error
        raise InputError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return bound


def threads_of(workers: int) -> int:
    """Threads of each of some workers; 0, PyTorch's choice, for one that has the machine for itself."""
    return 0 if workers == 1 else max(1, usable_cores() // workers)


def serve(
    sources: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    queue: int = 1000,
    timeout: float = 30.0,
    api_key: str | None = None,
    log_level: str = "warning",
    report: Callable[[str], None] = lambda message: None,
    **options: object,
) -> None:
    """Serve until SIGTERM or Ctrl-C; what was accepted by then is answered.

    Args:
        sources: see `named`.
        options: of `convbert.serving.worker.Models`.
        report: told when the server listens, and where.

    Raises:
        InputError: see `bind` and `convbert.pipeline`.
    """
    with bind(host, port) as bound:
        import uvicorn

        from convbert.inference.loading import find_device, find_model
        from convbert.inference.precision import check_precision
        from convbert.serving.app import create_app
        from convbert.serving.batching import Batcher
        from convbert.serving.worker import Models

        models = Models(named(sources), threads=threads_of(workers), **options)  # type: ignore[arg-type]
        check_precision(models.precision, find_device(models.device))
        for _, source in models.sources:
            find_model(source)
        batcher = Batcher(models, workers, queue, timeout)
        for info in batcher.models.values():
            report(f"{info.name}: {info.task}, {info.dtype}, up to {info.max_length} tokens")
        config = uvicorn.Config(
            create_app(batcher, api_key),
            log_level=log_level,
            access_log=log_level == "info",
            timeout_graceful_shutdown=int(timeout) + 5,
            lifespan="on",
        )
        bound.listen()  # from here on, who connects waits
        shown = f"[{host}]" if ":" in host else host
        report(f"listening on http://{shown}:{bound.getsockname()[1]}")
        # uvicorn raises the signal that ended it a second time; it is ignored, so that the exit code is 0.
        with handling([signal.SIGTERM, signal.SIGINT], lambda number, frame: None):
            uvicorn.Server(config).run(sockets=[bound])
