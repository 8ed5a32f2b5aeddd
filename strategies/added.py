"""A prompt as the model was given it, with what was added to the client's own words told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heedful.strategies.context.norms import defused
from heedful.strategies.types import Context, Message, text_of

_KEPT = ("role", "name", "tool_calls", "tool_call_id")


def prompt_parts(context: Context) -> dict[str, Any]:
    """`{"messages": [{"role", "parts", ...}]}`, or `{"parts"}` for a raw prompt.

    Parts are `{"text"}`, one after the other the whole text, those that are not the client's with `"added": true`;
    what is no text is there by its `type`. A message that is none of the client's has `added` too. Tool calls stay.
    """
    own = context.original.messages
    if context.prompt is not None:
        return {"parts": _marked(context.prompt, [text_of(message) for message in own])}
    twins = _twins(context.messages, own)
    return {"messages": [_message(m, twin) for m, twin in zip(context.messages, twins, strict=True)]}


def _twins(given: Sequence[Message], own: Sequence[Message]) -> list[Message | None]:
    """For each message that was given the client's own that it is, or that is part of it.

    From the end, where a conversation goes on: what is added stands before it, in it, or between its turns.
    """
    twins: list[Message | None] = [None] * len(given)
    bound = len(given)
    for message in reversed(own):
        places = range(bound - 1, -1, -1)
        at = next((i for i in places if given[i] == message), None)
        if at is None:
            at = next((i for i in places if _holds(given[i], message)), None)
        if at is not None:
            twins[at], bound = message, at
    return twins


def _holds(given: Message, own: Message) -> bool:
    text, words = text_of(given), text_of(own)
    return given.get("role") == own.get("role") and bool(words) and (words in text or defused(words) in text)


def _message(given: Message, twin: Message | None) -> dict[str, Any]:
    told = {name: given[name] for name in _KEPT if given.get(name) is not None}
    if twin is None:
        told["added"] = True
    content = given.get("content")
    if isinstance(content, str):
        whole = twin is not None and content == twin.get("content")
        own = [content] if whole else [text_of(twin)] if twin is not None else []
        return told | {"parts": _marked(content, own)}
    left = _texts(twin)
    parts: list[dict[str, Any]] = []
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, Mapping) or not isinstance(text := part.get("text"), str):
            parts.append({"type": part.get("type") if isinstance(part, Mapping) else None})
        elif text in left:
            left.remove(text)
            parts.append({"text": text})
        else:
            parts.append({"text": text, "added": True})
    return told | {"parts": parts}


def _texts(message: Message | None) -> list[str]:
    """A message's texts, as they stand in it and with what norms take out."""
    content = message.get("content") if message is not None else None
    if isinstance(content, str):
        texts = [content]
    else:
        texts = [text_of({"content": [part]}) for part in content or ()]
    return [*texts, *(other for text in texts if (other := defused(text)) != text)]


def _marked(text: str, own: Sequence[str]) -> list[dict[str, Any]]:
    """A text in parts: what of it is one of the client's own, looked for from the end."""
    parts: list[dict[str, Any]] = []
    end = len(text)
    for words in reversed(own):
        for same in (words, defused(words), words.strip()):
            if same and (at := text.rfind(same, 0, end)) >= 0:
                _add(parts, text[at + len(same) : end], added=True)
                _add(parts, same, added=False)
                end = at
                break
    _add(parts, text[:end], added=True)
    return parts[::-1]


def _add(parts: list[dict[str, Any]], text: str, *, added: bool) -> None:
    if text:
        parts.append({"text": text, "added": True} if added else {"text": text})
