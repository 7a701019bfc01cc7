"""A server in a thread of the tests, on a free port. Needs the extra serve."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn

from convbert.serving.app import create_app
from convbert.serving.batching import Batcher
from convbert.serving.run import bind


class Reply(NamedTuple):
    """A status, headers, and what the body says."""

    status: int
    headers: Any
    content: Any


class Server(NamedTuple):
    """Where a server is, and its batcher."""

    url: str
    batcher: Batcher

    def send(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """GET, or POST of an object, or of bytes as they are."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return _read(response.status, response)
        except urllib.error.HTTPError as error:
            return _read(error.code, error)


def _read(status: int, response: Any) -> Reply:
    content = response.read()
    is_json = response.headers.get_content_type() == "application/json"
    return Reply(status, response.headers, json.loads(content) if is_json else content.decode())


@contextmanager
def serving(batcher: Batcher, api_key: str | None = None) -> Iterator[Server]:
    """A server in a thread of this process."""
    config = uvicorn.Config(create_app(batcher, api_key), log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    with bind("127.0.0.1", 0) as bound:
        bound.listen()  # clients wait until the server accepts them
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{bound.getsockname()[1]}", batcher)
        finally:
            server.should_exit = True
            thread.join()


def in_thread() -> ThreadPoolExecutor:
    """A worker that needs no process."""
    return ThreadPoolExecutor(1)
