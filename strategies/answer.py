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
from heedful.strategies.types import Call, Chunk, Event, Finish, Message, Usage


@dataclass(slots=True)
class Choice:
    """One answer of possibly several: OpenAI's message, and what stands beside it in a choice."""

    index: int
    message: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.message.get("content") or ""

    def add(self, choice: Mapping[str, Any]) -> None:
        """Takes in one choice of a chunk."""
        _merge_delta(self.message, choice.get("delta") or {})
        if choice.get("finish_reason") is not None:
            self.finish_reason = choice["finish_reason"]
        if choice.get("logprobs"):
            self.logprobs = _merge_logprobs(self.logprobs, choice["logprobs"])
        for key, value in choice.items():
            if key not in ("index", "delta", "finish_reason", "logprobs"):
                previous = self.extra.get(key)
                both_lists = isinstance(previous, list) and isinstance(value, list)
                self.extra[key] = previous + value if both_lists else value

    def chunk(self) -> Chunk:
        """The whole choice as one piece of output."""
        delta = {k: v for k, v in self.message.items() if v is not None}
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


def _merge_delta(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for key, value in delta.items():
        previous = message.get(key)
        if key == "tool_calls" and value:
            message[key] = _merge_tool_calls(previous or [], value)
        elif key != "role" and isinstance(previous, str) and isinstance(value, str):
            message[key] = previous + value
        elif value is not None or key not in message:
            message[key] = value


def _merge_tool_calls(calls: list[dict[str, Any]], deltas: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Streamed tool calls come in pieces that name their place by `index`; whole ones come without."""
    calls = [dict(c) for c in calls]
    for delta in deltas:
        place = next((c for c in calls if "index" in delta and c.get("index") == delta["index"]), None)
        if place is None:
            calls.append({**delta, "function": dict(delta["function"])} if "function" in delta else {**delta})
            continue
        for key, value in delta.items():
            if key == "function":
                function = place.setdefault("function", {})
                for name, piece in value.items():
                    old = function.get(name)
                    function[name] = (
                        old + piece if isinstance(old, str) and isinstance(piece, str) else piece or old
                    )
            elif value is not None:
                place[key] = value
    return calls


def _merge_logprobs(old: dict[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old or {})
    for key, value in new.items():
        previous = merged.get(key)
        merged[key] = previous + value if isinstance(previous, list) and isinstance(value, list) else value
    return merged
