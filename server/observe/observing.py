"""The outermost ring around every request under /v1: gathers its Facts and tells them at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heedful.server.log import bug
from heedful.server.observe.facts import SCOPE, Facts, Sink


class Observing:
    """Tells `sinks` of each request, whatever becomes of it, at the door or behind it.

    `routes`: the path's template of each endpoint.
    """

    def __init__(self, app: ASGIApp, sinks: Sequence[Sink], routes: Mapping[Any, str]) -> None:
        self._app, self._sinks, self._routes = app, sinks, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._sinks or scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self._app(scope, receive, send)
            return
        facts = scope[SCOPE] = Facts(scope["method"], scope["path"])
        ended = False

        async def sending(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                facts.status = message["status"]
            elif message["type"] == "http.response.body":
                if facts.first is None and message.get("body"):
                    facts.first = time.perf_counter()
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            facts.ended = time.perf_counter()
            facts.settle()
            facts.gone = not ended or facts.status == 499
            facts.route = self._routes.get(scope.get("endpoint"), facts.route)
            for sink in self._sinks:
                try:
                    sink(facts)
                except Exception as error:
                    bug(error)
