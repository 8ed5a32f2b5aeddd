"""OpenAI's legacy /v1/completions: chat's events, with `text` in place of a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.api import bodies, passthrough
from heedful.server.api.bodies import handled, travelling, typed, wants_stream
from heedful.server.api.chat import ChatCompletion, ChatWire, usage_object, wire_of
from heedful.server.api.operation import Operation
from heedful.server.exchange import Body, Exchange, answer, respond
from heedful.server.service import Target
from heedful.strategies import Answer, Call, ChatRequest, RequestError, Run
from heedful.strategies.arriving import estimate_given
from heedful.strategies.meter import metered

# Under an alignment the answer is a chat's, so what only a raw completion has can't be honoured.
_RAW_ONLY = ("echo", "suffix", "logprobs", "best_of", "use_beam_search")


class CompletionBody(bodies.GenerationBody, kw_only=True):
    """OpenAI's legacy completions. Under an alignment the prompt is one text, the user's turn."""

    prompt: str | list[str | int | list[int]]
    echo: bodies.FlagField = None
    suffix: bodies.TextField = None


async def completions(request: Request) -> Response:
    """POST /v1/completions: raw text where the alignment is direct, else the prompt as the user's turn."""
    return await answer(request, _completion, own=handled(CompletionBody))


async def _completion(body: Body, target: Target, run: Run) -> Response:
    engine = target.engine
    stream = wants_stream(body.fields)
    if target.plan.is_direct:
        if (remote := engine.remote) and not target.trace:
            payload = passthrough.payload(remote.upstream_model, body.raw, body.fields)
            return await passthrough.forward(remote, "/completions", payload, run.deadline, target.facts)
        params = raw_params(body.fields)
        read = estimate_given(params.get("prompt"))
        raw = engine.complete(params, stream=stream)
        events = metered(raw, run.ledger, "direct", Call(params=params), read=read)
    else:
        chat = prompt_request(body.fields, engine.model, raw=not target.plan.on_the_floor)
        events = target.plan.stream(chat, run)
    # Chunks of an engine that answers a chat are not of this format.
    wire = wire_of(CompletionWire, "cmpl", body, target, untouched=target.plan.is_direct)
    return await respond(Exchange(events, run, target, wire), stream=stream)


def prompt_request(fields: Mapping[str, Any], model: str, *, raw: bool = True) -> ChatRequest:
    """A /v1/completions body under an alignment: the prompt is the user's turn. `raw`: whether it need not be."""
    prompt: Any = typed(fields, CompletionBody, model=model).prompt
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise RequestError(
            "prompt: under an alignment give one string; it is taken as the user's turn "
            + (
                '(set "alignment": "direct" for raw completions)'
                if raw
                else "(this server has no raw completions)"
            ),
            param="prompt",
        )
    for field in _RAW_ONLY:
        if fields.get(field):
            where = "(alignment 'direct')" if raw else "which this server does not have"
            raise RequestError(f"{field}: only for raw completions {where}", param=field)
    # The legacy endpoint's default, which chat does not have.
    params = {"max_tokens": 16, **travelling(fields, CompletionBody)}
    for field in _RAW_ONLY:
        params.pop(field, None)
    return ChatRequest(model, ({"role": "user", "content": prompt},), params, wants_stream(fields))


def raw_params(body: Mapping[str, Any]) -> dict[str, Any]:
    """A /v1/completions body for the engine itself."""
    return {k: v for k, v in body.items() if k not in ("model", "stream", "alignment")}


class CompletionWire(ChatWire):
    """A text completion, from an engine that writes that format itself or from an aligned chat."""

    chunk_object = "text_completion"
    whole_object = "text_completion"

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        text = choice["text"] if "text" in choice else choice.get("delta", {}).get("content") or ""
        rest = {k: v for k, v in choice.items() if k not in ("delta", "text")}
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": None, **rest}

    def whole(self, answer: Answer, alignment: Mapping[str, Any] | None) -> dict[str, Any]:
        extra = answer.extra if self._untouched else {}
        body = {**self._head, **extra, "object": self.whole_object}
        body["choices"] = [
            {
                "index": choice.index,
                "text": choice.text,
                "logprobs": choice.logprobs,
                "finish_reason": choice.finish_reason,
                **choice.extra,
            }
            for choice in answer.choices
        ]
        body["usage"] = usage_object(answer.usage)
        return body if alignment is None else body | {"alignment": alignment}


OPERATIONS = (
    Operation(
        "POST",
        "/v1/completions",
        completions,
        "OpenAI legacy completions",
        body=CompletionBody,
        answer=ChatCompletion,
        streams=True,
        role=Role.USER,
    ),
)
