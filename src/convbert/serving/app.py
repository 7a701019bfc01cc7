"""The routes: those of OpenAI, of text-embeddings-inference, and one for every head."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import numpy as np
from fastapi import Depends, FastAPI, Request, Response
from fastapi.security import HTTPBearer
from pydantic_core import to_json

from convbert import __version__
from convbert.serving import replies, schemas
from convbert.serving.batching import Answers, Batcher
from convbert.serving.errors import RequestError, add_error_handlers
from convbert.serving.gate import Gate
from convbert.serving.worker import EMBEDDING, MAPS, BugError, Job, ModelInfo
from convbert.util.errors import InputError

CLASSIFYING = "text-classification"
ROUTES = {
    "fill-mask": "/fill-mask",
    CLASSIFYING: "/classify",
    "token-classification": "/tag",
    "question-answering": "/answer",
    "multiple-choice": "/choose",
    EMBEDDING: "/embed",
}
"""Task to the route that a POST to / means."""
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be used (OpenAI's form)"},
    401: {"description": "Wrong API key"},
    404: {"description": "No such model, or it has no head for this"},
    413: {"description": "Too large"},
    422: {"description": "The request, or a text of it, cannot be used"},
    429: {"description": "Too busy; Retry-After says for how long"},
    503: {"description": "The worker ended; try again"},
    504: {"description": "Not answered in time"},
}
_FILES = {
    "/": ("serving", "index.html", "text/html"),
    "/docs": ("serving", "docs.html", "text/html"),
    "/docs.js": ("serving", "docs.js", "text/javascript"),
    "/serve.js": ("serving", "serve.js", "text/javascript"),
    "/draw.js": ("export", "draw.js", "text/javascript"),
    "/maps.js": ("export", "maps.js", "text/javascript"),
    "/style.css": ("export", "style.css", "text/css"),
}
"""Path to room, file in its `page` folder, and type."""
_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:"
_GONE = 499
"""Status of a request whose client did not wait, as nginx counts it."""


def create_app(batcher: Batcher, api_key: str | None = None) -> FastAPI:
    """The server as an ASGI application.

    Args:
        batcher: has loaded its models; it is started and stopped with the application.
        api_key: what `Authorization: Bearer` must say; None lets everybody in.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(
        title="convbert",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=ERRORS,
    )
    # What the description says of the key; the gate looks at it, before a body is read.
    keyed = [] if api_key is None else [Depends(HTTPBearer(auto_error=False))]
    _add_routes(app, batcher, keyed)
    _add_information(app, batcher, keyed)
    for path, place in _FILES.items():
        app.add_api_route(path, _file(*place), include_in_schema=False)
    add_error_handlers(app)
    first = next(iter(batcher.models.values()))
    app.add_middleware(
        Gate,
        meters=batcher.meters,
        paths=[route.path for route in app.routes],
        guarded=[route.path for route in app.routes if getattr(route, "dependencies", ())],
        key=api_key,
        timeout=batcher.timeout,
        root=ROUTES[first.task],
    )
    return app


def _file(room: str, name: str, media_type: str) -> Any:
    content = resources.files(f"convbert.{room}").joinpath("page", name).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}

    async def file() -> Response:
        return Response(content, headers=headers, media_type=media_type)

    return file


