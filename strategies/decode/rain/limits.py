"""When a search ends before its answer does: a budget is spent, or the judge turns out to have no opinion."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from heedful.strategies.decode.rain.drafts import Counts
from heedful.strategies.decode.rain.tree import Leaf

T = TypeVar("T")


class Spent(Exception):
    """A budget is used up; the message names it."""


class NoOpinion(Exception):
    """All of the first judgements cancelled between the two orders."""


@dataclass(slots=True)
class Watch:
    """One choice's limits. `deadline` is in the event loop's time, and `timer` names who set it; `opinion_after` 0
    watches no opinions.
    """

    counts: Counts
    deadline: float | None = None
    timer: str = "max_seconds"
    max_drafted: int | None = None
    opinion_after: int = 0
    _judged: int = 0

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

    def saw(self, leaf: Leaf) -> None:
        """Raises NoOpinion when the last of the first judgements has cancelled like all before it."""
        if not self.opinion_after or leaf.opinion:
            self.opinion_after = 0  # one opinion is enough
            return
        self._judged += 1
        if self._judged >= self.opinion_after:
            self.opinion_after = 0
            raise NoOpinion
