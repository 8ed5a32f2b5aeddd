"""Speculative rejection: many samples begin, and those that look worst so far are broken off as they grow.

Sun et al. 2024, "Fast Best-of-N Decoding via Speculative Rejection" (arXiv 2410.20290, algorithm 1): at each check
all samples, finished ones too, are ranked by the score of what they have said, and a share of them goes. There a
check comes when memory is full; here at `after` tokens, and at twice as many each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from heedful.strategies.answer import Choice
from heedful.strategies.arriving import Arriving
from heedful.strategies.decode.aborted import book
from heedful.strategies.run import Run
from heedful.strategies.tasks import together
from heedful.strategies.types import Call, Chunk, Finish, Usage

Rank = tuple[float, ...]


class Race:
    """Samples under way, each a call of its own, so that it can be broken off by itself.

    `rank` ranks what a sample has said so far; `finished` is told of each that is over, and says how it ranks.
    """

    def __init__(
        self,
        run: Run,
        calls: Sequence[Call],
        *,
        rank: Callable[[Choice], Awaitable[Rank]],
        finished: Callable[[Choice], Awaitable[Rank]],
    ) -> None:
        self._run, self._calls = run, calls
        self._rank, self._finished = rank, finished
        self._samples = [Choice(i) for i in range(len(calls))]
        self._tokens = [0] * len(calls)
        self._ranks: dict[int, Rank] = {}
        self._whole: set[int] = set()
        """Those that are booked: said to their end, judged or not."""
        self._news = asyncio.Event()
        self.usage = Usage()
        self.extra: Mapping[str, Any] = {}
        self.rejected: list[tuple[int, int]] = []
        """Which were broken off, and after how many tokens."""

    async def run(self, *, share: float, after: int, wanted: int, enough: asyncio.Event) -> None:
        """Until all that are left are over, or enough have passed. At least `wanted` are left."""
        tasks = {i: asyncio.ensure_future(self._read(i)) for i in range(len(self._calls))}
        for task in tasks.values():
            task.add_done_callback(lambda _: self._news.set())
        left = list(tasks)
        try:
            while not enough.is_set() and (going := [i for i in left if not tasks[i].done()]):
                await self._news.wait()
                self._news.clear()
                for task in tasks.values():
                    if task.done() and not task.cancelled():
                        task.result()
                going = [i for i in left if not tasks[i].done()]
                growing = [i for i in going if i not in self._whole]
                if not growing or min(self._tokens[i] for i in growing) < after:
                    continue
                kept = max(wanted, round((1 - share) * len(left)))
                ranks = await self._ranked(left)
                left.sort(key=lambda i: ranks[i], reverse=True)
                for i in left[kept:]:
                    if i in growing and i not in self._whole:
                        self.rejected.append((i, self._tokens[i]))
                        tasks[i].cancel()
                left, after = left[:kept], 2 * after
            if not enough.is_set():
                await asyncio.gather(*(tasks[i] for i in left))
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        for i in range(len(self._calls)):
            if i not in self._whole:
                self.usage += await book(self._run, self._calls[i], [self._samples[i].text])

    async def _ranked(self, left: Sequence[int]) -> dict[int, Rank]:
        open_ones = [i for i in left if i not in self._ranks]
        found = await together(self._rank_of(i) for i in open_ones)
        return {i: self._ranks[i] for i in left if i in self._ranks} | dict(
            zip(open_ones, found, strict=True)
        )

    async def _rank_of(self, i: int) -> Rank:
        return await self._rank(self._samples[i])

    async def _read(self, i: int) -> None:
        arriving = Arriving()
        async with aclosing(self._run.engine.chat(self._calls[i])) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    arriving.take(event)
                    for piece in event.choices:
                        self._samples[i].add(piece)
                    self._tokens[i] = arriving.tokens
                    self._news.set()
                elif isinstance(event, Finish):
                    self.usage += event.usage
                    self.extra = self.extra or event.extra
                    self._whole.add(i)
                    break
        self._ranks[i] = await self._finished(self._samples[i])
