"""Events joined to whole answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from heedful.strategies.engine import Engine
from heedful.strategies.errors import StrategyError
from heedful.strategies.tasks import keep_alive
from heedful.strategies.types import Call, Chunk, Event, Finish, Message, Usage, text_in

# Said once, or again as a whole.
_NAMES = frozenset({"role", "id", "type"})


@dataclass(slots=True)
class Choice:
    """One answer of possibly several: OpenAI's message, and what stands beside it in a choice.

    The message's tool calls carry no `index`, which only pieces of a stream have; `places` are those they came by.
    """

    index: int
    message: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    places: list[int | None] = field(default_factory=list)

    @property
    def text(self) -> str:
        return text_in(self.message.get("content"))

    def add(self, choice: Mapping[str, Any]) -> None:
        """Takes in one choice of a chunk."""
        delta = choice.get("delta") or {}
        if calls := delta.get("tool_calls"):
            self._add_calls(calls)
        _grow(self.message, {k: v for k, v in delta.items() if not (k == "tool_calls" and v)})
        if choice.get("finish_reason") is not None:
            self.finish_reason = choice["finish_reason"]
        if choice.get("logprobs"):
            self.logprobs = _merge_logprobs(self.logprobs, choice["logprobs"])
        for key, value in choice.items():
            if key not in ("index", "delta", "finish_reason", "logprobs"):
                previous = self.extra.get(key)
                both_lists = isinstance(previous, list) and isinstance(value, list)
                self.extra[key] = previous + value if both_lists else value

    def _add_calls(self, pieces: list[Mapping[str, Any]]) -> None:
        """Pieces of streamed calls name their place by `index`; whole calls come without."""
        calls: list[dict[str, Any]] = list(self.message.get("tool_calls") or [])
        for piece in pieces:
            place = piece.get("index")
            rest = {k: v for k, v in piece.items() if k != "index"}
            if place is None or place not in self.places:
                self.places.append(place)
                calls.append(rest)
            else:
                at = self.places.index(place)
                calls[at] = dict(calls[at])
                _grow(calls[at], rest)
        self.message["tool_calls"] = calls

    def chunk(self) -> Chunk:
        """The whole choice as one piece of output."""
        delta = {k: v for k, v in self.message.items() if v is not None}
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        choice = {"index": self.index, "delta": delta, "finish_reason": self.finish_reason}
        return Chunk([{**choice, "logprobs": self.logprobs, **self.extra}])


@dataclass(slots=True)
class Answer:
    """A whole response."""

    choices: list[Choice]
    usage: Usage
    extra: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text if self.choices else ""


async def collect(events: AsyncGenerator[Event, None]) -> Answer:
    """Joins a stream of events. Raises `StrategyError` where it ends without a Finish."""
    choices: dict[int, Choice] = {}
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Chunk):
                for choice in event.choices:
                    index = choice.get("index", 0)
                    choices.setdefault(index, Choice(index)).add(choice)
            elif isinstance(event, Finish):
                ordered = [choices[i] for i in sorted(choices)]
                return Answer(ordered, event.usage, event.extra)
    raise StrategyError("the stream ended without a Finish event")


async def ask(engine: Engine, messages: list[Message], params: Mapping[str, Any]) -> Answer:
    """One whole hidden answer to a conversation."""
    return await collect(engine.chat(Call(tuple(messages), params)))


async def settled(work: Coroutine[Any, Any, Answer], every: float) -> AsyncGenerator[Event, None]:
    """Events of an answer that is settled before its first word leaves; until then a KeepAlive from time to time."""
    task = asyncio.create_task(work)
    async with aclosing(keep_alive(task, every)) as waiting:
        async for event in waiting:
            yield event
    answer = task.result()
    for choice in answer.choices:
        yield choice.chunk()
    yield Finish(answer.usage, answer.extra)


def _grow(whole: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Adds a piece of an object: texts and lists grow, objects grow inside, all else is what came last."""
    for key, value in piece.items():
        previous = whole.get(key)
        if key == "content" and isinstance(value, list):
            value = text_in(value)
        if key in _NAMES or previous is None:
            if value is not None or key not in whole:
                whole[key] = value
        elif isinstance(previous, str) and isinstance(value, str):
            whole[key] = previous + value
        elif isinstance(previous, list) and isinstance(value, list):
            whole[key] = [*previous, *value]
        elif isinstance(previous, dict) and isinstance(value, Mapping):
            whole[key] = dict(previous)
            _grow(whole[key], value)
        elif value is not None:
            whole[key] = value


def _merge_logprobs(old: dict[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old or {})
    for key, value in new.items():
        previous = merged.get(key)
        merged[key] = previous + value if isinstance(previous, list) and isinstance(value, list) else value
    return merged