def _add_information(app: FastAPI, batcher: Batcher, keyed: list[Any]) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server takes requests."""
        return {"status": "ok"}

    @app.get("/info", dependencies=keyed)
    async def info() -> dict[str, Any]:
        """What is served, and the limits."""
        return {
            "version": __version__,
            "models": [dataclasses.asdict(each) for each in batcher.models.values()],
            "max_batch_tokens": batcher.settings.max_tokens,
            "max_client_batch_size": batcher.queue,
            "max_characters": schemas.LONGEST_TEXT,
            "timeout": batcher.timeout,
        }

    @app.get("/metrics", dependencies=keyed, response_class=Response)
    async def metrics() -> Response:
        """Counters, for Prometheus."""
        return Response(batcher.meters.page(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", dependencies=keyed)
    async def models() -> dict[str, Any]:
        """The models, as OpenAI lists them."""
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "convbert"} for name in batcher.models
        ]
        return {"object": "list", "data": data}


def _add_routes(app: FastAPI, batcher: Batcher, keyed: list[Any]) -> None:
    def post(path: str, described: Any) -> Any:
        return app.post(path, dependencies=keyed, response_model=described)

    async def answers(
        request: Request, name: str | None, task: str, records: Sequence[Any], params: dict[str, Any]
    ) -> Answers:
        if len(records) > batcher.queue:
            raise RequestError(413, f"{len(records):,} texts in a request; the limit is {batcher.queue:,}")
        job = Job(_find(batcher, name, task).name, task, tuple(params.items()))
        return await _unless_gone(request, batcher.answer(job, records))

    async def vectors(
        request: Request, body: Any, texts: list[str], truncate: bool, normalize: bool
    ) -> tuple[Any, int]:
        """(texts, dimensions) fp32, and the number of tokens."""
        size = _find(batcher, body.model, EMBEDDING).hidden_size
        if (body.dimensions or 1) > size:
            raise RequestError(422, f"dimensions: the model has {size}, got {body.dimensions}")
        params = {"pooling": batcher.settings.pooling, "return_tensors": True, "truncation": truncate}
        found, tokens = await answers(request, body.model, EMBEDDING, texts, params)
        made = np.stack(_refuse_errors(found))[:, : body.dimensions]
        if normalize:
            made /= np.linalg.norm(made, axis=1, keepdims=True).clip(1e-12)
        return made, tokens

    async def classes(
        request: Request, name: str | None, records: Sequence[Any], truncate: bool, function: str | None
    ) -> list[list[dict[str, Any]]]:
        """All labels with scores, of each record."""
        params: dict[str, Any] = {"top_k": None, "truncation": truncate}
        if function is not None:
            params["function_to_apply"] = function
        return _refuse_errors((await answers(request, name, CLASSIFYING, records, params)).answers)

    @post("/v1/embeddings", replies.Embeddings)
    async def embeddings(request: Request, body: schemas.EmbeddingsBody) -> Response:
        """Vectors of length 1, as OpenAI's API gives them."""
        found, tokens = await vectors(request, body, _listed(body.input), truncate=False, normalize=True)
        made = found.tolist()
        if body.encoding_format == "base64":
            made = [base64.b64encode(each.tobytes()).decode() for each in found]
        data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(made)]
        name, usage = (
            _find(batcher, body.model, EMBEDDING).name,
            {"prompt_tokens": tokens, "total_tokens": tokens},
        )
        return _json({"object": "list", "data": data, "model": name, "usage": usage})

    @post("/embed", list[replies.Vector])
    async def embed(request: Request, body: schemas.EmbedBody) -> Response:
        """Vectors, as text-embeddings-inference gives them."""
        found, _ = await vectors(request, body, _listed(body.inputs), body.truncate, body.normalize)
        return _json(found.tolist())

    @post("/predict", list[replies.Label] | list[list[replies.Label]])
    async def predict(request: Request, body: schemas.PredictBody) -> Response:
        """Labels with scores, as text-embeddings-inference gives them."""
        is_batch = isinstance(body.inputs, list) and isinstance(body.inputs[0], list)
        texts = body.inputs if is_batch else [_listed(body.inputs)]
        records = [dict(zip(("text", "text_pair"), each, strict=False)) for each in texts]
        found = await classes(
            request, body.model, records, body.truncate, "none" if body.raw_scores else None
        )
        return _json(found if is_batch else found[0])

    @post("/rerank", list[replies.Rank])
    async def rerank(request: Request, body: schemas.RerankBody) -> Response:
        """Texts by how well they fit a query, for a model with one label, as text-embeddings-inference gives them."""
        classifiers = [info for info in batcher.models.values() if info.task == CLASSIFYING]
        ranking = (info.name for info in classifiers if len(info.labels) == 1)
        served = _find(batcher, body.model or next(ranking, None), CLASSIFYING)
        if (count := len(served.labels)) != 1:
            raise RequestError(404, f"{served.name} has {count} labels; a model that ranks has one")
        records = [{"text": body.query, "text_pair": text} for text in body.texts]
        found = await classes(
            request, served.name, records, body.truncate, "none" if body.raw_scores else "sigmoid"
        )
        ranks = [{"index": index, "score": each[0]["score"]} for index, each in enumerate(found)]
        if body.return_text:
            ranks = [{**rank, "text": body.texts[rank["index"]]} for rank in ranks]
        return _json(sorted(ranks, key=lambda rank: -rank["score"]))

    async def own(request: Request, body: Any, task: str) -> list[Any]:
        records = [
            each if isinstance(each, str) else each.model_dump(exclude_none=True)
            for each in _listed(body.inputs)
        ]
        params = schemas.params_of(body.parameters)
        if task == CLASSIFYING:
            params.setdefault("top_k", None)
        found = (await answers(request, body.model, task, records, params)).answers
        if not isinstance(body.inputs, list):
            return _refuse_errors(found, is_one=True)
        return [{"error": _sentence(each)} if isinstance(each, Exception) else each for each in found]

    @post("/fill-mask", replies.Masks | list[replies.Masks | replies.Failed])
    async def fill_mask(request: Request, body: schemas.FillMaskBody) -> Response:
        """Words that fit in place of [MASK]. In a list, a text that cannot be used is answered with its error."""
        return _json(_one(body, await own(request, body, "fill-mask")))

    @post("/classify", list[list[replies.Label] | replies.Failed])
    async def classify(request: Request, body: schemas.ClassifyBody) -> Response:
        """Labels with scores: a list for each text, of one text, too."""
        return _json(await own(request, body, CLASSIFYING))

    @post("/tag", list[replies.Span] | list[list[replies.Span] | replies.Failed])
    async def tag(request: Request, body: schemas.TagBody) -> Response:
        """Marked spans."""
        return _json(_one(body, await own(request, body, "token-classification")))

    @post("/answer", replies.Answers | list[replies.Answers | replies.Failed])
    async def answer(request: Request, body: schemas.AnswerBody) -> Response:
        """Answers to questions."""
        return _json(_one(body, await own(request, body, "question-answering")))

    @post("/choose", list[replies.Choice] | list[list[replies.Choice] | replies.Failed])
    async def choose(request: Request, body: schemas.ChooseBody) -> Response:
        """Choices by how well they go with a text."""
        return _json(_one(body, await own(request, body, "multiple-choice")))

    @post("/maps", replies.Maps)
    async def maps(request: Request, body: schemas.MapsBody) -> Response:
        """What the tokens of a text read in a layer: attention (heads, T, T), and dynamic kernels (T, heads, K)."""
        layers = _find(batcher, body.model, MAPS).num_layers
        layer = layers - 1 if body.layer is None else body.layer
        if layer >= layers:
            raise RequestError(422, f"layer: the model has 0 to {layers - 1}, got {layer}")
        text = body.inputs if isinstance(body.inputs, str) else body.inputs.model_dump(exclude_none=True)
        found, _ = await answers(request, body.model, MAPS, [text], {"layer": layer})
        return _json(_refuse_errors(found)[0])


