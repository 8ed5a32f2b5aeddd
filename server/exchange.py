"""One request on its way: engine and plan found, answered whole or as a stream, in whichever wire format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Set
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from heedful.server.access.concealing import concealed
from heedful.server.http import (
    EventStream,
    WhileConnected,
    body_of,
    in_header,
    json_object,
    json_response,
    leave_room,
)
from heedful.server.limits.account import account_of
from heedful.server.live import with_notes
from heedful.server.observe.facts import facts_of
from heedful.server.service import Service, Target
from heedful.server.shapes import speaks_anthropic
from heedful.strategies import (
    Answer,
    Chunk,
    EngineError,
    Event,
    Finish,
    HeedfulError,
    KeepAlive,
    Run,
    StrategyError,
    collect,
)
from heedful.strategies.shown import describe, usage_shown

TraceObject = Mapping[str, Any] | None
"""The trace, where the client asked for it."""


class Wire(Protocol):
    """A wire format: one response in the making, as bytes of a stream or as one object."""

    def chunk(self, chunk: Chunk) -> bytes: ...
    def end(self, finish: Finish, alignment: TraceObject) -> bytes: ...
    def error(self, error: HeedfulError) -> bytes:
        """The last thing a stream says when it breaks: nothing that calls the answer whole."""
        ...

    def whole(self, answer: Answer, alignment: TraceObject) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Body:
    """A request body: as it came, and read."""

    raw: bytes
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer under way: its events, the run they come from, and the format they leave in."""

    events: AsyncGenerator[Event, None]
    run: Run
    target: Target
    wire: Wire

    @property
    def alignment(self) -> TraceObject:
        return describe(self.run, self.target.plan) if self.target.trace else None

    def broken(self, error: HeedfulError) -> bytes:
        """The last event of a stream that fails."""
        return self.wire.error(concealed(error, self.target.plan, self.run))


Answering = Callable[[Body, Target, Run], Awaitable[Response]]


async def read(request: Request) -> Body:
    """The request's body. Raises RequestError where it is no JSON object."""
    service: Service = request.app.state.service
    raw = await body_of(request, limit=service.config.max_body_bytes)
    await admitted(request.scope, request.receive, service)
    leave_room(request.scope)
    return Body(raw, json_object(raw))


async def admitted(scope: Scope, receive: Receive | None, service: Service) -> None:
    """Until a request that will ask a model may come in. Raises HeedfulError where it may not.

    `receive`: None where somebody watches already whether the client is there.
    """
    if (account := account_of(scope)) is not None:
        anthropic = speaks_anthropic(scope)
        if not account.enter(anthropic=anthropic):
            await account.admit(receive, service.deadline(scope), anthropic=anthropic)


async def answer(
    request: Request,
    handler: Answering,
    body: Body | None = None,
    *,
    own: Set[str] = frozenset(),
    writes: bool = True,
) -> Response:
    """Reads the request, finds who answers it, and lets `handler` do so, for as long as the client is there.

    `own`: the body's fields that the handler reads itself and hands to no engine as they are; `writes`: whether the
    answer is a text.
    """
    service: Service = request.app.state.service
    body = body or await read(request)
    facts = facts_of(request.scope)
    if facts is not None:
        facts.fields, facts.received = body.fields, len(body.raw)
    if (floor := service.floor(request.scope)) is not None:
        # Written anew: a name that stands twice in a body is one thing to us and may be another further on.
        fields = floor.fields(body.fields, own)
        body = Body(msgspec.json.encode(fields), fields)
    target = service.target(request, body.fields, writes=writes)
    run = service.run(target, request, body.fields)
    if facts is not None:
        facts.answers(target, run)
    try:
        async with WhileConnected(request.receive), asyncio.timeout_at(run.deadline):
            try:
                return await handler(body, target, run)
            except EngineError as error:
                # Nothing has been sent yet. What the request itself has wrong, no other model mends.
                for other, again in service.fallback(target, error, run, request, body.fields):
                    with suppress(EngineError):
                        if facts is not None:
                            facts.answers(other, again)
                        response = await handler(body, other, again)
                        response.headers["x-heedful-model"] = in_header(other.engine.model)
                        return response
                raise
    except HeedfulError as error:
        if (told := concealed(error, target.plan, run)) is not error:
            raise told from error
        raise


async def respond(exchange: Exchange, *, stream: bool) -> Response:
    """The response to an exchange."""
    if (facts := exchange.target.facts) is not None:
        facts.stream = stream
    if not stream:
        answer = await collect(exchange.events)
        if facts is not None:
            facts.usage = answer.usage
        answer.usage = usage_shown(answer.usage, exchange.target.plan)
        return json_response(exchange.wire.whole(answer, exchange.alignment))
    # The status line waits for the first event, so that what fails before it is a plain error response.
    pieces, trace = _pieces(exchange), exchange.run.trace
    if trace.wish.live:
        pieces = with_notes(pieces, trace, exchange.target.plan)
    first = await anext(pieces)
    return EventStream(first, pieces, broken=exchange.broken, deadline=exchange.run.deadline)


async def _pieces(exchange: Exchange) -> AsyncGenerator[bytes, None]:
    wire = exchange.wire
    async with aclosing(exchange.events) as events:
        async for event in events:
            if isinstance(event, Chunk):
                yield wire.chunk(event)
            elif isinstance(event, KeepAlive):
                yield b": " + (event.note.encode() or b"keep-alive") + b"\n\n"
            else:
                if exchange.target.facts is not None:
                    exchange.target.facts.usage = event.usage
                shown = usage_shown(event.usage, exchange.target.plan)
                yield wire.end(Finish(shown, event.extra), exchange.alignment)
                return
    raise StrategyError("the stream ended without a Finish event")
