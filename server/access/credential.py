"""A text that opens the door, and the requests that run under it: they end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field

from starlette.types import Message, Send

from heedful.server.access.client import Client
from heedful.server.access.key import AccessKey
from heedful.strategies import RequestError


@dataclass(slots=True, eq=False)
class Credential:
    """A key in force, under one of its texts."""

    digest: bytes
    key: AccessKey
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

    __slots__ = ("_send", "error", "over", "start", "task")

    def __init__(self, task: asyncio.Task[object], send: Send) -> None:
        self.task, self._send = task, send
        self.start: Message | None = None
        """How its answer has begun."""
        self.over = False
        """Nothing can end it any more: its answer is whole, or it is to be finished whatever becomes of its key."""
        self.error: RequestError | None = None
        """Why it was ended."""

    def send(self, message: Message) -> Awaitable[None]:
        """Notes how far the answer is. No coroutine of its own: it is every message's."""
        if self.start is None:
            self.start = message
        elif not message.get("more_body", False):
            self.over = True
        return self._send(message)

    def end(self, error: RequestError) -> None:
        """Cancels it, once."""
        if self.error is None and not self.over:
            self.error = error
            self.task.cancel()


def refused(message: str) -> RequestError:
    """For whom the door stays shut."""
    return RequestError(
        message,
        status=401,
        type="authentication_error",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )
