"""What there is to read: of an answer, tool calls included, and of a conversation's messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from heedful.strategies.answer import Choice
from heedful.strategies.types import Message

_SPOKEN = ("text", "refusal", "thinking")
"""Fields of a message's parts that hold words."""


def text_to_judge(choice: Choice) -> str:
    """What a choice says and what it calls, as text: `name`, then a line for each argument. "" where it is nothing.

    Arguments stand there as a tool reads them and not as JSON escapes them, so that no word hides from a pattern.
    """
    return "\n".join(filter(str.strip, (choice.text, calls_in(choice.message))))


def calls_tools(choice: Choice) -> bool:
    return bool(choice.message.get("tool_calls") or choice.message.get("function_call"))


def calls_in(message: Message) -> str:
    """A message's tool calls as text."""
    calls = list(message.get("tool_calls") or ())
    if called := message.get("function_call"):
        calls.append({"function": called})
    lines: list[str] = []
    for call in calls:
        function = call.get("function") or call.get("custom")
        if not isinstance(function, dict):
            lines += _told(function or "")
            continue
        lines.append(str(function.get("name") or ""))
        lines += _told(function.get("arguments") or function.get("input") or "")
    return "\n".join(lines)


def words_of(message: Message) -> str:
    """All words of a message, whatever kind of part they stand in; its tool calls too, and the name of who speaks."""
    content, name = message.get("content"), message.get("name")
    texts = [name] if isinstance(name, str) else []
    texts += [content] if isinstance(content, str) else []
    for part in content if isinstance(content, list) else ():
        texts += [part[name] for name in _SPOKEN if isinstance(part.get(name), str)]
    return "\n".join(filter(None, (*texts, calls_in(message))))


def unread(message: Message) -> list[str]:
    """The types of its parts that hold no words: images, sounds, files."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return [str(p.get("type")) for p in parts if not any(isinstance(p.get(name), str) for name in _SPOKEN)]


def _told(arguments: Any) -> Iterator[str]:
    """Each value on a line of its own, its name before it."""
    value = arguments
    if isinstance(arguments, str):
        try:
            value = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            pass  # as the model wrote it, then: it may have been cut off
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            left += reversed([(str(k), v) for k, v in value.items()])
            if name:
                yield f"{name}:"
        elif isinstance(value, list):
            left += [(name, v) for v in reversed(value)]
        else:
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            yield f"{name}: {text}" if name else text
