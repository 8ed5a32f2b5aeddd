"""Whose API a request speaks, where a path or an error has no handler of its own to say so."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from heedful.server.http import Handler, endpoint, error_response
from heedful.server.wire.messages import error_response as anthropic_error
from heedful.strategies import HeedfulError


def speaks_anthropic(scope: Scope) -> bool:
    """Anthropic's clients send their API's version with every request."""
    path: str = scope["path"]
    return (
        path == "/v1/messages"
        or path.startswith("/v1/messages/")
        or "anthropic-version" in Headers(scope=scope)
    )


def error_shape(scope: Scope) -> Callable[[HeedfulError], Response]:
    """How the one who asks writes errors."""
    return anthropic_error if speaks_anthropic(scope) else error_response


def by_asker(handler: Handler) -> Handler:
    """An endpoint of both APIs: its errors in the shape of the one who asks."""

    async def answer(request: Request) -> Response:
        return await endpoint(handler, error_shape(request.scope))(request)

    return answer


def allowed(request: Request) -> str:
    """The methods that a path has, for the Allow of a 405; several routes may share it."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods))
