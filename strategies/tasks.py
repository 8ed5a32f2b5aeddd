"""Work done at once, and work waited for: nothing goes on after the one who asked for it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, TypeVar

from heedful.strategies.types import KeepAlive

T = TypeVar("T")


SOME = 16
"""How much small work is done at once: enough that a remote engine's round trips overlap, and no flood."""


async def together(work: Iterable[Coroutine[Any, Any, T]], at_once: int | None = None) -> list[T]:
    """All results in order, at most `at_once` under way (None: all).

    The first failure cancels the others, and is raised once they have ended.
    """
    given = list(work)
    room = asyncio.Semaphore(at_once or max(1, len(given)))

    async def one(coroutine: Coroutine[Any, Any, T]) -> T:
        async with room:
            return await coroutine

    tasks = [asyncio.ensure_future(w if at_once is None else one(w)) for w in given]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:  # who asked may be cancelled once more while the others end
            for coroutine in given:
                if getcoroutinestate(coroutine) is CORO_CREATED:
                    coroutine.close()


async def keep_alive(task: asyncio.Task[Any], every: float) -> AsyncGenerator[KeepAlive, None]:
    """A KeepAlive every so many seconds until the task is done. Closing the generator cancels the task."""
    try:
        while not (await asyncio.wait({task}, timeout=every))[0]:
            yield KeepAlive()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
