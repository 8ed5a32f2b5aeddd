"""OpenAI's /v1/responses, translated once into the request that every strategy knows. Nothing is stored."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from heedful.server import requests
from heedful.server.exchange import Body, Exchange, answer, respond
from heedful.server.wire.responses import ResponsesWire
from heedful.strategies import ChatRequest, Message, RequestError, Run

# Read here; every other field (temperature, user, metadata, vLLM's own, ...) travels on under its name.
_READ = frozenset(
    "model input instructions max_output_tokens stream stream_options tools tool_choice text reasoning "
    "top_logprobs include store truncation max_tool_calls background previous_response_id conversation prompt "
    "context_management alignment".split()
)
# What needs a server that remembers or works on after its answer.
_STATEFUL = ("previous_response_id", "conversation", "background", "prompt", "context_management")
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


async def responses(request: Request) -> Response:
    """POST /v1/responses"""
    return await answer(request, _responses)


async def _responses(body: Body, target: requests.Target, run: Run) -> Response:
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
        id=f"resp_{uuid4().hex}", created=int(time.time()), model=run.engine.model, echo=echo
    )
    return await respond(Exchange(target.plan.stream(chat, run), run, target, wire), stream=chat.stream)


def chat_request(fields: Mapping[str, Any], model: str) -> ChatRequest:
    """Raises RequestError that names the field which can't be translated."""
    for field in _STATEFUL:
        if fields.get(field):
            raise RequestError(
                f"{field}: this server keeps no responses; send the whole conversation in `input`",
                param=field,
            )
    params: dict[str, Any] = {k: v for k, v in fields.items() if k not in _READ}
    if (limit := fields.get("max_output_tokens")) is not None:
        params["max_completion_tokens"] = limit
    if tools := fields.get("tools"):
        params["tools"] = [_tool(t, i) for i, t in enumerate(requests.objects(tools, "tools"))]
        if (choice := fields.get("tool_choice")) is not None:
            params["tool_choice"] = _tool_choice(choice)
    if effort := requests.optional_object(fields, "reasoning").get("effort"):
        params["reasoning_effort"] = effort
    params |= _text(requests.optional_object(fields, "text"))
    if fields.get("top_logprobs"):
        params |= {"logprobs": True, "top_logprobs": fields["top_logprobs"]}
    messages = list(_messages(fields.get("input")))
    if instructions := fields.get("instructions"):
        if not isinstance(instructions, str):
            raise RequestError("instructions: must be a string", param="instructions")
        messages.insert(0, {"role": "system", "content": instructions})
    if not any(m["role"] != "system" for m in messages):
        raise RequestError("input: give a text or a list of at least one item", param="input")
    return ChatRequest(model, tuple(messages), params, requests.wants_stream(fields))


def _messages(given: Any) -> Iterator[Message]:
    """Items as messages: an assistant's reasoning, text and calls in a row are one message."""
    if isinstance(given, str):
        yield {"role": "user", "content": given}
        return
    mine: dict[str, Any] = {}
    for i, item in enumerate(requests.objects(given, "input")):
        where, kind = f"input.{i}", item.get("type", "message")
        if kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            mine.setdefault("tool_calls", []).append(call)
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
            yield _other(item, kind, where)
    if mine:
        yield _assistant(mine)


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
    if kind == "function_call_output":
        output = item.get("output")
        text = output if isinstance(output, str) else _joined(output, where)
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": text}
    raise RequestError(f"{where}: an item of type {kind!r} can't be passed on", param=where)


def _content(content: Any, where: str) -> Any:
    if isinstance(content, str):
        return content
    parts = [
        _part(p, f"{where}.content.{j}") for j, p in enumerate(requests.objects(content, f"{where}.content"))
    ]
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
    raise RequestError(f"{where}: a part of type {kind!r} can't be passed on in this form", param=where)


def _joined(parts: Any, where: str) -> str:
    """The text of a list of parts."""
    return "\n".join(str(p.get("text") or "") for p in requests.objects(parts or [], where))


def _tool(tool: Mapping[str, Any], i: int) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise RequestError(
            f"tools.{i}: {tool.get('type')!r} runs on OpenAI's servers only; give a function",
            param=f"tools.{i}",
        )
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _tool_choice(choice: Any) -> Any:
    if choice in ("auto", "none", "required"):
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    raise RequestError("tool_choice: must be auto, none, required or a function", param="tool_choice")


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = {"verbosity": text["verbosity"]} if text.get("verbosity") else {}
    form = requests.optional_object(text, "format")
    if form.get("type") == "json_schema":
        schema = {k: v for k, v in form.items() if k != "type"}
        params["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.get("type") == "json_object":
        params["response_format"] = {"type": "json_object"}
    return params
