"""The door: whose key a request brings, as a bearer token or as `x-api-key`, and what that key may do."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.types import ASGIApp, Receive, Scope, Send

from heedful.server.access.access import Access
from heedful.server.access.client import ANYBODY, SCOPE, Client
from heedful.server.observe.facts import facts_of
from heedful.server.shapes import error_shape
from heedful.strategies import RequestError


class LetIn:
    """Puts the Client of each request into its scope; what is under /v1 only answers to a client."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1") and scope["method"] != "OPTIONS":
            client = self._access.anybody or self._access.find(_given(scope))
            if client is None:
                error = RequestError(
                    "this server wants an API key: Authorization: Bearer KEY",
                    status=401,
                    type="authentication_error",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
                await error_shape(scope)(error)(scope, receive, send)
                return
            scope[SCOPE] = client
            if (facts := facts_of(scope)) is not None:
                facts.client = client
        await self._app(scope, receive, send)


def client_of(scope: Scope) -> Client:
    """Who sent a request."""
    client: Client = scope.get(SCOPE, ANYBODY)
    return client


def _given(scope: Scope) -> Iterator[bytes]:
    """The keys of a request: the scheme in any case (RFC 9110), and what Anthropic's clients send."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield token.strip()
        elif name == b"x-api-key":
            yield value.strip()
