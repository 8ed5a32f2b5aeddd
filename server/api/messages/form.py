"""A chat conversation in Anthropic's form: what an alignment made of it, for an upstream that speaks that API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from heedful.strategies import Message
from heedful.strategies.types import text_of


def anthropic_form(messages: Sequence[Message]) -> dict[str, Any]:
    """`system` and `messages`."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer"):
            system.append(text_of(message))
            continue
        blocks = _result(message) if role == "tool" else _blocks(message)
        role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return {"messages": turns, **({"system": "\n\n".join(system)} if system else {})}


def _blocks(message: Message) -> list[dict[str, Any]]:
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    blocks = [_block(part) for part in parts]
    for call in message.get("tool_calls") or []:
        function = call.get("function") or {}
        given = msgspec.json.decode(function.get("arguments") or "{}")
        blocks.append(
            {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": given}
        )
    return blocks


def _result(message: Message) -> list[dict[str, Any]]:
    result = {"tool_use_id": message.get("tool_call_id"), "content": text_of(message)}
    return [{"type": "tool_result", **result}]


def _block(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") == "image_url":
        return {"type": "image", "source": _source(part["image_url"]["url"])}
    if part.get("type") == "file":
        return {"type": "document", "source": _source(part["file"]["file_data"])}
    return {"type": "text", "text": part.get("text") or ""}


def _source(url: str) -> dict[str, Any]:
    kind, comma, data = url.partition(";base64,")
    if comma and kind.startswith("data:"):
        return {"type": "base64", "media_type": kind.removeprefix("data:"), "data": data}
    return {"type": "url", "url": url}
