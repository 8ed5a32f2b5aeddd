"""The ASGI application: which path is answered by which handler."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from heedful.server import (
    completions,
    count_tokens,
    embeddings,
    messages,
    models,
    openapi,
    responses,
    score,
    stores,
)
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
        ("/v1/chat/completions", "POST", completions.chat),
        ("/v1/completions", "POST", completions.completions),
        ("/v1/responses", "POST", responses.responses),
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
        ("/v1/messages", "POST", messages.messages),
        ("/v1/messages/count_tokens", "POST", count_tokens.count_tokens),
        ("/v1/models", "GET", models.models),
        ("/v1/models/{model:path}", "GET", models.model),
    ):
        app.add_route(path, by_asker(handler), methods=[method])
    app.add_exception_handler(HTTPException, _http_error)
    if key := config.api_key():
        app.add_middleware(_RequireKey, key=key)
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
    running = sum(getattr(engine, "running", 0) for engine in service.engines.values())
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
    told: HeedfulError = RequestError(
        f"{request.method} {request.url.path}: {error.detail}",
        status=error.status_code,
        headers={"Allow": allowed(request)} if error.status_code == 405 else error.headers,
    )
    return error_shape(request.scope)(told)


class _RequireKey:
    """Lets a request under /v1 in only with the right key, as a bearer token or as `x-api-key`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1") and scope["method"] != "OPTIONS":
            headers = Headers(scope=scope)
            given = (
                headers.get("authorization") or f"Bearer {headers.get('x-api-key', '')}"
            )  # the other is Anthropic's
            if not hmac.compare_digest(given.encode(), self._key):
                error = RequestError(
                    "this server wants an API key: Authorization: Bearer KEY",
                    status=401,
                    type="authentication_error",
                    code="invalid_api_key",
                )
                await error_shape(scope)(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
