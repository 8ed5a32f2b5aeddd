"""Work done at once, and work waited for: nothing goes on after the one who asked for it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, TypeVar

from heedful.strategies.types import KeepAlive

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. The first failure cancels the others, and is raised once they have ended."""
    tasks = [asyncio.ensure_future(w) for w in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def keep_alive(task: asyncio.Task[Any], every: float) -> AsyncGenerator[KeepAlive, None]:
    """A KeepAlive every so many seconds until the task is done. Closing the generator cancels the task."""
    try:
        while not (await asyncio.wait({task}, timeout=every))[0]:
            yield KeepAlive()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
