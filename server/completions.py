"""/v1/chat/completions and /v1/completions: request in, pipeline, wire format out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heedful.server import requests
from heedful.server.http import EventStream, json_object, json_response, told, unless_gone
from heedful.server.service import Service
from heedful.server.wire.chat import ChatWire, sse
from heedful.server.wire.completions import CompletionWire
from heedful.strategies import Chunk, Event, Finish, KeepAlive, RequestError, Run, StrategyError, collect
from heedful.strategies.engine import RawCompletion
from heedful.strategies.plan import describe


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request on its way: its events, the run they come from, and the format they leave in."""

    events: AsyncGenerator[Event, None]
    run: Run
    target: requests.Target
    wire: ChatWire

    @property
    def alignment(self) -> dict[str, object] | None:
        return describe(self.run, self.target.plan) if self.target.trace else None


async def chat(request: Request) -> Response:
    """POST /v1/chat/completions"""
    service: Service = request.app.state.service
    body = await json_object(request, limit=service.config.max_body_bytes)
    target = service.target(body, request.headers.get("x-alignment"))
    chat_request = requests.chat_request(body, target.engine.model)
    run = service.run(target)
    wire = _wire(ChatWire, "chatcmpl", body, target)
    return await _respond(request, Exchange(target.plan.stream(chat_request, run), run, target, wire), body)


async def completions(request: Request) -> Response:
    """POST /v1/completions: raw text where the alignment is direct, else the prompt as the user's turn."""
    service: Service = request.app.state.service
    body = await json_object(request, limit=service.config.max_body_bytes)
    target = service.target(body, request.headers.get("x-alignment"))
    run = service.run(target)
    stream = requests.wants_stream(body)
    if target.plan.is_direct:
        if not isinstance(target.engine, RawCompletion):
            raise RequestError(f"model {target.engine.model!r} has no raw completions", param="model")
        events = target.engine.complete(requests.raw_params(body), stream=stream)
    else:
        events = target.plan.stream(requests.prompt_request(body, target.engine.model), run)
    wire = _wire(CompletionWire, "cmpl", body, target)
    return await _respond(request, Exchange(events, run, target, wire), body)


def _wire(kind: type[ChatWire], prefix: str, body: dict[str, object], target: requests.Target) -> ChatWire:
    return kind(
        id=f"{prefix}-{uuid4().hex}",
        created=int(time.time()),
        model=target.engine.model,
        # Chunks of an engine that went through a completion of another kind are not of this format.
        untouched=target.plan.decoder[0] == "direct" and (kind is ChatWire or target.plan.is_direct),
        include_usage=requests.wants_usage(body),
    )


async def _respond(request: Request, exchange: Exchange, body: dict[str, object]) -> Response:
    deadline = exchange.run.deadline
    if not body.get("stream"):
        async with asyncio.timeout_at(deadline):
            answer = await unless_gone(request, collect(exchange.events))
        return json_response(exchange.wire.whole(answer, exchange.alignment))
    # The status line waits for the first event, so that what fails before it is a plain error response.
    async with asyncio.timeout_at(deadline):
        first = await unless_gone(request, _first(exchange.events))
    return EventStream(_stream(first, exchange))


async def _first(events: AsyncGenerator[Event, None]) -> Event:
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise StrategyError("the stream ended without an event") from None
    except BaseException:
        await events.aclose()
        raise


async def _stream(first: Event, exchange: Exchange) -> AsyncGenerator[bytes, None]:
    wire = exchange.wire
    async with aclosing(exchange.events) as events:
        try:
            async with asyncio.timeout_at(exchange.run.deadline):
                event: Event | None = first
                while not isinstance(event, Finish):
                    if isinstance(event, Chunk):
                        yield wire.chunk(event)
                    elif isinstance(event, KeepAlive):
                        yield b": " + (event.note.encode() or b"keep-alive") + b"\n\n"
                    event = await anext(events)
                yield wire.end(event, exchange.alignment)
        except Exception as error:
            # Too late for a status: one error event, and no [DONE] that would call the answer whole.
            yield sse(msgspec.json.encode(told(error).body()))
