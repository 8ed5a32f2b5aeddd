"""The door: whose key a request brings, as a bearer token or as `x-api-key`, and that it ends where its key does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heedful.server.access.access import Access
from heedful.server.access.client import ANYBODY, SCOPE, Client
from heedful.server.access.credential import Running, refused
from heedful.server.access.other_sites import OtherSites
from heedful.server.http import BROKEN
from heedful.server.observe.facts import facts_of
from heedful.server.shapes import error_event, error_shape
from heedful.strategies import HeedfulError

_RUNNING = "heedful.running"


class LetIn:
    """Puts the Client of each request into its scope; what is under /v1 only answers to a client.

    Where keys are wanted no key goes past the door: what is behind it, upstreams too, sees none. Where none is,
    `others` are turned away. `also`: further paths that want a key.
    """

    def __init__(self, app: ASGIApp, access: Access, others: OtherSites, also: tuple[str, ...] = ()) -> None:
        self._app, self._access, self._others, self._guarded = app, access, others, ("/v1", *also)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or not scope["path"].startswith(self._guarded)
            or scope["method"] == "OPTIONS"
        ):
            await self._app(scope, receive, send)
        elif (client := self._access.anybody) is not None:
            _enters(scope, client)
            try:
                self._others.check(scope["method"], scope["headers"])
            except HeedfulError as error:
                await _refuse(error, scope, receive, send)
                return
            await self._app(scope, receive, send)
        else:
            try:
                credential = self._access.find(_keys_taken_from(scope))
                if credential is None:
                    raise refused(
                        "this server wants an API key that it knows and that is in force: "
                        "Authorization: Bearer KEY"
                    )
            except HeedfulError as error:
                await _refuse(error, scope, receive, send)
                return
            _enters(scope, credential.client)
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            running = scope[_RUNNING] = Running(task, send)
            credential.running.add(running)
            try:
                await self._app(scope, receive, running.send)
            except asyncio.CancelledError:
                if running.error is None or task.uncancel() > 0:
                    raise
                # All that ran for it has been cancelled and is over.
                await _break_off(running.start, running.error, scope, receive, send)
            finally:
                credential.running.discard(running)
                del scope[_RUNNING]  # which holds, by its `send`, whoever holds the scope


def client_of(scope: Scope) -> Client:
    """Who sent a request."""
    client: Client = scope.get(SCOPE, ANYBODY)
    return client


def finish(scope: Scope) -> None:
    """From here on a request is finished whatever becomes of its key: the one that a change of that very key is asked
    with. Call it where nothing but the change is left to do."""
    running: Running | None = scope.get(_RUNNING)
    if running is not None:
        running.over = True


def _enters(scope: Scope, client: Client) -> None:
    scope[SCOPE] = client
    if (facts := facts_of(scope)) is not None:
        facts.client = client


def _keys_taken_from(scope: Scope) -> list[bytes]:
    """The keys of a request, which it has no more then: the scheme in any case (RFC 9110), and what Anthropic's
    clients send."""
    keys, rest = [], []
    for header in scope["headers"]:
        name, value = header
        if name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                keys.append(token.strip())
        elif name == b"x-api-key":
            keys.append(value.strip())
        else:
            rest.append(header)
    scope["headers"] = rest
    return keys


async def _refuse(error: HeedfulError, scope: Scope, receive: Receive, send: Send) -> None:
    if (facts := facts_of(scope)) is not None:
        facts.error = error
    await error_shape(scope)(error)(scope, receive, send)


async def _break_off(
    start: Message | None, error: HeedfulError, scope: Scope, receive: Receive, send: Send
) -> None:
    """The last word to a request whose key has ended: a refusal where nothing has been said yet, an error event in a
    stream of events, and nothing in any other answer, which lacks its end then."""
    if start is None:
        await _refuse(error, scope, receive, send)
        return
    if (facts := facts_of(scope)) is not None:
        facts.error = error
    if any(n == b"content-type" and v.startswith(b"text/event-stream") for n, v in start["headers"]):
        write: Callable[[HeedfulError], bytes] = scope.get(BROKEN) or error_event(scope)
        last = b"\n\n" + write(error)  # what was begun of an event ends here
        await send({"type": "http.response.body", "body": last, "more_body": False})
