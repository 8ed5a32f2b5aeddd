"""What leaves a store as a file, however large: piece by piece, for as long as the client is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heedful.retrieval import StoreError
from heedful.retrieval.store.stores import Stores
from heedful.server.http import WhileConnected
from heedful.server.log import logger


class Export(Response):
    """Line upon line. Where the store is deleted meanwhile, the connection breaks off: nothing calls it whole."""

    media_type = "application/jsonl"

    def __init__(
        self, stores: Stores, piece: Callable[[int], tuple[int, bytes]], first: tuple[int, bytes]
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._stores, self._piece, self._first = stores, piece, first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            async with WhileConnected(receive):
                await self._send(send)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        after, lines = self._first
        while lines:
            await send({"type": "http.response.body", "body": lines, "more_body": True})
            try:
                after, lines = await self._stores.long(self._piece, after)
            except StoreError as error:
                logger.warning("an export was broken off: %s", error)
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
