"""/v1/chat/completions and /v1/completions."""

from __future__ import annotations

import time
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from heedful.server import passthrough, requests
from heedful.server.engines.openai import OpenAIEngine
from heedful.server.exchange import Body, Exchange, answer, respond
from heedful.server.wire.chat import ChatWire
from heedful.server.wire.completions import CompletionWire
from heedful.strategies import RequestError, Run
from heedful.strategies.engine import RawCompletion


async def chat(request: Request) -> Response:
    """POST /v1/chat/completions"""
    return await answer(request, _chat)


async def completions(request: Request) -> Response:
    """POST /v1/completions: raw text where the alignment is direct, else the prompt as the user's turn."""
    return await answer(request, _completion)


async def _chat(body: Body, target: requests.Target, run: Run) -> Response:
    engine, plan = run.engine, target.plan
    if isinstance(engine, OpenAIEngine) and plan.leaves_the_answer and not target.trace:
        if not plan.contexts:
            payload = passthrough.payload(engine.upstream_model, body.raw, body.fields)
            return await passthrough.forward(engine, "/chat/completions", payload, run.deadline)
        context = await plan.prepare(requests.chat_request(body.fields, engine.model), run)
        if context.prompt is None and not run.ledger.calls:
            fields = {**context.params, "messages": context.messages, "stream": context.original.stream}
            payload = passthrough.payload(engine.upstream_model, b"", fields)
            return await passthrough.forward(engine, "/chat/completions", payload, run.deadline)
        events = plan.decode(context, run)
    else:
        events = plan.stream(requests.chat_request(body.fields, engine.model), run)
    wire = _wire(ChatWire, "chatcmpl", body, target)
    return await respond(Exchange(events, run, target, wire), stream=requests.wants_stream(body.fields))


async def _completion(body: Body, target: requests.Target, run: Run) -> Response:
    engine = run.engine
    stream = requests.wants_stream(body.fields)
    if target.plan.is_direct:
        if isinstance(engine, OpenAIEngine) and not target.trace:
            payload = passthrough.payload(engine.upstream_model, body.raw, body.fields)
            return await passthrough.forward(engine, "/completions", payload, run.deadline)
        if not isinstance(engine, RawCompletion):
            raise RequestError(f"model {engine.model!r} has no raw completions", param="model")
        events = engine.complete(requests.raw_params(body.fields), stream=stream)
    else:
        events = target.plan.stream(requests.prompt_request(body.fields, engine.model), run)
    wire = _wire(CompletionWire, "cmpl", body, target)
    return await respond(Exchange(events, run, target, wire), stream=stream)


def _wire(kind: type[ChatWire], prefix: str, body: Body, target: requests.Target) -> ChatWire:
    return kind(
        id=f"{prefix}-{uuid4().hex}",
        created=int(time.time()),
        model=target.engine.model,
        # Chunks of an engine that went through a completion of another kind are not of this format.
        untouched=target.plan.decoder[0] == "direct" and (kind is ChatWire or target.plan.is_direct),
        include_usage=requests.wants_usage(body.fields),
    )
