"""Anthropic's /v1/messages, translated once into the request that every strategy knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.api.fields import listed, objects, optional_object, wants_stream
from heedful.server.api.messages.answer import MessagesWire
from heedful.server.api.messages.fields import HONOURED, IGNORED, REFUSED
from heedful.server.api.messages.tools import function_of
from heedful.server.exchange import Body, Exchange, answer, respond
from heedful.server.service import Target
from heedful.strategies import Capability, ChatRequest, Message, MissingCapability, RequestError, Run

# Every other field (temperature, top_p, top_k, vLLM's own, ...) travels on under its name.
_READ = frozenset({*HONOURED, *IGNORED, *REFUSED, "alignment"})
_CHOICE: dict[str, Any] = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_LONGEST_USER = 64  # as OpenAI has it


async def messages(request: Request) -> Response:
    """POST /v1/messages"""
    return await answer(request, _messages)


async def _messages(body: Body, target: Target, run: Run) -> Response:
    chat = chat_request(body.fields, run.engine.model, run.engine.capabilities)
    wire = MessagesWire(id=f"msg_{uuid4().hex}", model=run.engine.model)
    return await respond(Exchange(target.plan.stream(chat, run), run, target, wire), stream=chat.stream)


def chat_request(
    fields: Mapping[str, Any], model: str, capabilities: Capability, *, to_count: bool = False
) -> ChatRequest:
    """Raises RequestError that names the field which can't be translated. `to_count`: nothing is to be written."""
    for field, why in REFUSED.items():
        if fields.get(field):
            raise RequestError(f"{field}: {why}", param=field)
    params: dict[str, Any] = {k: v for k, v in fields.items() if k not in _READ}
    if not to_count:
        limit = fields.get("max_tokens")
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise RequestError("max_tokens: give a positive whole number", param="max_tokens")
        params["max_tokens"] = limit
    if stops := fields.get("stop_sequences"):
        params["stop"] = listed(stops, "stop_sequences")
    if tools := fields.get("tools"):
        params["tools"] = [function_of(t, i) for i, t in enumerate(objects(tools, "tools"))]
        params |= _tool_choice(fields.get("tool_choice"))
    params |= _user(optional_object(fields, "metadata").get("user_id"))
    params |= _thinking(optional_object(fields, "thinking"))
    params |= _output(fields)
    turns = objects(fields.get("messages"), "messages")
    if not turns:
        raise RequestError("messages: give a list of at least one message", param="messages")
    conversation = [message for i, turn in enumerate(turns) for message in _turn(turn, i)]
    if not conversation:
        raise RequestError("messages: there is nothing in them", param="messages")
    translated = [*_system(fields.get("system")), *conversation]
    if translated[-1]["role"] == "assistant":
        if Capability.PREFILL not in capabilities:
            raise MissingCapability(
                f"messages: the last is the assistant's, to be continued, and model {model!r} lacks prefill",
                param="messages",
            )
        params |= {"continue_final_message": True, "add_generation_prompt": False}
    return ChatRequest(model, tuple(translated), params, wants_stream(fields))


def _system(system: Any) -> list[Message]:
    if not system:
        return []
    if isinstance(system, str):
        return [{"role": "system", "content": system}]
    texts = [b.get("text") for b in objects(system, "system")]
    if not all(isinstance(t, str) for t in texts):
        raise RequestError("system: give a string or text blocks", param="system")
    return [{"role": "system", "content": "\n\n".join(map(str, texts))}]


def _turn(turn: Mapping[str, Any], i: int) -> Iterator[Message]:
    """A turn as one message, tool results before it as messages of their own."""
    where, role, content = f"messages.{i}", turn.get("role"), turn.get("content")
    if role not in ("user", "assistant", "system"):
        raise RequestError(f"{where}.role: must be user or assistant", param=f"{where}.role")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    if not isinstance(content, list):
        given = "null" if content is None else f"of type {type(content).__name__}"
        raise RequestError(
            f"{where}.content: must be a string or a list of content blocks, and is {given}",
            param=f"{where}.content",
        )
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for j, block in enumerate(objects(content, f"{where}.content")):
        kind, at = block.get("type"), f"{where}.content.{j}"
        if kind == "tool_use":
            function = {
                "name": block.get("name"),
                "arguments": msgspec.json.encode(block.get("input") or {}).decode(),
            }
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            result, images = _tool_result(block.get("content"), f"{at}.content")
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": result}
            parts += images
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking") or ""))
        elif kind != "redacted_thinking":
            parts += _parts(block, at)
    if not (parts or calls or thoughts):
        return
    message: dict[str, Any] = {"role": role, "content": _plain(parts)}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    yield message


def _plain(parts: list[dict[str, Any]]) -> Any:
    """Text alone as a string, which every model takes; None where there is nothing."""
    if all(p["type"] == "text" for p in parts):
        return "\n\n".join(p["text"] for p in parts) if parts else None
    return parts


