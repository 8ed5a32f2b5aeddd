"""The outermost ring around every request under /v1: gathers its Facts, names it, and tells of it at its end."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heedful.server.access.key_text import holds_key
from heedful.server.log import bug
from heedful.server.observe.facts import RECORDED, SCOPE, Facts, Sink
from heedful.server.observe.tracing import Tracing
from heedful.strategies.trace import asking

_SANE = re.compile(rb"[A-Za-z0-9._:/+=@~-]{1,128}")
_ID, _UPSTREAMS_ID = b"x-request-id", b"x-upstream-request-id"
Header = tuple[bytes, bytes]


class Observing:
    """Tells `sinks` of each request, whatever becomes of it, at the door or behind it.

    `routes`: the path's template of each endpoint. Where nobody is told, requests pass by and have no id.
    """

    def __init__(
        self, app: ASGIApp, sinks: Sequence[Sink], routes: Mapping[Any, str], tracing: Tracing
    ) -> None:
        self._app, self._sinks, self._routes, self._tracing = app, sinks, routes, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._sinks or scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self._app(scope, receive, send)
            return
        facts = scope[SCOPE] = Facts(scope["method"], scope["path"])
        facts.trace.watched = self._tracing.watched
        given = next((value for name, value in scope["headers"] if name == _ID), b"")
        if own := bool(_SANE.fullmatch(given)) and not holds_key(given):
            facts.id = given.decode()
        ended = keeping = False

        def sending(message: Message) -> Awaitable[None]:  # no coroutine of its own: each token comes by here
            nonlocal ended, keeping
            if message["type"] == "http.response.body":
                if body := message.get("body"):
                    if facts.first is None:
                        facts.first = time.perf_counter()
                    if keeping:
                        facts.keep(body)
                ended = not message.get("more_body", False)
            elif message["type"] == "http.response.start":
                facts.status = message["status"]
                keeping = self._recorded(scope, facts)
                message["headers"] = _named(message["headers"], facts, keep=own)
            return send(message)

        self._tracing.running += 1
        try:
            if self._tracing.begin(facts, scope["headers"]):
                with asking(facts.trace.root):
                    await self._app(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        finally:
            self._tracing.running -= 1
            facts.ended = time.perf_counter()
            facts.settle()
            facts.gone = not ended or facts.status == 499
            facts.route = self._routes.get(scope.get("endpoint"), facts.route)
            for sink in self._sinks:
                try:
                    sink(facts)
                except Exception as error:
                    bug(error)
            facts.release()

    def _recorded(self, scope: Scope, facts: Facts) -> bool:
        """Whether a record will tell what was answered."""
        client = facts.client
        if client is None or client.tenant.settings.records is None:
            return False
        return self._routes.get(scope.get("endpoint")) in RECORDED


def _named(headers: Sequence[Header], facts: Facts, *, keep: bool) -> list[Header]:
    """An answer's headers with the request's id. An upstream's becomes ours, unless the client gave one (`keep`)."""
    named = []
    for name, value in headers:
        if name == _ID:
            if keep or not _SANE.fullmatch(value):
                name = _UPSTREAMS_ID
            else:
                facts.id = value.decode()
                continue
        named.append((name, value))
    named.append((_ID, facts.id.encode()))
    return named
