"""The ASGI application: which path is answered by which handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from heedful.server.access.letting_in import LetIn
from heedful.server.access.other_sites import OtherSites
from heedful.server.access.roles import allowed_to, operators_only
from heedful.server.api import (
    admin,
    alignment,
    chat,
    completions,
    docs,
    embeddings,
    models,
    moderations,
    openapi,
    page,
    records,
    reports,
    score,
    store_files,
    stores,
    usage,
    whoami,
)
from heedful.server.api.hints import hint
from heedful.server.api.messages import count as count_tokens
from heedful.server.api.messages import request as messages
from heedful.server.api.other_paths import OtherPaths
from heedful.server.api.responses import request as responses
from heedful.server.http import Handler, endpoint
from heedful.server.limits.limiting import Limiting
from heedful.server.observe.observing import Observing
from heedful.server.service import Service
from heedful.server.shapes import allowed, by_asker, error_shape
from heedful.strategies import HeedfulError, RequestError
from heedful.strategies.verifiers.registry import close_all

OPERATIONS = (
    *chat.OPERATIONS,
    *completions.OPERATIONS,
    *responses.OPERATIONS,
    *messages.OPERATIONS,
    *count_tokens.OPERATIONS,
    *embeddings.OPERATIONS,
    *moderations.OPERATIONS,
    *models.OPERATIONS,
    *alignment.OPERATIONS,
    *score.OPERATIONS,
    *stores.OPERATIONS,
    *store_files.OPERATIONS,
    *admin.OPERATIONS,
    *records.OPERATIONS,
    *reports.OPERATIONS,
    *usage.OPERATIONS,
    *whoami.OPERATIONS,
)
_FRESH = 0.5  # seconds
_SHAPES: dict[str, Callable[[Handler], Handler]] = {
    "openai": endpoint,
    "anthropic": by_asker,
    "asker": by_asker,
}


@cache
def openapi_document() -> dict[str, Any]:
    """What `GET /openapi.json` answers and /docs shows."""
    return openapi.document(OPERATIONS, version("heedful"))


def create_app(service: Service) -> FastAPI:
    """The application over engines that are already running."""
    config = service.config

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = [asyncio.create_task(service.access.watch())]
        if config.workers > 1:
            watching.append(asyncio.create_task(_keep_fresh(service)))
        service.records.start()
        yield
        for each in watching:
            each.cancel()
        service.access.close()
        await asyncio.to_thread(service.records.close)
        await service.limits.close()
        await close_all(service.alignments.resources.verifiers.values())
        await asyncio.to_thread(service.observers.close)

    access, closed = service.access, config.metrics != "open"
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    app.state.service = service
    # Plain routes: handlers read bodies themselves, so that no second validation stands on the hot path.
    routes: dict[Any, str] = {}
    straight: dict[tuple[str, str], Handler] = {}
    for each in OPERATIONS:
        handler = allowed_to(each.role, each.handler)
        if closed and each.path == alignment.METRICS:
            handler = operators_only(handler)
        routes[answering := _SHAPES[each.dialect](handler)] = each.path
        app.add_route(each.path, answering, methods=[each.method])
        if "{" not in each.path:
            straight[each.method, each.path] = answering
    docs.add_to(app, openapi_document)
    if config.page:
        page.add_to(app)
    app.state.own_routes = own = list(app.routes)
    others = OtherPaths(service, own)
    app.router.routes += [Route("/v1", others), Route("/v1/{path:path}", others)]  # the last of all
    app.add_exception_handler(HTTPException, _http_error)
    # The last one stands outermost.
    app.add_middleware(Straight, handlers=straight)
    app.add_middleware(Limiting, shared=service.limits)
    also = (alignment.METRICS,) if closed else ()
    app.add_middleware(LetIn, access=access, others=OtherSites(config.cors_origins), also=also)
    tracing = service.observers.tracing
    app.add_middleware(Observing, sinks=service.sinks, routes=routes, tracing=tracing)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    return app


class Straight:
    """The innermost ring: a path that is one of ours as it stands goes to its handler, and past the framework's
    routing and its rings, which every request and every token of a stream would pay. Handlers make all errors
    answers themselves (`http.endpoint`)."""

    def __init__(self, app: ASGIApp, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._app, self._handlers = app, handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        scope["endpoint"] = handler
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)


async def _keep_fresh(service: Service) -> None:
    """Other workers show what this one told last."""
    while True:
        service.refresh_figures()
        await asyncio.sleep(_FRESH)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the shape of the one who asks."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    more = ""
    if error.status_code == 404:
        more = hint(path, request.url.netloc, request.app.state.own_routes)
    told: HeedfulError = RequestError(
        f"{request.method} {path}: {error.detail}{more}",
        status=error.status_code,
        headers={**(error.headers or {}), **({"Allow": ours} if (ours := allowed(request)) else {})}
        if error.status_code == 405
        else error.headers,
    )
    return error_shape(request.scope)(told)
