"""What upstreams send in dialects of their own, made canonical as it comes in, so that nobody has to guess later.

A canonical choice has an `index`; its `delta` holds text in `content`, thoughts in `reasoning_content` (both are
strings), and tool calls with an `index` of their own, counted from 0; the first piece has the id and the whole name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from heedful.server.engines.upstream.canonical_calls import Calls, joined
from heedful.strategies import Chunk, Event, Finish, HeedfulError

Nonsense = Callable[[str], HeedfulError]
"""Makes the error for an answer that is not what the API promises, from what is wrong with it."""

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_THINKING = frozenset({"thinking", "reasoning", "reasoning_text", "reasoning_content", "summary_text"})


def whole(chunk: Chunk, nonsense: Nonsense) -> Chunk:
    """An answer that came in one piece."""
    places = [place for c in chunk.choices if (place := _index(c)) is not None]
    if len(set(places)) < len(chunk.choices):
        places = list(range(len(chunk.choices)))
    choices = []
    for place, choice in zip(places, chunk.choices, strict=True):
        if "delta" not in choice:  # of a raw completion
            choices.append({**choice, "index": place})
            continue
        calls = Calls(nonsense)
        delta = _delta(choice.get("delta") or {}, nonsense)
        said = calls.take(delta.pop("tool_calls", None), apart=True) + calls.end()
        choices.append(_choice(choice, place, delta, joined(said)))
    return Chunk(choices)


async def streamed(events: AsyncGenerator[Event, None], nonsense: Nonsense) -> AsyncGenerator[Event, None]:
    """An answer that comes in pieces. A tool call is held back until its name is known to be whole."""
    calls: dict[int, Calls] = {}
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Chunk):
                yield Chunk([_piece(c, i, calls, nonsense) for i, c in enumerate(event.choices)])
            elif isinstance(event, Finish):
                late = [
                    {"index": index, "delta": {"tool_calls": said}, "finish_reason": None}
                    for index, held in calls.items()
                    if (said := held.end())
                ]
                if late:  # without a finish reason
                    yield Chunk(late)
                yield event
            else:
                yield event


def _piece(
    choice: Mapping[str, Any], place: int, calls: dict[int, Calls], nonsense: Nonsense
) -> dict[str, Any]:
    told = _index(choice)
    index = place if told is None else told
    if "delta" not in choice:  # of a raw completion
        return {**choice, "index": index}
    delta = _delta(choice.get("delta") or {}, nonsense)
    if (given := delta.pop("tool_calls", None)) and index not in calls:
        calls[index] = Calls(nonsense)
    said = []
    if index in calls:
        said = calls[index].take(given)
        if choice.get("finish_reason"):
            said += calls[index].end()
    return _choice(choice, index, delta, said)


def _choice(
    choice: Mapping[str, Any], index: int, delta: dict[str, Any], calls: list[dict[str, Any]]
) -> dict[str, Any]:
    if calls:
        delta["tool_calls"] = calls
    # An empty reason in every piece, as some servers write it, is no end.
    return {**choice, "index": index, "delta": delta, "finish_reason": choice.get("finish_reason") or None}


def _index(choice: Mapping[str, Any]) -> int | None:
    value = choice.get("index")
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _delta(delta: Mapping[str, Any], nonsense: Nonsense) -> dict[str, Any]:
    shaped = dict(delta)
    content = shaped.get("content")
    thoughts: list[str] = []
    if content is not None and not isinstance(content, str):
        texts, refusals, rest = _sorted(_parts(content, nonsense), thoughts)
        shaped["content"] = texts if texts or not thoughts else None
        if not isinstance(shaped.get("refusal"), str | None):
            raise nonsense("the refusal of its answer is no string")
        if refusals:
            shaped["refusal"] = (shaped.get("refusal") or "") + refusals
        if rest:  # pictures and the like
            shaped["content_parts"] = rest
    for field in _THOUGHTS:
        value = shaped.get(field)
        if value is not None and not isinstance(value, str):
            shaped[field] = _text({"text": value})
    if "thinking" in shaped and not (shaped.get("reasoning_content") or shaped.get("reasoning")):
        shaped["reasoning_content"] = shaped.pop("thinking")
    if thoughts:
        shaped["reasoning_content"] = (shaped.get("reasoning_content") or "") + "".join(thoughts)
    if shaped.get("tool_calls") is not None and not isinstance(shaped["tool_calls"], list):
        raise nonsense("the tool calls of its answer are no list")
    return shaped


def _parts(content: Any, nonsense: Nonsense) -> Sequence[Any]:
    if isinstance(content, Mapping):
        return [content]
    if isinstance(content, list) and all(isinstance(p, str | Mapping) for p in content):
        return content
    raise nonsense("the content of its answer is neither a text nor a list of parts")


def _sorted(parts: Sequence[Any], thoughts: list[str]) -> tuple[str, str, list[Any]]:
    """Text and refusal of a list of parts, and the parts that are neither; thoughts go into `thoughts`."""
    texts, refusals, rest = [], [], []
    for part in parts:
        kind = None if isinstance(part, str) else part.get("type")
        if isinstance(part, str):
            texts.append(part)
        elif kind in _THINKING:
            thoughts.append(_text(part))
        elif isinstance(refusal := part.get("refusal"), str):
            refusals.append(refusal)
        elif isinstance(text := part.get("text"), str):
            texts.append(text)
        elif isinstance(text, Mapping) and isinstance(text.get("value"), str):
            texts.append(text["value"])
        elif text is not None or kind not in (None, "text"):
            rest.append(part)
    return "".join(texts), "".join(refusals), rest


def _text(part: Any) -> str:
    """The text of a thought: a string, or parts in parts."""
    if isinstance(part, str):
        return part
    if isinstance(part, list):
        return "".join(map(_text, part))
    if isinstance(part, Mapping):
        fields = ("thinking", "reasoning", "text", "content", "summary")
        return next((_text(part[f]) for f in fields if part.get(f)), "")
    return ""
