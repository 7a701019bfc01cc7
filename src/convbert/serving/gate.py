"""Before a route reads a request: its key, its size, its pace; after it: how long it took."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException

from convbert.serving.errors import error_response
from convbert.serving.meters import Meters

LARGEST_BODY = 8 * 2**20
"""Bytes of a request."""
_DRAINED_BODY, _DRAINED_SECONDS = 64 * 2**20, 5.0


class Gate:
    """ASGI middleware.

    Args:
        app: what is behind it.
        meters: told the status and the seconds of every request.
        paths: that are counted by name.
        guarded: those that need the key.
        key: None lets everybody in.
        timeout: seconds in which the whole request must have arrived.
        root: the path that a POST to / means.
    """

    def __init__(
        self,
        app: Any,
        meters: Meters,
        paths: Collection[str],
        guarded: Collection[str],
        key: str | None,
        timeout: float,
        root: str,
    ) -> None:
        self.app, self.meters, self.paths, self.guarded = app, meters, frozenset(paths), frozenset(guarded)
        self.key = None if key is None else f"Bearer {key}".encode()
        self.timeout, self.root = timeout, root

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        if scope["path"] == "/" and scope["method"] == "POST":
            scope = {**scope, "path": self.root, "raw_path": self.root.encode()}
        path = scope["path"]

        async def note(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if (refusal := self._refusal(path, dict(scope["headers"]))) is not None:
                await _drain(receive)
                await refusal(scope, receive, note)
            else:
                await self.app(scope, self._bounded(receive), note)
        finally:
            name = path if path in self.paths else "other"
            self.meters.requests.labels(name, status).inc()
            self.meters.seconds.labels(name).observe(time.perf_counter() - started)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> Any:
        if self.key is not None and path in self.guarded:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self.key):
                sentence = (
                    "the API key is wrong" if given else "an API key is needed: Authorization: Bearer KEY"
                )
                return error_response(path, 401, sentence, {"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > LARGEST_BODY:
            return error_response(path, 413, _TOO_LARGE)
        return None

    def _bounded(self, receive: Any) -> Any:
        size, ends = 0, time.monotonic() + self.timeout
        is_whole = False

        async def bounded() -> Any:
            nonlocal size, is_whole
            if is_whole:  # what comes now is that the client leaves
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the request did not arrive in time") from None
            size += len(message.get("body", b""))
            if size > LARGEST_BODY:
                raise HTTPException(413, _TOO_LARGE)
            is_whole = not message.get("more_body", False)
            return message

        return bounded


async def _drain(receive: Any) -> None:
    """Read what a client is still sending, within bounds: it may read the refusal only after that."""
    size, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAINED_SECONDS):
            while more and size < _DRAINED_BODY:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)


_TOO_LARGE = f"the request is too large: the limit is {LARGEST_BODY // 2**20} MiB"
