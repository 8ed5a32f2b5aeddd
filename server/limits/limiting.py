"""The ring behind the door: opens the account of each request, and settles it whatever becomes of the request."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from heedful.server.access.letting_in import client_of
from heedful.server.limits.account import SCOPE, RequestAccount, ServerLimits
from heedful.server.observe.facts import SCOPE as FACTS
from heedful.server.observe.facts import Facts, facts_of


class Limiting:
    """Where nothing is limited and nobody has a key, nothing is done."""

    def __init__(self, app: ASGIApp, shared: ServerLimits) -> None:
        self._app, self._shared = app, shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self._app(scope, receive, send)
            return
        client = client_of(scope)
        if not self._shared.concerns(client):
            await self._app(scope, receive, send)
            return
        facts = facts_of(scope) or Facts(scope["method"], scope["path"], client)
        account = RequestAccount(self._shared, client)
        scope[FACTS], scope[SCOPE] = facts, account
        facts.charged = True
        try:
            await self._app(scope, receive, account.sending(send, facts))
        finally:
            if account.open:
                await self._shared.settle(account, facts)
