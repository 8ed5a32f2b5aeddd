"""OpenAI's /v1/responses, translated once into the request that every strategy knows. Nothing is stored."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.api import bodies
from heedful.server.api.bodies import handled, ignored, objects, refused, travelling, typed, wants_stream
from heedful.server.api.operation import Operation
from heedful.server.api.responses.answer import CUSTOM_INPUT, ResponsesWire
from heedful.server.api.responses.tools import choice_of, custom_names, function_of
from heedful.server.exchange import Body, Exchange, answer, respond
from heedful.server.service import Target
from heedful.strategies import ChatRequest, Message, RequestError, Run

_LOGPROBS = "message.output_text.logprobs"
_ECHOED = (
    "temperature",
    "top_p",
    "max_output_tokens",
    "instructions",
    "metadata",
    "user",
    "reasoning",
    "text",
)


_CALLS = ("function_call", "custom_tool_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output")


class Reasoning(msgspec.Struct):
    effort: Any = None


class TextForm(msgspec.Struct):
    format: dict[str, Any] | None = None
    verbosity: Any = None


_NO_RESPONSES = "this server keeps no responses; send the whole conversation in `input`"
_OF_TYPE = {"type": "object", "properties": {"type": {"type": "string"}}}


class ResponsesBody(msgspec.Struct, kw_only=True):
    """OpenAI's responses. Every field of the API, and what becomes of it (the table in docs/proxy.md)."""

    model: bodies.ModelField
    input: str | Annotated[list[dict[str, Any]], Meta(extra_json_schema={"items": _OF_TYPE})]
    instructions: str | None = None
    max_output_tokens: Annotated[Any, Meta(extra_json_schema={"type": "integer", "minimum": 1})] = None
    stream: bool | None = None
    alignment: bodies.AlignmentField = None
    tools: Annotated[list[dict[str, Any]], Meta(extra_json_schema={"items": _OF_TYPE})] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: TextForm | None = None
    reasoning: Reasoning | None = None
    top_logprobs: Annotated[Any, Meta(extra_json_schema={"type": "integer", "minimum": 0, "maximum": 20})] = (
        None
    )
    include: list[str] | None = None

    # Chat completions have these under the same name.
    temperature: bodies.TemperatureField = None
    top_p: bodies.ShareField = None
    parallel_tool_calls: bodies.FlagField = None
    metadata: bodies.ObjectField = None
    user: bodies.TextField = None
    safety_identifier: bodies.TextField = None
    service_tier: bodies.TextField = None
    moderation: bodies.ObjectField = None
    prompt_cache_key: bodies.TextField = None
    prompt_cache_options: bodies.ObjectField = None
    prompt_cache_retention: bodies.TextField = None

    store: Annotated[Any, ignored("nothing is stored; the answer says `store: false`")] = None
    truncation: Annotated[
        Any, ignored("nothing is cut away: a conversation that is too long is refused, as with `disabled`")
    ] = None
    context_management: Annotated[
        Any, ignored("nothing is kept here between requests, so there is nothing to compact")
    ] = None
    max_tool_calls: Annotated[Any, ignored("it bounds tools that a server runs, and this one runs none")] = (
        None
    )
    background_options: Annotated[Any, ignored("nothing runs in the background")] = None
    stream_options: Annotated[Any, ignored("no padding is added to events")] = None
    image: Annotated[Any, ignored("images go on as they are")] = None
    access_programs: Annotated[Any, ignored("there are none")] = None

    previous_response_id: Annotated[Any, refused(_NO_RESPONSES)] = None
    conversation: Annotated[
        Any, refused("this server keeps no conversations; send the whole conversation in `input`")
    ] = None
    background: Annotated[Any, refused("this server keeps no responses, so nobody could fetch one later")] = (
        None
    )
    prompt: Annotated[
        Any,
        refused("this server keeps no prompt templates; write the prompt out in `instructions` and `input`"),
    ] = None


class ResponseObject(msgspec.Struct):
    id: str
    object: str
    output: list[dict[str, Any]]


async def responses(request: Request) -> Response:
    """POST /v1/responses"""
    return await answer(request, _responses, own=handled(ResponsesBody))


async def _responses(body: Body, target: Target, run: Run) -> Response:
    fields = body.fields
    chat = chat_request(fields, run.engine.model)
    echo = {k: fields.get(k) for k in _ECHOED} | {
        "tools": fields.get("tools") or [],
        "tool_choice": fields.get("tool_choice") or "auto",
        "parallel_tool_calls": fields.get("parallel_tool_calls", True),
        "store": False,
        "metadata": fields.get("metadata") or {},
    }
    wire = ResponsesWire(
        id=f"resp_{uuid4().hex}",
        created=int(time.time()),
        model=run.engine.model,
        echo=echo,
        custom=custom_names(fields.get("tools")),
        logprobs=bool(chat.params.get("logprobs")),
    )
    return await respond(Exchange(target.plan.stream(chat, run), run, target, wire), stream=chat.stream)


