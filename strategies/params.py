"""What strategies read of a client's request: each field's shape, checked in one place before any of them runs.

A request without an alignment goes to the engine as it is. Under one, a field of a wrong shape is told by name
here, and no strategy need look again. What a field of the right shape may hold is the engine's affair; `null` is
"not given".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heedful.strategies.errors import RequestError
from heedful.strategies.types import MOST_CHOICES, ChatRequest, Message

Fits = Callable[[Any], bool]
_LARGEST = 2**63 - 1


def check(request: ChatRequest) -> None:
    """Raises RequestError, which names the field and what belongs into it."""
    for name, value in request.params.items():
        if value is not None and name in _FIELDS:
            fits, wanted = _FIELDS[name]
            if not fits(value):
                raise RequestError(f"{name}: must be {wanted}", param=name, code="invalid_value")
    _format(request.params)
    for i, message in enumerate(request.messages):
        _message(message, f"messages.{i}")


def integer(value: Any, low: int = -(2**63), high: int = _LARGEST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is(kind: type, wanted: str) -> tuple[Fits, str]:
    return lambda value: isinstance(value, kind), wanted


def _integer(low: int, high: int = 2**31 - 1) -> tuple[Fits, str]:
    return lambda value: integer(value, low, high), f"a whole number from {low} to {high}"


def _number(low: float, high: float) -> tuple[Fits, str]:
    return lambda value: number(value, low, high), f"a number from {low:g} to {high:g}"


def _list(kind: type, wanted: str) -> tuple[Fits, str]:
    return lambda value: isinstance(value, list) and all(isinstance(v, kind) for v in value), wanted


def _stop(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))


_FLAG = _is(bool, "true or false")
_OBJECT = _is(dict, "an object")
_OBJECTS = _list(dict, "a list of objects")
_FIELDS: Mapping[str, tuple[Fits, str]] = {
    "n": _integer(1, MOST_CHOICES),
    "seed": (integer, f"a whole number from {-(2**63)} to {_LARGEST}"),
    "max_tokens": _integer(1),
    "max_completion_tokens": _integer(1),
    "min_tokens": _integer(0),
    "top_logprobs": _integer(-1),
    "top_k": _integer(-1),
    "temperature": _number(0, 100),
    "top_p": _number(0, 1),
    "min_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": (
        lambda value: number(value, 0, 100) and value > 0,
        "a number above 0, 100 at most",
    ),
    "stop": (_stop, "a string or a list of strings"),
    "stop_token_ids": (
        lambda value: isinstance(value, list) and all(integer(v) for v in value),
        "a list of whole numbers",
    ),
    "modalities": _list(str, "a list of strings"),
    "tools": _OBJECTS,
    "functions": _OBJECTS,
    "tool_choice": (lambda value: isinstance(value, str | dict), "a string or an object"),
    "response_format": _OBJECT,
    "structured_outputs": _OBJECT,
    "stream_options": _OBJECT,
    "logit_bias": _OBJECT,
    "chat_template_kwargs": _OBJECT,
    "logprobs": _FLAG,
    "ignore_eos": _FLAG,
    "echo": _FLAG,
    "continue_final_message": _FLAG,
    "add_generation_prompt": _FLAG,
    "parallel_tool_calls": _FLAG,
}


def _format(params: Mapping[str, Any]) -> None:
    form = params.get("response_format") or {}
    if not isinstance(form.get("type", "text"), str):
        raise RequestError(
            "response_format.type: must be a string", param="response_format.type", code="invalid_value"
        )
    if form.get("type") == "json_schema" and not isinstance(form.get("json_schema"), dict):
        where = "response_format.json_schema"
        raise RequestError(f"{where}: must be an object", param=where, code="invalid_value")
    choices = (params.get("structured_outputs") or {}).get("choice")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(c, str) for c in choices)):
        where = "structured_outputs.choice"
        raise RequestError(f"{where}: must be a list of strings", param=where, code="invalid_value")


def _message(message: Message, where: str) -> None:
    content = message.get("content")
    if isinstance(content, list):
        for j, part in enumerate(content):
            _part(part, f"{where}.content.{j}")
    elif content is not None and not isinstance(content, str):
        raise _shape(f"{where}.content", "a string or a list of parts")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, Sequence) and all(isinstance(c, dict) for c in calls)):
        raise _shape(f"{where}.tool_calls", "a list of objects")


def _part(part: Any, where: str) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise _shape(where, 'an object with a type, such as {"type": "text", "text": "..."}')
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        raise _shape(f"{where}.text", "a string")


def _shape(where: str, wanted: str) -> RequestError:
    return RequestError(f"{where}: must be {wanted}", param=where, code="invalid_value")
