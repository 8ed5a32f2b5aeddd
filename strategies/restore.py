"""Placeholders in an answer turned back into what they stand for, however the answer is cut into pieces."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from heedful.strategies.types import Chunk, Context, Event, Finish, text_in

PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9_]*_[0-9]+\]")
"""What a placeholder looks like. It holds no character that JSON would escape, and one bracket of each kind."""
_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
_Channel = tuple[Any, ...]


def in_json(text: str) -> str:
    """A text as it stands within a JSON string."""
    return msgspec.json.encode(text).decode()[1:-1]


class Restorer:
    """One text that comes in pieces. Held back is only what may still become a placeholder."""

    __slots__ = ("_held", "_values")

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can go out now."""
        text = self._held + piece
        self._held = ""
        if "[" not in text:
            return text
        end = 0
        done = []
        for match in PLACEHOLDER.finditer(text):
            done += [text[end : match.start()], self._values.get(match[0], match[0])]
            end = match.end()
        rest = text[end:]
        at = rest.rfind("[")
        if at >= 0 and any(p.startswith(rest[at:]) for p in self._values):
            rest, self._held = rest[:at], rest[at:]
        return "".join((*done, rest))

    def rest(self) -> str:
        """What was held back and has become nothing."""
        held, self._held = self._held, ""
        return held


async def restored(events: AsyncGenerator[Event, None], context: Context) -> AsyncGenerator[Event, None]:
    """The same events with the values of `context.restore` in texts, reasoning and tool calls' arguments."""
    answer = _Restoring(context)
    async with aclosing(events) as source:
        async for event in source:
            if isinstance(event, Chunk):
                for chunk in answer.chunks(event):
                    yield chunk
            else:
                if isinstance(event, Finish) and (left := answer.left()):
                    yield Chunk(left)
                yield event


class _Restoring:
    """All texts of an answer: each choice has several, told apart by where they stand in it."""

    def __init__(self, context: Context) -> None:
        self._plain = context.restore
        self._escaped = {placeholder: in_json(value) for placeholder, value in context.restore.items()}
        self._content = self._escaped if _wants_json(context.params) else self._plain
        self._texts: dict[int, dict[_Channel, Restorer]] = {}

    def chunks(self, chunk: Chunk) -> Iterator[Chunk]:
        choices = []
        for choice in chunk.choices:
            index = choice.get("index", 0)
            delta = dict(choice.get("delta") or {})
            # What was held back of a text goes out before another begins.
            begun = {name for name in _TEXTS if delta.get(name)}
            if (begun or delta.get("tool_calls")) and (before := self._rest(index, _TEXTS, but=begun)):
                yield Chunk([{"index": index, "delta": before}])
            self._restore(index, delta)
            if choice.get("finish_reason") is not None:
                _append(delta, self._all_left(index))
            choices.append({**choice, "delta": delta})
        yield Chunk(choices)

    def left(self) -> list[dict[str, Any]]:
        """Of choices whose end was not told."""
        left = {index: self._all_left(index) for index in self._texts}
        return [{"index": index, "delta": delta} for index, delta in left.items() if delta]

    def _restore(self, index: int, delta: dict[str, Any]) -> None:
        for name in _TEXTS:
            if delta.get(name):
                values = self._content if name == "content" else self._plain
                delta[name] = self._fed(index, (name,), text_in(delta[name]), values)
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [
                self._call(index, call.get("index", i), call) for i, call in enumerate(calls)
            ]
        if called := delta.get("function_call"):
            delta["function_call"] = self._argued(
                index, ("function_call",), called, "arguments", self._escaped
            )

    def _call(self, index: int, place: Any, call: Mapping[str, Any]) -> dict[str, Any]:
        whole = dict(call)
        for kind, argument, values in (
            ("function", "arguments", self._escaped),
            ("custom", "input", self._plain),
        ):
            if call.get(kind):
                whole[kind] = self._argued(index, (place, kind, argument), call[kind], argument, values)
        return whole

    def _argued(
        self, index: int, channel: _Channel, function: Mapping[str, Any], name: str, values: Mapping[str, str]
    ) -> dict[str, Any]:
        given = function.get(name)
        if not isinstance(given, str):
            return dict(function)
        return {**function, name: self._fed(index, channel, given, values)}

    def _fed(self, index: int, channel: _Channel, piece: str, values: Mapping[str, str]) -> str:
        texts = self._texts.setdefault(index, {})
        if channel not in texts:
            texts[channel] = Restorer(values)
        return texts[channel].feed(piece)

    def _rest(self, index: int, names: tuple[str, ...], *, but: set[str]) -> dict[str, Any]:
        texts = self._texts.get(index, {})
        rests = {name: texts[name,].rest() for name in names if (name,) in texts and name not in but}
        return {name: rest for name, rest in rests.items() if rest}

    def _all_left(self, index: int) -> dict[str, Any]:
        delta = self._rest(index, _TEXTS, but=set())
        for channel, text in self._texts.get(index, {}).items():
            if not (rest := text.rest()):
                continue
            if channel == ("function_call",):
                delta["function_call"] = {"arguments": rest}
            else:
                place, kind, argument = channel
                delta.setdefault("tool_calls", []).append({"index": place, kind: {argument: rest}})
        return delta


def _append(delta: dict[str, Any], left: Mapping[str, Any]) -> None:
    for name, value in left.items():
        if name == "tool_calls":
            delta[name] = [*(delta.get(name) or ()), *value]
        elif name == "function_call":
            before = delta.get(name) or {}
            delta[name] = {**before, "arguments": (before.get("arguments") or "") + value["arguments"]}
        else:
            delta[name] = (delta.get(name) or "") + value


def _wants_json(params: Mapping[str, Any]) -> bool:
    form, wanted = params.get("response_format"), params.get("structured_outputs")
    asked = isinstance(form, dict) and form.get("type") in ("json_object", "json_schema")
    return asked or (isinstance(wanted, dict) and bool(wanted.get("json") or wanted.get("json_object")))
