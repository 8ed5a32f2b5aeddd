"""Between HTTP and the pipeline: bodies in, errors out, streams that end when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heedful.strategies import DeadlineExceeded, HeedfulError, RequestError

logger = logging.getLogger("heedful.server")
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def error_response(error: HeedfulError) -> Response:
    return json_response(error.body(), error.status, error.headers)


def told(error: Exception) -> HeedfulError:
    """The error a client sees. Details of an unforeseen one stay in the log."""
    if isinstance(error, HeedfulError):
        if error.status >= 500:
            logger.error("%s: %s", type(error).__name__, error, exc_info=error)
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the request took longer than this server allows (request_timeout)")
    logger.error("unforeseen error", exc_info=error)
    return HeedfulError("internal error; the server's log has the details", code="internal_error")


def endpoint(handler: Handler) -> Handler:
    """Makes every error of a handler a response in OpenAI's shape."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            return error_response(told(error))

    return answer


async def raw_body(request: Request, *, limit: int) -> bytes:
    """The body, of at most `limit` bytes. Raises RequestError."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise RequestError(f"the body is larger than {limit} bytes", status=413, code="body_too_large")
    return bytes(body)


async def json_object(request: Request, *, limit: int) -> dict[str, Any]:
    """The body as a JSON object of at most `limit` bytes. Raises RequestError."""
    body = await raw_body(request, limit=limit)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    return value


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, and cancels it the moment the client disconnects (then raises ClientDisconnect)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for each in (task, gone):
            each.cancel()
        # Whoever waits for us may count on the engine having let go.
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A stream of server-sent events that closes its source as soon as the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for each in (sending, gone):
                each.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for piece in events:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
