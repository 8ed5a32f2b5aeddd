"""Tools for chat templates that have no place for them: told in words, and the conversation's calls written out.

In the form that the `hermes` parser reads, which most families of small models have seen in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from heedful.strategies import Message

_TOLD = """You can call functions. Each is described by one line of JSON:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as JSON between tags, and nothing else:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument": "its value"}}}}
</tool_call>
What it returns comes back between <tool_response> tags."""


def written_out(messages: Iterable[Message], tools: Sequence[Any], *, has_system: bool) -> list[Message]:
    """The conversation as turns of plain text. `has_system`: whether the template takes a system message.

    Messages that have nothing to do with tools stay as they are.
    """
    turns: list[Message] = []
    for message in messages:
        if message.get("role") in ("tool", "function"):
            result = f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"
            if turns and turns[-1].get("role") == "user" and turns[-1].get("_result"):
                # Several results in a row are one turn: many templates want user and assistant in turn.
                turns[-1] = {**turns[-1], "content": f"{turns[-1]['content']}\n{result}"}
            else:
                turns.append({"role": "user", "content": result, "_result": True})
        elif message.get("tool_calls"):
            turns.append({"role": "assistant", "content": _calls(message)})
        else:
            turns.append(message)
    turns = [{k: v for k, v in turn.items() if k != "_result"} for turn in turns]
    lines = [msgspec.json.encode(t.get("function") or t).decode() for t in tools if isinstance(t, dict)]
    if not lines:
        return turns
    return _told(turns, _TOLD.format(tools="\n".join(lines)), "system" if has_system else "user")


def _told(turns: list[Message], text: str, role: str) -> list[Message]:
    """The text put before the first message of a role, which is made where there is none."""
    roles = ("system", "developer") if role == "system" else (role,)
    first = next((i for i, turn in enumerate(turns) if turn.get("role") in roles), None)
    if first is None:
        return [{"role": role, "content": text}, *turns]
    turn, content = turns[first], turns[first].get("content")
    if isinstance(content, list):
        content = [{"type": "text", "text": f"{text}\n\n"}, *content]
    else:
        content = f"{text}\n\n{content or ''}".rstrip()
    return [*turns[:first], {**turn, "content": content}, *turns[first + 1 :]]


def _calls(message: Message) -> str:
    written = []
    for call in message.get("tool_calls") or []:
        function: Mapping[str, Any] = (call.get("function") if isinstance(call, dict) else None) or {}
        arguments = function.get("arguments") or "{}"
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        name = msgspec.json.encode(function.get("name")).decode()
        written.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(filter(None, [_text(message.get("content")), *written]))


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    return content if isinstance(content, str) else ""
