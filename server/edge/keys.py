"""Who may come in: one key for all clients, as a bearer token or as `x-api-key`."""

from __future__ import annotations

import hmac
from collections.abc import Iterator

from starlette.types import ASGIApp, Receive, Scope, Send

from heedful.server.shapes import error_shape
from heedful.strategies import RequestError


class RequireKey:
    """Lets a request under /v1 in only with the right key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1") and scope["method"] != "OPTIONS":
            # All of them are compared, so that the time tells nothing.
            if not any([hmac.compare_digest(given, self._key) for given in _given(scope)]):
                error = RequestError(
                    "this server wants an API key: Authorization: Bearer KEY",
                    status=401,
                    type="authentication_error",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
                await error_shape(scope)(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _given(scope: Scope) -> Iterator[bytes]:
    """The keys of a request: the scheme in any case (RFC 9110), and what Anthropic's clients send."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield token.strip()
        elif name == b"x-api-key":
            yield value.strip()
