"""Anthropic's /v1/messages, translated once into the request that every strategy knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heedful.server import requests
from heedful.server.exchange import Body, Exchange, answer, respond
from heedful.server.wire.messages import MessagesWire
from heedful.strategies import Capability, ChatRequest, Message, MissingCapability, RequestError, Run

# Read here; every other field (temperature, top_p, top_k, vLLM's own, ...) travels on under its name.
_READ = frozenset(
    "model messages system max_tokens stop_sequences stream tools tool_choice metadata thinking alignment "
    "service_tier container context_management mcp_servers betas output_config cache_control".split()
)
# What only Anthropic's own servers do.
_THEIRS = ("container", "context_management", "mcp_servers")
_CHOICE: dict[str, Any] = {"auto": "auto", "any": "required", "none": "none"}


async def messages(request: Request) -> Response:
    """POST /v1/messages"""
    return await answer(request, _messages)


async def _messages(body: Body, target: requests.Target, run: Run) -> Response:
    chat = chat_request(body.fields, run.engine.model, run.engine.capabilities)
    wire = MessagesWire(id=f"msg_{uuid4().hex}", model=run.engine.model)
    return await respond(Exchange(target.plan.stream(chat, run), run, target, wire), stream=chat.stream)


def chat_request(fields: Mapping[str, Any], model: str, capabilities: Capability) -> ChatRequest:
    """Raises RequestError that names the field which can't be translated."""
    for field in _THEIRS:
        if fields.get(field):
            raise RequestError(f"{field}: only Anthropic's own servers have that", param=field)
    params: dict[str, Any] = {k: v for k, v in fields.items() if k not in _READ}
    limit = fields.get("max_tokens")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise RequestError("max_tokens: give a positive whole number", param="max_tokens")
    params["max_tokens"] = limit
    if stops := fields.get("stop_sequences"):
        params["stop"] = requests.listed(stops, "stop_sequences")
    if tools := fields.get("tools"):
        params["tools"] = [_tool(t, i) for i, t in enumerate(requests.objects(tools, "tools"))]
        params |= _tool_choice(fields.get("tool_choice"))
    user = requests.optional_object(fields, "metadata").get("user_id")
    if user is not None:
        params["user"] = user
    params |= _effort(requests.optional_object(fields, "thinking"))
    turns = requests.objects(fields.get("messages"), "messages")
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
    return ChatRequest(model, tuple(translated), params, requests.wants_stream(fields))


def _system(system: Any) -> list[Message]:
    if not system:
        return []
    if isinstance(system, str):
        return [{"role": "system", "content": system}]
    texts = [b.get("text") for b in requests.objects(system, "system")]
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
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for j, block in enumerate(requests.objects(content, f"{where}.content")):
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
            parts.append(_part(block, at))
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


def _part(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        return {"type": "text", "text": block["text"]}
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    if kind == "image" and source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": source.get("url")}}
    if kind == "image" and source.get("type") == "base64":
        url = f"data:{source.get('media_type')};base64,{source.get('data')}"
        return {"type": "image_url", "image_url": {"url": url}}
    if kind == "document" and source.get("type") == "text" and isinstance(source.get("data"), str):
        return {"type": "text", "text": source["data"]}
    raise RequestError(f"{where}: a block of type {kind!r} can't be passed on in this form", param=where)


def _tool_result(content: Any, where: str) -> tuple[str, list[dict[str, Any]]]:
    """The text, and what is no text: chat APIs take images only from the user."""
    if content is None or isinstance(content, str):
        return content or "", []
    parts = [_part(b, f"{where}.{k}") for k, b in enumerate(requests.objects(content, where))]
    texts = [p["text"] for p in parts if p["type"] == "text"]
    return "\n".join(texts), [p for p in parts if p["type"] != "text"]


def _tool(tool: Mapping[str, Any], i: int) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise RequestError(
            f"tools.{i}: {tool.get('type')!r} runs on Anthropic's servers only; give a tool of your own",
            param=f"tools.{i}",
        )
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema") or {"type": "object"}}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


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


def _effort(thinking: Mapping[str, Any]) -> dict[str, Any]:
    """A thinking budget as the effort that chat APIs know."""
    if thinking.get("type") in (None, "disabled"):
        return {}
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int):
        return {"reasoning_effort": "medium"}
    return {"reasoning_effort": "low" if budget <= 2048 else "medium" if budget <= 8192 else "high"}
