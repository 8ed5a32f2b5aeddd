"""Whose API a request speaks, and an error in the shape of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from heedful.server.http import Handler, endpoint, error_object, error_response, sse
from heedful.strategies import ContextOverflow, HeedfulError

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_OVERFLOW = re.compile(r"maximum context length is \d+", re.IGNORECASE)


def speaks_anthropic(scope: Scope) -> bool:
    """Anthropic's clients send their API's version with every request."""
    path: str = scope["path"]
    return (
        path == "/v1/messages"
        or path.startswith("/v1/messages/")
        or any(name == b"anthropic-version" for name, _ in scope["headers"])
    )


def error_shape(scope: Scope) -> Callable[[HeedfulError], Response]:
    """How the one who asks writes errors."""
    return anthropic_error if speaks_anthropic(scope) else error_response


def error_event(scope: Scope) -> Callable[[HeedfulError], bytes]:
    """How the one who asks writes an error in a stream of events."""
    return (
        _anthropic_event if speaks_anthropic(scope) else lambda error: sse(msgspec.json.encode(error.body()))
    )


def _anthropic_event(error: HeedfulError) -> bytes:
    return b"event: error\n" + sse(msgspec.json.encode(anthropic_body(error)))


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


def anthropic_body(error: HeedfulError) -> dict[str, Any]:
    """An error as Anthropic writes it."""
    kind = _ERRORS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": _words(error)}}


def _words(error: HeedfulError) -> str:
    """Anthropic's clients tell an overflow by these words."""
    if isinstance(error, ContextOverflow):
        return f"prompt is too long: {error.used} tokens > {error.limit} maximum"
    if error.code == "context_length_exceeded" or _OVERFLOW.search(error.message):
        numbers = re.search(r"maximum context length is (\d+) tokens\D+(\d+) ", error.message)
        counted = f": {numbers[2]} tokens > {numbers[1]} maximum" if numbers else ""
        return f"prompt is too long{counted} ({error.message})"
    return error.message


def anthropic_error(error: HeedfulError) -> Response:
    return error_object(anthropic_body(error), error)
