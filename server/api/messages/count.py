"""Anthropic's /v1/messages/count_tokens: what the model will see, the alignment's words included."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.api.bodies import handled
from heedful.server.api.messages import request as messages
from heedful.server.api.messages.form import anthropic_form
from heedful.server.api.operation import Operation
from heedful.server.engines.upstream.engine import OpenAIEngine
from heedful.server.exchange import Body, answer
from heedful.server.http import json_response
from heedful.server.service import Target
from heedful.strategies import Capability, Context, HeedfulError, MissingCapability, RequestError, Run
from heedful.strategies.shown import describe


class Counted(msgspec.Struct):
    input_tokens: int


async def count_tokens(request: Request) -> Response:
    """POST /v1/messages/count_tokens"""
    return await answer(request, _count, own=handled(messages.CountBody))


async def _count(body: Body, target: Target, run: Run) -> Response:
    """Of a decoding strategy it counts the first call's prompt; a context strategy that thinks first is run."""
    engine = target.engine
    chat = messages.chat_request(body.fields, engine.model, engine.capabilities, to_count=True)
    context = await target.plan.prepare(chat, run)
    if context.refusal is not None:
        tokens = 0  # no model will see it
    elif (remote := engine.remote) and Capability.TOKENS not in engine.capabilities:
        tokens = await _asked(remote, body.fields, context, aligned=context.messages is not chat.messages)
    else:
        tokens = await engine.count_prompt(context.call(stream=False))
    counted: dict[str, Any] = {"input_tokens": tokens}
    if body.fields.get("context_management"):
        counted["context_management"] = {"original_input_tokens": tokens}
    return json_response(counted | ({"alignment": describe(run, target.plan)} if target.trace else {}))


async def _asked(engine: OpenAIEngine, fields: dict[str, Any], context: Context, *, aligned: bool) -> int:
    """Counted by an upstream that has this endpoint itself."""
    if context.prompt is not None:
        raise _nobody_knows(engine.model, "its upstream counts no raw prompts")
    asked = {k: v for k, v in fields.items() if k not in ("alignment", "stream", "max_tokens")}
    if aligned:
        asked |= anthropic_form(context.messages)
    try:
        counted = await engine.json("/messages/count_tokens", asked)
    except HeedfulError as error:
        if error.status in (404, 405, 501):
            raise _nobody_knows(
                engine.model, "its upstream has neither /tokenize nor /v1/messages/count_tokens"
            ) from error
        raise
    tokens = counted.get("input_tokens")
    if not isinstance(tokens, int):
        raise engine.upstream.nonsense("its count_tokens gave no input_tokens")
    return tokens


def _nobody_knows(model: str, why: str) -> RequestError:
    return MissingCapability(f"the tokens of model {model!r} can't be counted: {why}", param="model")


OPERATIONS = (
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        count_tokens,
        "What the model will see, counted",
        body=messages.CountBody,
        answer=Counted,
        dialect="anthropic",
        role=Role.USER,
    ),
)
