"""A text that opens the door, and the requests that run under it: they end with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.types import Message, Send

from heedful.server.access.client import Client
from heedful.server.access.key import Key
from heedful.strategies import RequestError


@dataclass(slots=True, eq=False)
class Credential:
    """A key in force, under one of its texts."""

    digest: bytes
    key: Key
    client: Client
    until: float
    """When it expires, by the clock: seconds since 1970."""
    running: set[Running] = field(default_factory=set)

    def end(self, why: str) -> None:
        """Ends what runs under it."""
        for request in tuple(self.running):
            request.end(refused(f"this API key has {why}"))


class Running:
    """A request that was let in by a key, as its task runs it."""

    __slots__ = ("_send", "_task", "began", "error", "events", "over")

    def __init__(self, task: asyncio.Task[object], send: Send) -> None:
        self._task, self._send = task, send
        self.began = self.events = False
        self.over = False
        """Nothing can end it any more: its answer is whole, or it is to be finished whatever becomes of its key."""
        self.error: RequestError | None = None
        """Why it was ended."""

    async def send(self, message: Message) -> None:
        """Notes how far the answer is."""
        if message["type"] == "http.response.start":
            self.began = True
            self.events = any(
                name == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message["headers"]
            )
        elif not message.get("more_body", False):
            self.over = True
        await self._send(message)

    def end(self, error: RequestError) -> None:
        """Cancels it, once."""
        if self.error is None and not self.over:
            self.error = error
            self._task.cancel()


def refused(message: str) -> RequestError:
    """For whom the door stays shut."""
    return RequestError(
        message,
        status=401,
        type="authentication_error",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )
