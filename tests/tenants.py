"""A server whose clients are who they say they are: for tests of what a client may see, whatever keys it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
from running import serving_app
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from waiting import HANG

from heedful.prompts import Prompts
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import SCOPE, Client
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.engines.served import ServedModel
from heedful.server.service import Service
from heedful.strategies import Resources

WHO = "x-test-client"


class _As:
    """The ring behind the door: a request is of the client that its header names."""

    def __init__(self, app: ASGIApp, clients: Mapping[str, Client]) -> None:
        self._app, self._clients = app, clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (name := dict(scope["headers"]).get(WHO.encode())):
            scope[SCOPE] = self._clients[name.decode()]
        await self._app(scope, receive, send)


@contextmanager
def serving_clients(
    engine: ServedModel, stores: Stores, clients: Mapping[str, Client], config: Config | None = None
) -> Iterator[dict[str, httpx.Client]]:
    """A client of the server for each name."""
    config = config or Config()
    alignments = Alignments(config, Resources(Prompts(), stores))
    app = create_app(Service(config, {engine.model: engine}, alignments))
    app.user_middleware.insert(-1, Middleware(_As, clients=clients))  # behind all but the way to the handlers
    with serving_app(app) as url:
        asking = {name: httpx.Client(base_url=url, headers={WHO: name}, timeout=HANG) for name in clients}
        try:
            yield asking
        finally:
            for each in asking.values():
                each.close()
