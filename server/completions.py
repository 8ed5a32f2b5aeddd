"""/v1/chat/completions and /v1/completions: request in, pipeline, wire format out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heedful.server import passthrough, requests
from heedful.server.engines.openai import OpenAIEngine
from heedful.server.http import EventStream, WhileConnected, body_of, json_object, json_response, told
from heedful.server.service import Service
from heedful.server.wire.chat import ChatWire, sse
from heedful.server.wire.completions import CompletionWire
from heedful.strategies import (
    Chunk,
    EngineError,
    Event,
    Finish,
    KeepAlive,
    RequestError,
    Run,
    StrategyError,
    collect,
)
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


@dataclass(frozen=True, slots=True)
class Body:
    """A request body: as it came, and read."""

    raw: bytes
    fields: dict[str, Any]


async def chat(request: Request) -> Response:
    """POST /v1/chat/completions"""
    return await _answer(request, _chat)


async def completions(request: Request) -> Response:
    """POST /v1/completions: raw text where the alignment is direct, else the prompt as the user's turn."""
    return await _answer(request, _completion)


Handler = Callable[[Body, requests.Target, Run], Awaitable[Response]]


async def _answer(request: Request, handler: Handler) -> Response:
    service: Service = request.app.state.service
    raw = await body_of(request, limit=service.config.max_body_bytes)
    body = Body(raw, json_object(raw))
    target = service.target(body.fields, request.headers.get("x-alignment"))
    run = service.run(target, request)
    async with WhileConnected(request.receive), asyncio.timeout_at(run.deadline):
        try:
            return await handler(body, target, run)
        except EngineError as error:
            # Nothing has been sent yet. What the request itself has wrong, no other model mends.
            for other, again in service.fallback(target, error, run, request):
                with suppress(EngineError):
                    response = await handler(body, other, again)
                    response.headers["x-heedful-model"] = other.engine.model
                    return response
            raise


async def _chat(body: Body, target: requests.Target, run: Run) -> Response:
    engine, plan = run.engine, target.plan
    if isinstance(engine, OpenAIEngine) and plan.leaves_the_answer and not target.trace:
        if not plan.contexts:
            payload = passthrough.payload(engine, body.raw, body.fields)
            return await passthrough.forward(engine, "/chat/completions", payload, run.deadline)
        context = await plan.prepare(requests.chat_request(body.fields, engine.model), run)
        if context.prompt is None and not run.ledger.calls:
            fields = {**context.params, "messages": context.messages, "stream": context.original.stream}
            payload = passthrough.payload(engine, b"", fields)
            return await passthrough.forward(engine, "/chat/completions", payload, run.deadline)
        events = plan.decode(context, run)
    else:
        events = plan.stream(requests.chat_request(body.fields, engine.model), run)
    return await _respond(Exchange(events, run, target, _wire(ChatWire, "chatcmpl", body, target)), body)


async def _completion(body: Body, target: requests.Target, run: Run) -> Response:
    engine = run.engine
    stream = requests.wants_stream(body.fields)
    if target.plan.is_direct:
        if isinstance(engine, OpenAIEngine) and not target.trace:
            payload = passthrough.payload(engine, body.raw, body.fields)
            return await passthrough.forward(engine, "/completions", payload, run.deadline)
        if not isinstance(engine, RawCompletion):
            raise RequestError(f"model {engine.model!r} has no raw completions", param="model")
        events = engine.complete(requests.raw_params(body.fields), stream=stream)
    else:
        events = target.plan.stream(requests.prompt_request(body.fields, engine.model), run)
    return await _respond(Exchange(events, run, target, _wire(CompletionWire, "cmpl", body, target)), body)


def _wire(kind: type[ChatWire], prefix: str, body: Body, target: requests.Target) -> ChatWire:
    return kind(
        id=f"{prefix}-{uuid4().hex}",
        created=int(time.time()),
        model=target.engine.model,
        # Chunks of an engine that went through a completion of another kind are not of this format.
        untouched=target.plan.decoder[0] == "direct" and (kind is ChatWire or target.plan.is_direct),
        include_usage=requests.wants_usage(body.fields),
    )


async def _respond(exchange: Exchange, body: Body) -> Response:
    if not body.fields.get("stream"):
        return json_response(exchange.wire.whole(await collect(exchange.events), exchange.alignment))
    # The status line waits for the first event, so that what fails before it is a plain error response.
    return EventStream(_stream(await _first(exchange.events), exchange))


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