def _find(batcher: Batcher, name: str | None, task: str) -> ModelInfo:
    """The model of that name, or the first that has a head for the task."""
    models = batcher.models
    fitting = [info for info in models.values() if task in (info.task, EMBEDDING, MAPS)]
    if name is not None and name not in models:
        raise RequestError(404, f"there is no model {name!r}; there are {', '.join(models)}")
    if not fitting or (name is not None and models[name] not in fitting):
        held = ", ".join(f"{info.name} ({info.task})" for info in models.values())
        raise RequestError(404, f"{name or 'no model here'} cannot do {task}: there are {held}")
    return fitting[0] if name is None else models[name]


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Answers]) -> Answers:
    """What `work` returns; it is given up when the client leaves."""
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # the body is read: nothing else can come
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise RequestError(_GONE, "the client has left")
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


def _refuse_errors(found: list[Any], is_one: bool = False) -> list[Any]:
    """The answers, where there are no errors among them."""
    for number, each in enumerate(found):
        if isinstance(each, Exception):
            place = "" if is_one or len(found) == 1 else f"text {number}: "
            raise RequestError(
                422 if isinstance(each, InputError) else 500, f"{place}{_sentence(each)}"
            ) from each
    return found


def _sentence(error: Exception) -> str:
    return f"internal error: {error}" if isinstance(error, BugError) else str(error)


def _listed(inputs: Any) -> list[Any]:
    return inputs if isinstance(inputs, list) else [inputs]


def _one(body: Any, found: list[Any]) -> Any:
    """The answers to a list, or the one to a single input."""
    return found if isinstance(body.inputs, list) else found[0]


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")
