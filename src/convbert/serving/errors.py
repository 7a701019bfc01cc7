"""Every failure as one sentence, with the status and in the form that the client of its route reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from convbert.serving.batching import OverloadedError, WorkerDiedError
from convbert.util.errors import InputError

logger = logging.getLogger("convbert.serving")

_KINDS = {
    404: "NotFound",
    413: "Validation",
    422: "Validation",
    429: "Overloaded",
    503: "Unhealthy",
    504: "Overloaded",
}
_KINDS_OF_OPENAI = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class RequestError(Exception):
    """A request that cannot be answered: a status, and the sentence that says why."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


def error_response(path: str, status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """As OpenAI's clients read it under /v1, and elsewhere as those of text-embeddings-inference do."""
    sentence = sentence.encode("utf-8", "backslashreplace").decode()
    content: dict[str, Any]
    if path.startswith("/v1/"):
        status = 400 if status == 422 else status
        kind = _KINDS_OF_OPENAI.get(status, "invalid_request_error" if status < 500 else "server_error")
        content = {"error": {"message": sentence, "type": kind, "param": None, "code": None}}
    else:
        content = {
            "error": sentence,
            "error_type": _KINDS.get(status, "Validation" if status < 500 else "Backend"),
        }
    return Response(to_json(content), status, headers, "application/json")


def validation_sentence(errors: Sequence[Any]) -> str:
    """The first field at fault, and what is wrong with it; an unknown one before all others."""
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    field = ".".join(str(part) for part in first["loc"][1:] if not _is_variant(part))
    if first["type"] == "extra_forbidden":
        return f"there is no field {field!r}"
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
    return f"{field or 'the body'}: {first['msg']}"


def _is_variant(part: Any) -> bool:
    """Whether a step of a location is one of a union's types, which the client did not write."""
    return isinstance(part, str) and (
        "[" in part or part in ("str", "TextPair", "Question", "Choice") or "constrained" in part
    )


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception of the routes."""

    def handler(status: int, sentence: str | None = None) -> Any:
        async def handle(request: Request, error: Exception) -> Response:
            return error_response(request.url.path, status, sentence or str(error))

        return handle

    async def invalid(request: Request, error: Any) -> Response:
        return error_response(request.url.path, 422, validation_sentence(error.errors()))

    async def refused(request: Request, error: Any) -> Response:
        return error_response(request.url.path, error.status, str(error), error.headers)

    async def http(request: Request, error: Any) -> Response:
        return error_response(request.url.path, error.status_code, str(error.detail), error.headers)

    async def overloaded(request: Request, error: Any) -> Response:
        return error_response(request.url.path, 429, str(error), {"Retry-After": str(error.retry_after)})

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(OverloadedError, overloaded)
    app.add_exception_handler(WorkerDiedError, handler(503))
    app.add_exception_handler(InputError, handler(503))  # a new worker could not load its models
    app.add_exception_handler(TimeoutError, handler(504, "the server could not answer in time: try again"))
    app.add_exception_handler(Exception, handler(500, "internal error; the server's log has its name"))
