"""Reads one streamed answer, with as little work for a token as can be."""

from __future__ import annotations

from typing import Any

import msgspec

from heedful.server.engines.upstream.sse import SseParser


class Stage(msgspec.Struct, frozen=True):
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class TokenCounts(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    alignment_details: dict[str, Stage] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: TokenCounts | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Reading:
    """An answer as it comes in. Times are those that `feed` was told; comments (keep-alives) are no tokens."""

    __slots__ = ("_events", "done", "error", "first", "gaps", "last", "pieces", "usage")

    def __init__(self) -> None:
        self._events = SseParser()
        self.first: float | None = None
        self.last: float | None = None
        self.gaps: list[float] = []
        self.pieces: list[str] = []
        self.usage = TokenCounts()
        self.error: str | None = None
        self.done = False

    def feed(self, data: bytes, now: float) -> None:
        """Bytes that arrived at `now`. Raises ValueError for what is no chat completion stream."""
        for event in self._events.feed(data):
            if event == b"[DONE]":
                self.done = True
                continue
            chunk = _decode(event)
            if chunk.usage is not None:
                self.usage = chunk.usage
            if chunk.error is not None:
                self.error = message(chunk.error)
            for choice in chunk.choices:
                if (delta := choice.delta) is None:
                    continue
                text = delta.content or delta.reasoning or delta.reasoning_content
                if text or delta.tool_calls:
                    self._token(now)
                if text:
                    self.pieces.append(text)

    def _token(self, now: float) -> None:
        if self.last is None:
            self.first = now
        else:
            self.gaps.append(now - self.last)
        self.last = now


def message(error: Any) -> str:
    """The words of an error in OpenAI's shape."""
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)
