"""A request body, read: which model, which alignment, and the conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heedful.server.alignments import Alignments, Selection
from heedful.strategies import ChatRequest, Engine, NotFound, Plan, RequestError

_CHAT_FIELDS = frozenset({"model", "messages", "stream", "alignment"})
_COMPLETION_FIELDS = frozenset({"model", "prompt", "stream", "alignment"})
# Who can't send a message without content; an assistant's may hold tool calls alone.
_SPEAKING = frozenset({"user", "system", "developer"})
# Under an alignment the answer is a chat's, so what only a raw completion has can't be honoured.
_RAW_ONLY = ("echo", "suffix", "logprobs", "best_of", "use_beam_search")


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers a request, and how."""

    engine: Engine
    plan: Plan
    trace: bool


def target(
    body: Mapping[str, Any], header: str | None, engines: Mapping[str, Engine], alignments: Alignments
) -> Target:
    """Model and alignment: body field, then header, then `MODEL@ALIGNMENT`, then the server's default."""
    model = body.get("model")
    if model is None and len(engines) == 1:
        model = next(iter(engines))
    if not isinstance(model, str):
        raise RequestError("model: give the name of a model as a string", param="model")
    suffix = None
    if model not in engines and "@" in model:
        model, _, suffix = model.rpartition("@")
    if model not in engines:
        raise NotFound.among("model", model, engines, param="model", code="model_not_found")
    selection = Selection.from_body(body.get("alignment"))
    spec = next((s for s in (selection.spec, header, suffix) if s is not None), None)
    plan = alignments.resolve(spec)
    engine = engines[model]
    plan.check(engine.capabilities, model=model)
    return Target(engine, plan, selection.trace)


def wants_stream(body: Mapping[str, Any]) -> bool:
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise RequestError("stream: must be true or false", param="stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise RequestError("stream_options: must be an object", param="stream_options")
    return bool(stream)


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream is to close with its usage."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


def chat_request(body: Mapping[str, Any], model: str) -> ChatRequest:
    """A /v1/chat/completions body. Fields we do not know travel on to the engine."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: give a list of at least one message", param="messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError(f"messages.{i}: must be an object with a role", param=f"messages.{i}")
        content = message.get("content")
        if content is None and message["role"] in _SPEAKING:
            raise RequestError(
                f"messages.{i}.content: must be a string or a list of parts, and is null or left out",
                param=f"messages.{i}.content",
            )
        if content is not None and not isinstance(content, str | list):
            raise RequestError(
                f"messages.{i}.content: must be a string or a list of parts", param=f"messages.{i}.content"
            )
    params = {k: v for k, v in body.items() if k not in _CHAT_FIELDS}
    return ChatRequest(model, tuple(messages), params, wants_stream(body))


def prompt_request(body: Mapping[str, Any], model: str) -> ChatRequest:
    """A /v1/completions body under an alignment: the prompt is the user's turn."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise RequestError(
            "prompt: under an alignment give one string; it is taken as the user's turn "
            '(set "alignment": "direct" for raw completions)',
            param="prompt",
        )
    for field in _RAW_ONLY:
        if body.get(field):
            raise RequestError(f"{field}: only for raw completions (alignment 'direct')", param=field)
    # The legacy endpoint's default, which chat does not have.
    params = {"max_tokens": 16} | {
        k: v for k, v in body.items() if k not in _COMPLETION_FIELDS and k not in _RAW_ONLY
    }
    return ChatRequest(model, ({"role": "user", "content": prompt},), params, wants_stream(body))


def raw_params(body: Mapping[str, Any]) -> dict[str, Any]:
    """A /v1/completions body for the engine itself."""
    return {k: v for k, v in body.items() if k not in ("model", "stream", "alignment")}


def objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects. Raises RequestError that names the place of what is none."""
    if not isinstance(value, list):
        raise RequestError(f"{where}: must be a list of objects", param=where)
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise RequestError(f"{where}.{i}: must be an object", param=f"{where}.{i}")
    return value


def listed(value: Any, where: str) -> list[str]:
    """A list of strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RequestError(f"{where}: must be a list of strings", param=where)
    return value


def optional_object(body: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A field that is an object, or {} where it is left out."""
    value = body.get(field)
    if value is not None and not isinstance(value, dict):
        raise RequestError(f"{field}: must be an object", param=field)
    return value or {}
