"""The ASGI application: which path is answered by which handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from heedful.server.api import chat, completions, embeddings, models, moderations, openapi, score, stores
from heedful.server.api.hints import hint
from heedful.server.api.messages.count import count_tokens
from heedful.server.api.messages.request import messages
from heedful.server.api.other_paths import OtherPaths
from heedful.server.api.responses.request import responses
from heedful.server.edge.keys import RequireKey
from heedful.server.http import endpoint, json_response
from heedful.server.service import Service
from heedful.server.shapes import allowed, by_asker, error_shape
from heedful.strategies import HeedfulError, RequestError
from heedful.strategies.registry import describe_options
from heedful.strategies.verifiers.registry import VERIFIERS, close_all

_TASKS = Gauge(
    "heedful_asyncio_tasks", "Tasks of the server's event loop: they grow with the requests under way."
)


def create_app(service: Service) -> FastAPI:
    """The application over engines that are already running."""
    config = service.config

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await close_all(service.alignments.resources.verifiers.values())

    # The document is hand-written (openapi.py), as the handlers read their bodies themselves.
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    app.state.service = service
    # Plain routes: handlers read bodies themselves, so that no second validation stands on the hot path.
    for path, method, handler in (
        ("/v1/chat/completions", "POST", chat.chat),
        ("/v1/completions", "POST", completions.completions),
        ("/v1/responses", "POST", responses),
        ("/v1/embeddings", "POST", embeddings.embeddings),
        ("/v1/alignment", "GET", _alignment),
        ("/v1/alignment/score", "POST", score.score),
        *stores.ROUTES,
        ("/health", "GET", _health),
        ("/metrics", "GET", _metrics),
        ("/version", "GET", _version),
        ("/openapi.json", "GET", _openapi),
    ):
        app.add_route(path, endpoint(handler), methods=[method])
    for path, method, handler in (
        ("/v1/messages", "POST", messages),
        ("/v1/messages/count_tokens", "POST", count_tokens),
        ("/v1/models", "GET", models.models),
        ("/v1/models/{model:path}", "GET", models.model),
    ):
        app.add_route(path, by_asker(handler), methods=[method])
    app.add_route("/v1/moderations", endpoint(moderations.moderations), methods=["POST"])
    app.state.own_routes = own = list(app.routes)
    app.router.routes.append(Route("/v1/{path:path}", OtherPaths(service, own)))  # the last of all
    app.add_exception_handler(HTTPException, _http_error)
    if key := config.api_key():
        app.add_middleware(RequireKey, key=key)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=config.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    return app


async def _alignment(request: Request) -> Response:
    """GET /v1/alignment: what can be asked for, with every strategy's options."""
    service: Service = request.app.state.service
    named = {name: plan.steps for name, plan in service.alignments.plans().items()}
    return json_response(
        {
            "default": service.alignments.default.name,
            "alignments": named,
            "strategies": describe_options(),
            "verifiers": VERIFIERS.describe(),
        }
    )


async def _health(request: Request) -> Response:
    """GET /health: 200 while requests can be answered."""
    service: Service = request.app.state.service
    running = sum(engine.running for engine in service.engines.values())
    if failed := service.failed:
        return json_response({"status": "failed", "reason": failed, "running": running}, 503)
    return json_response({"status": "ok", "running": running})


async def _metrics(request: Request) -> Response:
    """GET /metrics: Prometheus, vLLM's own figures included."""
    _TASKS.set(len(asyncio.all_tasks()))
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _version(request: Request) -> Response:
    """GET /version"""
    return json_response({"version": version("heedful")})


async def _openapi(request: Request) -> Response:
    """GET /openapi.json"""
    return json_response(openapi.document(version("heedful")))


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
        headers={"Allow": allowed(request)} if error.status_code == 405 else error.headers,
    )
    return error_shape(request.scope)(told)