def _parts(block: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A block as parts of a chat message."""
    kind = block.get("type")
    source = block.get("source")
    form = source.get("type") if isinstance(source, dict) else None
    if kind == "text" and isinstance(block.get("text"), str):
        return [{"type": "text", "text": block["text"]}]
    if kind == "search_result":
        return [_text(*(block.get(k) for k in ("title", "source")), *_texts(block.get("content"), where))]
    if kind == "image" and isinstance(source, dict) and form == "url":
        return [{"type": "image_url", "image_url": {"url": _string(source, "url", where)}}]
    if kind == "image" and isinstance(source, dict) and form == "base64":
        return [{"type": "image_url", "image_url": {"url": _data_url(source, where)}}]
    if kind == "document" and isinstance(source, dict):
        about = [block.get("title"), block.get("context")]
        if form == "text" and isinstance(source.get("data"), str):
            return [_text(*about, source["data"])]
        if form == "base64":
            file = {"filename": block.get("title") or "document.pdf", "file_data": _data_url(source, where)}
            return [{"type": "file", "file": file}]
        if form == "content" and isinstance(source.get("content"), str):
            return [_text(*about, source["content"])]
        if form == "content":
            inner = objects(source.get("content"), f"{where}.source.content")
            head = [_text(*about)] if any(about) else []
            return [
                *head,
                *(p for k, b in enumerate(inner) for p in _parts(b, f"{where}.source.content.{k}")),
            ]
    described = repr(kind) if form is None else f"{kind!r} with a source of type {form!r}"
    raise RequestError(f"{where}: a block of type {described} can't be passed on", param=where)


def _text(*texts: Any) -> dict[str, Any]:
    return {"type": "text", "text": "\n".join(t for t in texts if isinstance(t, str) and t)}


def _texts(blocks: Any, where: str) -> list[str]:
    return [str(b.get("text") or "") for b in objects(blocks or [], f"{where}.content")]


def _data_url(source: Mapping[str, Any], where: str) -> str:
    return f"data:{_string(source, 'media_type', where)};base64,{_string(source, 'data', where)}"


def _string(source: Mapping[str, Any], field: str, where: str) -> str:
    value = source.get(field)
    if not isinstance(value, str):
        raise RequestError(f"{where}.source.{field}: must be a string", param=f"{where}.source.{field}")
    return value


def _tool_result(content: Any, where: str) -> tuple[str, list[dict[str, Any]]]:
    """The text, and what is no text: chat APIs take images and files only from the user."""
    if content is None or isinstance(content, str):
        return content or "", []
    blocks = objects(content, where)
    parts = [p for k, b in enumerate(blocks) for p in _parts(b, f"{where}.{k}")]
    texts = [p["text"] for p in parts if p["type"] == "text"]
    return "\n".join(texts), [p for p in parts if p["type"] != "text"]


def _tool_choice(choice: Any) -> dict[str, Any]:
    if choice is None:
        return {}
    if not isinstance(choice, dict) or choice.get("type") not in (*_CHOICE, "tool"):
        raise RequestError("tool_choice: type must be auto, any, tool or none", param="tool_choice")
    params: dict[str, Any] = {"tool_choice": _CHOICE.get(choice["type"])}
    if choice["type"] == "tool":
        params["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    if choice.get("disable_parallel_tool_use"):
        params["parallel_tool_calls"] = False
    return params


def _user(user: Any) -> dict[str, Any]:
    """Who asks, as chat APIs take it: an id longer than they allow goes on as its hash, the same each time."""
    if user is None:
        return {}
    if not isinstance(user, str):
        raise RequestError("metadata.user_id: must be a string", param="metadata.user_id")
    return {"user": user if len(user) <= _LONGEST_USER else sha256(user.encode()).hexdigest()}


def _thinking(thinking: Mapping[str, Any]) -> dict[str, Any]:
    """A thinking budget as the effort that chat APIs know."""
    if thinking.get("type") in (None, "disabled"):
        return {}
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int):
        return {"reasoning_effort": "medium"}
    return {"reasoning_effort": "low" if budget <= 2048 else "medium" if budget <= 8192 else "high"}


def _output(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What `output_config` asks, and `output_format`, its older form. An effort goes before a thinking budget."""
    config = optional_object(fields, "output_config")
    params: dict[str, Any] = {}
    if (effort := config.get("effort")) is not None:
        if effort not in _EFFORTS:
            raise RequestError(
                f"output_config.effort: must be one of {', '.join(_EFFORTS)}", param="output_config.effort"
            )
        params["reasoning_effort"] = effort
    where, form = "output_config.format", config.get("format")
    if form is None:
        where, form = "output_format", fields.get("output_format")
    if form is None:
        return params
    if not (
        isinstance(form, dict) and form.get("type") == "json_schema" and isinstance(form.get("schema"), dict)
    ):
        raise RequestError(f'{where}: must be {{"type": "json_schema", "schema": {{...}}}}', param=where)
    schema = {"name": "output", "schema": form["schema"], "strict": True}
    return params | {"response_format": {"type": "json_schema", "json_schema": schema}}
