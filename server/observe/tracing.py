"""What is watched of each request, and where it stands in a trace that spans machines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from heedful.server.observe.facts import Facts
from heedful.strategies.trace import Kind, Span

COUNTED: frozenset[Kind] = frozenset({"retrieval", "verifier"})
"""Spans that metrics are made from."""
EVERYTHING: frozenset[Kind] = frozenset({"request", "stage", "call", "retrieval", "verifier", "search"})


class Beginning(Protocol):
    """Whoever exports spans: decides at a request's start whether it is part of a trace."""

    def begin(self, facts: Facts, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Sets `watched`, `origin` and `root` of the request's trace."""
        ...


class Tracing:
    """One server's. `running`: the requests under way."""

    def __init__(self) -> None:
        self.watched: frozenset[Kind] = frozenset()
        self.exporter: Beginning | None = None
        self.running = 0

    def begin(self, facts: Facts, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether the request's calls of other machines carry a context of our own."""
        if self.exporter is None:
            return False
        self.exporter.begin(facts, headers)
        return bool(facts.trace.root)


def onward(span: Span) -> dict[str, str]:
    """The headers (W3C Trace Context) of what is asked of another machine for this span; none without a trace."""
    if not span or span.trace is None or (origin := span.trace.origin) is None:
        return {}
    headers = {"traceparent": f"00-{origin.trace_id:032x}-{span.id:016x}-{origin.flags:02x}"}
    return headers | {"tracestate": origin.state} if origin.state else headers
