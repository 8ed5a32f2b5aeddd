"""When a search ends before its answer does: a budget is spent, or the judge turns out to have no opinion."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from heedful.strategies.decode.rain.notes import Counts

T = TypeVar("T")

_MARGIN = 1.0  # seconds before the server's own deadline at which a search ends gracefully


class Spent(Exception):
    """A budget is used up; the message names it."""


class NoOpinion(Exception):
    """All of the first judgements cancelled between the two orders."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A request's limits, shared by its choices.

    `max_drafted` bounds `counts.drafted` (tokens). `deadline` is in seconds of the event loop's clock, and `timer`
    names who set it. None: no limit.
    """

    counts: Counts
    max_drafted: int | None = None
    deadline: float | None = None
    timer: str = ""

    @classmethod
    def starting(
        cls, counts: Counts, max_drafted: int | None, max_seconds: float | None, server: float | None
    ) -> Budget:
        """A budget whose time runs from now on. `server`: the server's own deadline, in the event loop's seconds."""
        ends: list[tuple[float, str]] = []
        if max_seconds is not None:
            ends.append((asyncio.get_running_loop().time() + max_seconds, "max_seconds"))
        if server is not None:
            ends.append((server - _MARGIN, "of the server's request_timeout"))
        return cls(counts, max_drafted, *min(ends, default=(None, "")))

    async def within(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for some work as long as there is budget. Raises Spent."""
        if self.max_drafted is not None and self.counts.drafted >= self.max_drafted:
            work.close()
            raise Spent("max_drafted_tokens")
        try:
            async with asyncio.timeout_at(self.deadline):
                return await work
        except TimeoutError:
            raise Spent(self.timer) from None
