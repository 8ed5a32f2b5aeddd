"""OpenAI's /v1/chat/completions: a body to a request; events to chunks, answers to one object."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.api import bodies, passthrough
from heedful.server.api.bodies import handled, passed, travelling, typed, wants_stream, wants_usage
from heedful.server.api.operation import Operation
from heedful.server.exchange import Body, Exchange, answer, respond
from heedful.server.http import sse
from heedful.server.service import Target
from heedful.strategies import (
    Answer,
    ChatRequest,
    Chunk,
    Finish,
    HeedfulError,
    RequestError,
    Run,
    Usage,
)

# Who can't send a message without content; an assistant's may hold tool calls alone.
_SPEAKING = frozenset({"user", "system", "developer"})

_TOOL = {
    "type": "object",
    "properties": {"type": {"type": "string"}, "function": {"type": "object"}},
    "required": ["type", "function"],
}

encode = msgspec.json.encode


DONE = sse(b"[DONE]")


class ChatMessage(msgspec.Struct):
    role: str
    content: str | bodies.PartsField | None = None


class ChatBody(bodies.GenerationBody, kw_only=True):
    """OpenAI's chat completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: bodies.CountField = None
    seed: Annotated[Any, passed(type="integer")] = None
    logprobs: bodies.FlagField = None
    top_logprobs: Annotated[Any, passed(type="integer", minimum=0, maximum=20)] = None
    tools: Annotated[Any, passed(type="array", items=_TOOL)] = None
    tool_choice: Annotated[Any, passed(type=["string", "object"])] = None
    response_format: bodies.ObjectField = None
    user: bodies.TextField = None


class ChatChoice(msgspec.Struct):
    index: int
    finish_reason: str | None = None


class UsageObject(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class ChatCompletion(msgspec.Struct):
    id: str
    object: str
    choices: list[ChatChoice]
    usage: UsageObject | None = None


async def chat(request: Request) -> Response:
    """POST /v1/chat/completions"""
    return await answer(request, _chat, own=handled(ChatBody))


async def _chat(body: Body, target: Target, run: Run) -> Response:
    engine, plan = target.engine, target.plan
    remote = engine.remote if not target.trace else None
    if remote and plan.is_direct:
        payload = passthrough.payload(remote.upstream_model, body.raw, body.fields)
        return await passthrough.forward(remote, "/chat/completions", payload, run.deadline, target.facts)
    context = await plan.prepare(chat_request(body.fields, engine.model), run)
    untouched = plan.forwards(context)
    # What an upstream says of words that are enforced is read before it leaves: its errors may quote them.
    if remote and untouched and context.prompt is None and not run.ledger.calls and not run.enforced:
        fields = None
        if context.messages is context.original.messages and context.params is context.original.params:
            payload = passthrough.payload(remote.upstream_model, body.raw, body.fields)
        else:
            fields = {**context.params, "messages": context.messages, "stream": context.original.stream}
            payload = passthrough.payload(remote.upstream_model, b"", fields)
        return await passthrough.forward(
            remote, "/chat/completions", payload, run.deadline, target.facts, fields
        )
    events = plan.stream(context, run)
    wire = wire_of(ChatWire, "chatcmpl", body, target, untouched=untouched)
    return await respond(Exchange(events, run, target, wire), stream=wants_stream(body.fields))


def chat_request(fields: Mapping[str, Any], model: str) -> ChatRequest:
    """A /v1/chat/completions body."""
    body = typed(fields, ChatBody, model=model)
    for i, message in enumerate(body.messages):
        if message.content is None and message.role in _SPEAKING:
            raise RequestError(
                f"messages.{i}.content: must be a string or a list of parts, and is null or left out",
                param=f"messages.{i}.content",
            )
    return ChatRequest(model, tuple(fields["messages"]), travelling(fields, ChatBody), wants_stream(fields))


def usage_object(usage: Usage) -> dict[str, Any]:
    total = usage.prompt_tokens + usage.completion_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": total,
        "completion_tokens": usage.completion_tokens,
        **usage.extra,
    }


class ChatWire:
    """One response in the making.

    `untouched` says that chunks come from a single engine call, so that those which already are this format go
    out byte by byte; else they are written anew under this response's own id.
    """

    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def __init__(self, *, id: str, created: int, model: str, untouched: bool, include_usage: bool) -> None:
        self._head = {"id": id, "object": self.chunk_object, "created": created, "model": model}
        self._untouched = untouched
        self._include_usage = include_usage
        self._begun: set[int] = set()

    def chunk(self, chunk: Chunk) -> bytes:
        if self._untouched and chunk.raw is not None:
            return sse(chunk.raw)
        return sse(encode({**self._head, "choices": [self._choice(c) for c in chunk.choices]}))

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        """The role goes with a choice's first piece, once, however many engine calls it is made from."""
        index = choice.get("index", 0)
        delta = {k: v for k, v in choice.get("delta", {}).items() if k != "role"}
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", **delta}
        return {"index": index, "logprobs": None, "finish_reason": None, **choice, "delta": delta}

    def end(self, finish: Finish, alignment: Mapping[str, Any] | None) -> bytes:
        """The closing events: usage where the client wants it, the trace where it asked, then [DONE]."""
        if not self._include_usage and alignment is None:
            return DONE
        head = {**self._head, **(finish.extra if self._untouched else {}), "object": self.chunk_object}
        last: dict[str, Any] = {**head, "choices": []}
        if self._include_usage:
            last["usage"] = usage_object(finish.usage)
        if alignment is not None:
            last["alignment"] = alignment
        return sse(encode(last)) + DONE

    def error(self, error: HeedfulError) -> bytes:
        """One error event, and no [DONE] after it."""
        return sse(encode(error.body()))

    def whole(self, answer: Answer, alignment: Mapping[str, Any] | None) -> dict[str, Any]:
        """A complete response."""
        extra = answer.extra if self._untouched else {}
        body = {**self._head, **extra, "object": self.whole_object}
        body["choices"] = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": None, **choice.message},
                "logprobs": choice.logprobs,
                "finish_reason": choice.finish_reason,
                **choice.extra,
            }
            for choice in answer.choices
        ]
        body["usage"] = usage_object(answer.usage)
        return body if alignment is None else body | {"alignment": alignment}


def wire_of(kind: type[ChatWire], prefix: str, body: Body, target: Target, *, untouched: bool) -> ChatWire:
    """The format of one response. `untouched`: whether a single engine call writes it in this very format."""
    return kind(
        id=f"{prefix}-{uuid4().hex}",
        created=int(time.time()),
        model=target.engine.model,
        untouched=untouched,
        include_usage=wants_usage(body.fields),
    )


OPERATIONS = (
    Operation(
        "POST",
        "/v1/chat/completions",
        chat,
        "OpenAI chat completions",
        body=ChatBody,
        answer=ChatCompletion,
        streams=True,
        role=Role.USER,
    ),
)