def chat_request(fields: Mapping[str, Any], model: str) -> ChatRequest:
    """Raises RequestError that names the field which can't be translated."""
    body = typed(fields, ResponsesBody, model=model)
    params = travelling(fields, ResponsesBody)
    if body.max_output_tokens is not None:
        params["max_completion_tokens"] = body.max_output_tokens
    if body.tools:
        params["tools"] = [function_of(tool, i) for i, tool in enumerate(body.tools)]
        if body.tool_choice is not None:
            params |= choice_of(body.tool_choice, params["tools"])
    if body.reasoning and body.reasoning.effort:
        params["reasoning_effort"] = body.reasoning.effort
    if body.text:
        params |= _text(body.text)
    if body.top_logprobs:
        params |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    elif _LOGPROBS in (body.include or ()):
        params["logprobs"] = True
    messages = list(_messages(body.input))
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    if not any(m["role"] != "system" for m in messages):
        raise RequestError("input: give a text or a list of at least one item", param="input")
    return ChatRequest(model, tuple(messages), params, wants_stream(fields))


def _messages(given: str | list[dict[str, Any]]) -> Iterator[Message]:
    """Items as messages: an assistant's reasoning, text and calls in a row are one message."""
    if isinstance(given, str):
        yield {"role": "user", "content": given}
        return
    mine: dict[str, Any] = {}
    shown: list[dict[str, Any]] = []  # of tools' outputs, what only a user's message can hold
    for i, item in enumerate(given):
        where, kind = f"input.{i}", item.get("type") or "message"
        if shown and kind not in _OUTPUTS:
            yield {"role": "user", "content": shown}
            shown = []
        if kind in _CALLS:
            mine.setdefault("tool_calls", []).append(_call(item, kind))
        elif kind == "reasoning":
            mine["reasoning_content"] = _joined(item.get("content") or item.get("summary"), where)
        elif kind == "message" and item.get("role") == "assistant":
            if "content" in mine or "tool_calls" in mine:
                yield _assistant(mine)
                mine = {}
            mine["content"] = _content(item.get("content"), where)
        else:
            if mine:
                yield _assistant(mine)
                mine = {}
            if kind in _OUTPUTS:
                text, parts = _output(item.get("output"), f"{where}.output")
                shown += parts
                yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": text}
            else:
                yield _other(item, kind, where)
    if mine:
        yield _assistant(mine)
    if shown:
        yield {"role": "user", "content": shown}


def _call(item: Mapping[str, Any], kind: str) -> dict[str, Any]:
    arguments = item.get("arguments")
    if kind == "custom_tool_call":
        arguments = msgspec.json.encode({CUSTOM_INPUT: item.get("input") or ""}).decode()
    function = {"name": item.get("name"), "arguments": arguments}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _output(output: Any, where: str) -> tuple[str, list[dict[str, Any]]]:
    """A tool's output: its text, and the images and files in it, which chat APIs take only from the user."""
    if isinstance(output, str):
        return output, []
    parts = [_part(p, f"{where}.{j}") for j, p in enumerate(objects(output or [], where))]
    text = "\n".join(p["text"] for p in parts if p["type"] == "text")
    return text, [p for p in parts if p["type"] != "text"]


def _assistant(fields: dict[str, Any]) -> Message:
    return {"role": "assistant", "content": None, **fields}


def _other(item: Mapping[str, Any], kind: Any, where: str) -> Message:
    if kind == "message":
        role = item.get("role")
        if role not in ("user", "system", "developer"):
            raise RequestError(
                f"{where}.role: must be user, assistant, system or developer", param=f"{where}.role"
            )
        return {"role": role, "content": _content(item.get("content"), where)}
    raise RequestError(f"{where}: an item of type {kind!r} can't be passed on", param=where)


def _content(content: Any, where: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        given = "null" if content is None else f"of type {type(content).__name__}"
        raise RequestError(
            f"{where}.content: must be a string or a list of parts, and is {given}", param=f"{where}.content"
        )
    parts = [_part(p, f"{where}.content.{j}") for j, p in enumerate(objects(content, f"{where}.content"))]
    if all(p["type"] == "text" for p in parts):  # as a string, which every model takes
        return "\n\n".join(p["text"] for p in parts)
    return parts


def _part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    text = part.get("refusal") if kind == "refusal" else part.get("text")
    if kind in ("input_text", "output_text", "text", "refusal") and isinstance(text, str):
        return {"type": "text", "text": text}
    if kind == "input_image" and part.get("image_url"):
        image = {"url": part["image_url"]} | ({"detail": part["detail"]} if part.get("detail") else {})
        return {"type": "image_url", "image_url": image}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    if kind == "input_file" and part.get("file_data"):
        return {"type": "file", "file": {k: part[k] for k in ("file_data", "filename") if k in part}}
    if kind in ("input_image", "input_file") and part.get("file_id"):
        raise RequestError(
            f"{where}.file_id: this server keeps no files; send the data", param=f"{where}.file_id"
        )
    raise RequestError(f"{where}: a part of type {kind!r} can't be passed on in this form", param=where)


def _joined(parts: Any, where: str) -> str:
    """The text of a list of parts."""
    return "\n".join(str(p.get("text") or "") for p in objects(parts or [], where))


def _text(text: TextForm) -> dict[str, Any]:
    params: dict[str, Any] = {"verbosity": text.verbosity} if text.verbosity else {}
    form = text.format or {}
    if form.get("type") == "json_schema":
        schema = {k: v for k, v in form.items() if k != "type"}
        params["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.get("type") == "json_object":
        params["response_format"] = {"type": "json_object"}
    return params


OPERATIONS = (
    Operation(
        "POST",
        "/v1/responses",
        responses,
        "OpenAI responses",
        body=ResponsesBody,
        answer=ResponseObject,
        streams=True,
        role=Role.USER,
    ),
)
