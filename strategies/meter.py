"""Counts every model call that a strategy makes, so that no hidden call goes unaccounted; and watches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from heedful.strategies.arriving import Arriving
from heedful.strategies.engine import Capability, Continuation, Engine, Extension, Habits, Ledger
from heedful.strategies.trace import NOTHING, Span, Trace, asked, asking
from heedful.strategies.types import Call, Chunk, Event, Finish, Message, Usage, text_of


async def metered(
    events: AsyncGenerator[Event, None], ledger: Ledger, stage: str, call: Call, *, read: int | None = None
) -> AsyncGenerator[Event, None]:
    """One call's events, its cost booked at its Finish, or by what had come when it was cut off.

    `read`: the tokens of its prompt, about, where the call does not hold it.
    """
    ledger.check()
    arriving, over = Arriving(), False
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finish):
                    over = True
                    ledger.book(stage, event.usage)
                elif isinstance(event, Chunk):
                    arriving.take(event)
                yield event
    except Exception:
        over = over or not arriving.pieces  # refused, or down: it cost nothing
        raise
    finally:
        if not over:
            cost = arriving.cost(call) if read is None else Usage(read, arriving.tokens)
            ledger.cut_off(stage, call, cost)


class MeteredEngine:
    """The engine as one stage of one request sees it: the same engine, its cost booked under the stage."""

    __slots__ = ("_engine", "_ledger", "_stage", "_trace", "_within")

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        stage: str,
        trace: Trace | None = None,
        within: Span = NOTHING,
    ) -> None:
        self._engine, self._ledger, self._stage = engine, ledger, stage
        self._trace, self._within = trace or Trace(), within

    def inside(self, span: Span) -> MeteredEngine:
        """The same engine, asked for another part of the same stage."""
        return MeteredEngine(self._engine, self._ledger, self._stage, self._trace, span)

    def _span(self, operation: str, **facts: Any) -> Span:
        return self._trace.span(
            "call", operation, self._within, model=self._engine.model, stage=self._stage, **facts
        )

    @property
    def model(self) -> str:
        return self._engine.model

    @property
    def capabilities(self) -> Capability:
        return self._engine.capabilities

    @property
    def habits(self) -> Habits:
        return self._engine.habits

    @property
    def context_length(self) -> int | None:
        return self._engine.context_length

    @property
    def end_tokens(self) -> frozenset[int]:
        return self._engine.end_tokens

    def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        if "call" in self._trace.watched:
            return self._spanned(call)
        return metered(self._engine.chat(call), self._ledger, self._stage, call)

    async def _spanned(self, call: Call) -> AsyncGenerator[Event, None]:
        with self._span("text_completion" if call.prompt is not None else "chat", stream=call.stream) as span:
            source = self._engine.chat(call)
            if span:
                source = _watched(source, call, span, self._trace.content)
            async with aclosing(metered(source, self._ledger, self._stage, call)) as events:
                async for event in events:
                    yield event

    async def render(
        self,
        messages: Sequence[Message],
        *,
        continue_final: bool = False,
        shape: Mapping[str, Any] | None = None,
    ) -> list[int]:
        return await self._engine.render(messages, continue_final=continue_final, shape=shape)

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return await self._engine.tokenize(text, special=special)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._engine.detokenize(token_ids)

    async def extend(self, extension: Extension) -> list[Continuation]:
        prompt = len(extension.token_ids)
        with (
            self._ledger.reserved(prompt),
            self._span("text_completion", n=extension.n, prompt_tokens=prompt) as span,
            asking(span),
        ):
            try:
                results = await self._engine.extend(extension)
            except asyncio.CancelledError:
                self._cut_off(prompt)
                raise
            written = sum(len(r.token_ids) for r in results)
            span.set(completion_tokens=written)
        self._ledger.add(self._stage, prompt_tokens=prompt, completion_tokens=written)
        return results

    async def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Given tokens are read, not written: each continuation is one call, and all of it is prompt."""
        read = sum(len(prompt) + len(continuation) for continuation in continuations)
        with self._ledger.reserved(read), self._span("score", n=len(continuations)) as span, asking(span):
            try:
                results = await self._engine.score(prompt, continuations)
            except asyncio.CancelledError:
                self._cut_off(read)
                raise
            span.set(prompt_tokens=read, completion_tokens=0)
        for continuation in continuations:
            self._ledger.add(self._stage, prompt_tokens=len(prompt) + len(continuation), completion_tokens=0)
        return results

    def _cut_off(self, read: int) -> None:
        """What was written until then is not known: what was read is the greater part."""
        self._ledger.estimated = True
        self._ledger.add(self._stage, prompt_tokens=read, completion_tokens=0)


async def _watched(
    source: AsyncGenerator[Event, None], call: Call, span: Span, content: bool
) -> AsyncGenerator[Event, None]:
    """The events of a call, whose usage and, if wanted, texts stand in its span then, also of one that is cut off."""
    texts: list[str] = []
    try:
        async with aclosing(asked(source, span)) as events:
            async for event in events:
                if isinstance(event, Finish):
                    usage = event.usage
                    span.set(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
                    span.close()  # whoever has the end need not read on
                elif content and isinstance(event, Chunk):
                    texts.append(event.text())
                yield event
    finally:
        if content:
            told = [(str(m.get("role")), text_of(m)) for m in call.messages]
            if call.prompt is not None:
                told = [("user", call.prompt)]
            span.set(content={"input": told, "output": "".join(texts)})
