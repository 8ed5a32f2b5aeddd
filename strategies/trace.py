"""The record of what a request went through: notes for the client who asks, spans for the operator who watches."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from random import getrandbits
from types import TracebackType
from typing import Any, Literal, Self

from heedful.strategies.types import Context, Event

Kind = Literal["request", "stage", "call", "retrieval", "verifier", "search"]
MOST_SPANS = 2000
"""Spans of one request that are kept: a long search asks its model thousands of times."""
MOST_NODES = 10_000
"""Nodes of a search's tree that a trace shows at most, whoever asks for how many."""


class Span:
    """A stretch of a request's time, as a context manager. Times are `time.perf_counter()`'s.

    `facts` are plain values, never texts but under the key "content". What it raised is in `error`.
    """

    __slots__ = (
        "cancelled",
        "end",
        "error",
        "facts",
        "first",
        "id",
        "kind",
        "name",
        "parent",
        "start",
        "trace",
    )

    def __init__(
        self, trace: Trace | None, kind: Kind, name: str, parent: Span | None, facts: dict[str, Any]
    ) -> None:
        self.trace, self.kind, self.name, self.parent, self.facts = trace, kind, name, parent, facts
        self.id = getrandbits(64) or 1
        self.start = time.perf_counter()
        self.first: float | None = None
        """When the first piece of an answer came."""
        self.end: float | None = None
        self.error: BaseException | None = None
        self.cancelled = False

    def set(self, **facts: Any) -> None:
        """Adds facts."""
        self.facts.update(facts)

    def close(self, error: BaseException | None = None) -> None:
        """Ends it, once."""
        if self.end is None:
            self.end = time.perf_counter()
            self.cancelled = isinstance(error, GeneratorExit | CancelledError)
            self.error = None if self.cancelled else error

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close(error)


class _Nothing(Span):
    """Where nobody watches. One for all, and false."""

    __slots__ = ()

    def set(self, **facts: Any) -> None:
        pass

    def close(self, error: BaseException | None = None) -> None:
        pass

    def __bool__(self) -> bool:
        return False


NOTHING: Span = _Nothing(None, "request", "", None, {})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request stands in a trace that spans machines (W3C Trace Context)."""

    trace_id: int
    parent_id: int | None
    """The caller's span."""
    flags: int
    state: str
    """`tracestate` as the caller sent it."""


@dataclass(frozen=True, slots=True)
class TraceWish:
    """What a client that asks for the trace wants of it beside the notes.

    `prompt`: what the one that decodes was given. `live`: in a stream, each note as soon as it is made. `nodes`: of a
    search's tree at most, in place of the strategy's own option.
    """

    prompt: bool = False
    live: bool = False
    nodes: int | None = None


@dataclass(slots=True)
class Trace:
    """Notes in the order in which they were made, kept out of the event stream; and spans, where somebody watches."""

    started: float = field(default_factory=time.perf_counter)
    steps: list[dict[str, Any]] = field(default_factory=list)
    watched: frozenset[Kind] = frozenset()
    """The kinds of spans that are kept."""
    content: bool = False
    """Whether spans may hold texts."""
    spans: list[Span] = field(default_factory=list)
    left_out: int = 0
    """Spans beyond MOST_SPANS."""
    root: Span = NOTHING
    """The request's own."""
    origin: Origin | None = None
    floor: bool = False
    """Whether what is noted is of the server's floor, and marked so."""
    wish: TraceWish = TraceWish()
    given: Context | None = None
    """What the one that decodes was given; None where no model was asked, or not yet."""
    listeners: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    """Who is told of each note as soon as it is made."""

    def release(self) -> None:
        """Once all is over: the spans hold neither it nor the frames of what failed."""
        for span in (*self.spans, self.root):
            if span:
                span.trace = None
                if span.error is not None:
                    span.error.__traceback__ = None

    def of_floor(self) -> Trace:
        """The same record, as a step of the floor writes into it."""
        return replace(self, floor=True)

    def note(self, step: str, **facts: Any) -> None:
        """Adds one entry: which strategy, at what time (`at_ms` since the request came in), and JSON-able facts."""
        entry = self._entry(step, facts)
        self.steps.append(entry)
        self._tell(entry)

    def tell(self, step: str, **facts: Any) -> None:
        """What only those hear who listen now: progress, which a later note sums up."""
        if self.listeners:
            self._tell(self._entry(step, facts))

    def _entry(self, step: str, facts: dict[str, Any]) -> dict[str, Any]:
        at = round((time.perf_counter() - self.started) * 1000, 1)
        mark = {"floor": True} if self.floor else {}
        return {"step": step, "at_ms": at, **facts, **mark}

    def _tell(self, entry: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener(entry)

    def span(self, kind: Kind, name: str, within: Span = NOTHING, **facts: Any) -> Span:
        """Begins a span inside another; `NOTHING`, which is false, where nobody watches this kind."""
        if kind not in self.watched:
            return NOTHING
        if len(self.spans) >= MOST_SPANS:
            self.left_out += 1
            return NOTHING
        span = Span(self, kind, name, within or self.root or None, facts)
        self.spans.append(span)
        return span


ASKING: ContextVar[Span] = ContextVar("heedful.asking", default=NOTHING)
"""For whom an engine works at this moment: what goes to another machine takes the span's ids with it."""


@contextmanager
def asking(span: Span) -> Iterator[None]:
    """Calls of engines in here are made for `span`. Not over a `yield`: its reader would be in here as well."""
    token = ASKING.set(span or ASKING.get())
    try:
        yield
    finally:
        ASKING.reset(token)


async def asked(events: AsyncGenerator[Event, None], span: Span) -> AsyncGenerator[Event, None]:
    """The events of an engine that is asked for `span`, with the time of the first of them."""
    async with aclosing(events):
        with asking(span):
            first = await anext(events, None)
        if first is None:
            return
        span.first = time.perf_counter()
        yield first
        async for event in events:
            yield event
