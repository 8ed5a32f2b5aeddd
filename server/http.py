"""Between HTTP and the pipeline: bodies in, errors out, streams that end when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, cast
from urllib.parse import quote

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heedful.server.access.client import ANYBODY, SCOPE
from heedful.server.access.key_text import without_keys
from heedful.server.edge.encodings import codings_of, decoded, too_large
from heedful.server.edge.room import SMALL, Place
from heedful.server.edge.surrogates import half_in
from heedful.server.log import bug, failed
from heedful.server.observe.facts import facts_of
from heedful.strategies import DeadlineExceeded, EngineUnavailable, HeedfulError, RequestError

_DEEPEST = 256  # levels of a body; msgspec reads some thousand
_PLACE = "heedful.place"  # where a scope holds what its body has of the room
Handler = Callable[[Request], Awaitable[Response]]
BROKEN = "heedful.broken"
"""Where the ASGI scope of a stream holds what writes its last event, for whoever has to break it off."""


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def error_response(error: HeedfulError) -> Response:
    return error_object(error.body(), error)


def error_object(body: Any, error: HeedfulError) -> Response:
    """An error in any API's shape. What it quotes of a request may hold a key."""
    told = without_keys(msgspec.json.encode(body))
    return Response(told, error.status, error.headers, "application/json")


def client_error(error: Exception) -> HeedfulError:
    """The error a client sees. Details of an unforeseen one stay in the log."""
    if isinstance(error, HeedfulError):
        if error.status >= 500:
            failed(error)
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the request took longer than this server allows (request_timeout)")
    bug(error)
    return HeedfulError("internal error; the server's log has the details", code="internal_error")


def told(scope: Scope, error: HeedfulError) -> HeedfulError:
    """The error, once it stands in the request's facts."""
    if (facts := facts_of(scope)) is not None:
        facts.error = error
    return error


def in_header(text: str) -> str:
    """As a header can carry it: what is not ASCII percent-encoded."""
    return text if text.isascii() and text.isprintable() else quote(text)


def endpoint(handler: Handler, shape: Callable[[HeedfulError], Response] = error_response) -> Handler:
    """Makes every error of a handler a response, in OpenAI's shape or another API's."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            return shape(told(request.scope, client_error(error)))
        finally:
            leave_room(request.scope)

    return answer


async def body_of(request: Request, *, limit: int) -> bytes:
    """The body, unpacked where it is compressed, of at most `limit` bytes before and after. Raises RequestError.

    A large one is read once there is room for it, which it has until `leave_room` or the end of its endpoint.
    """
    source: AsyncIterator[bytes] = request.stream()
    if packed := [value for name, value in request.scope["headers"] if name == b"content-encoding"]:
        source = decoded(source, codings_of(b",".join(packed).decode("latin-1")), limit)
    pieces, size, place = [], 0, None
    async for piece in source:
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        if size > SMALL and place is None:
            place = await _place_for(request, limit if packed else _declared(request, limit))
        if packed:
            await asyncio.sleep(0)  # others' tokens come between two pieces of a large body
    if place is not None:
        place.shrink(size)
    return b"".join(pieces)


def _declared(request: Request, limit: int) -> int:
    """How many bytes the body will have, as its head says; the most where it does not. Raises RequestError."""
    size = int(request.headers.get("content-length", limit))
    if size > limit:
        raise too_large(limit)
    return size


async def _place_for(request: Request, size: int) -> Place:
    """Waits for room, within the request's time."""
    scope, service = request.scope, request.app.state.service
    tenant = scope.get(SCOPE, ANYBODY).tenant.name
    try:
        async with asyncio.timeout_at(service.deadline(scope)):
            await service.room.take(tenant, size)
    except EngineUnavailable:
        service.observers.metrics.refused("queue_full", tenant)
        raise
    place = scope[_PLACE] = Place(service.room, tenant, size)
    return place


def leave_room(scope: Scope) -> None:
    """From here on a request's body is held for it as one that has been admitted, or no more."""
    place: Place | None = scope.get(_PLACE)
    if place is not None:
        place.shrink(0)


def json_object(body: bytes) -> dict[str, Any]:
    """A body as a JSON object. Raises RequestError."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why: object = error
        if half := half_in(body):
            why = f"{half} is half of a surrogate pair, which is no character"
        raise RequestError(f"the body is not valid JSON: {why}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    if body.count(b"[") + body.count(b"{") > _DEEPEST and _deeper(value, _DEEPEST):
        raise RequestError(f"the body is nested more than {_DEEPEST} levels deep", code="invalid_json")
    return value


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value is nested more than so many levels deep: what is, can be decoded and not be written again."""
    layer = [value]
    for _ in range(levels):
        inner = [part for part in layer if isinstance(part, dict | list)]
        layer = [v for part in inner for v in (part.values() if isinstance(part, dict) else part)]
        if not layer:
            return False
    return any(isinstance(part, dict | list) for part in layer)


def sse(payload: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + payload + b"\n\n"


class WhileConnected:
    """`async with`: its body is cancelled the moment the client disconnects, and ends in ClientDisconnect.

    One small task, where racing the work against the connection would take two and a gathering.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = self._over = False

    async def __aenter__(self) -> None:
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self._watch = asyncio.create_task(_disconnected(self._receive))
        self._watch.add_done_callback(self._interrupt)

    def _interrupt(self, watch: asyncio.Task[None]) -> None:
        if self._over:
            return  # called for already when the body ended: it would hit what the task does next
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._over = True
        self._watch.cancel()
        # Ours is taken back even where the body turned it into another error: time-outs further out count them.
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientDisconnect from error


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A stream of server-sent events that closes its source as soon as the client leaves or the time is up.

    `pieces` has begun, `first` being what it yielded: closing a generator that has not begun would close nothing of
    what it draws from. `broken` writes the last event of a stream that fails, which nothing takes for an end.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        pieces: AsyncGenerator[bytes, None],
        *,
        broken: Callable[[HeedfulError], bytes],
        deadline: float | None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first, self._pieces, self._broken, self._deadline = first, pieces, broken, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[BROKEN] = self._broken
        with suppress(ClientDisconnect):
            async with aclosing(self._pieces), WhileConnected(receive):
                await self._send(scope, send)

    async def _send(self, scope: Scope, send: Send) -> None:
        last = b""
        try:
            # The time is up for a client that does not read, too. Never over a `yield` of the generator: there the
            # time-out would cancel whoever happens to be waiting, which is the send.
            async with asyncio.timeout_at(self._deadline):
                start = {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
                await send(start)
                await send({"type": "http.response.body", "body": self._first, "more_body": True})
                async for piece in self._pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception as error:
            await self._pieces.aclose()  # before the last word, for which a slow reader can take its time
            last = self._broken(told(scope, client_error(error)))
        await send({"type": "http.response.body", "body": last, "more_body": False})
