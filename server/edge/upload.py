"""A request body that goes on as it comes in, while somebody watches for the client's leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.types import Message, Receive

from heedful.server.edge.encodings import too_large

_HELD = 4  # pieces that wait to be taken; then the client waits


class Upload:
    """The body of one request. `receive` takes the place of the connection's own for who watches it
    (`WhileConnected`), which must be somebody: it is what brings the pieces in."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(_HELD)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            await self._waiting.put(message)
        return message

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Raises RequestError where there are more than `limit` bytes."""
        size, more = 0, True
        while more:
            message = await self._waiting.get()
            more = message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > self._limit:
                raise too_large(self._limit)
            if piece:
                yield piece
