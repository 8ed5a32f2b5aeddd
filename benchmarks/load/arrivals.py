"""When requests are sent: so many at a time, or so many a second whoever is still waiting."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

Send = Callable[[int, float | None], Coroutine[Any, Any, None]]
"""Sends one request: its index, and when it is meant to go (seconds of the cell's clock; None: now)."""
Clock = Callable[[], float]
"""Seconds since the cell began."""


class Load(Protocol):
    """How requests arrive."""

    @property
    def name(self) -> str: ...

    @property
    def concurrency(self) -> int:
        """How many requests a warm-up sends at once."""
        ...

    async def run(self, requests: int, send: Send, clock: Clock) -> None:
        """Sends requests 0, 1, …; returns when all have been answered."""
        ...


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed loop: each of so many workers sends its next request when its last one is answered."""

    concurrency: int

    @property
    def name(self) -> str:
        return f"closed {self.concurrency}"

    async def run(self, requests: int, send: Send, clock: Clock) -> None:
        indices = iter(range(requests))

        async def worker(mine: Iterator[int]) -> None:
            for index in mine:
                await send(index, None)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, requests)):
                group.create_task(worker(indices))


@dataclass(frozen=True, slots=True)
class Poisson:
    """An open loop: `rate` requests a second on average, at random, waiting for no answer.

    The times depend on seed and rate alone, so that every alignment meets the same arrivals.
    """

    rate: float
    seed: int = 0
    concurrency: int = 1

    @property
    def name(self) -> str:
        return f"poisson {self.rate}"

    def times(self, requests: int) -> list[float]:
        """When each request is to be sent: exponential gaps."""
        rng = random.Random(f"{self.seed}/{self.name}")
        return list(accumulate(rng.expovariate(self.rate) for _ in range(requests)))

    async def run(self, requests: int, send: Send, clock: Clock) -> None:
        async with asyncio.TaskGroup() as group:
            for index, at in enumerate(self.times(requests)):
                await asyncio.sleep(max(0.0, at - clock()))
                group.create_task(send(index, at))
