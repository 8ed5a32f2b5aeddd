"""Requests and tokens a minute: sliding windows of the library `limits`, in this process or in Redis for several."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from heedful.server.config import ConfigError
from heedful.strategies import HeedfulError

now = time.time
MINUTE = 60
_UNLIMITED = 1 << 62


class Window(NamedTuple):
    """The minute before, weighted by how much of it still counts, and this one; each with the seconds until it is
    forgotten."""

    previous: int = 0
    previous_left: float = 0.0
    current: int = 0
    current_left: float = 0.0

    @property
    def used(self) -> int:
        return int(self.previous * self.previous_left / MINUTE) + self.current

    @property
    def reset(self) -> float:
        """Seconds until nothing counts any more."""
        return self.current_left if self.current else self.previous_left if self.previous else 0.0

    def wait(self, limit: int) -> float:
        """Seconds until one more is within the limit."""
        if self.used < limit:
            return 0.0
        if self.current < limit:
            return self.previous_left - (limit - self.current) * MINUTE / self.previous
        return max(0.0, self.current_left - MINUTE) + MINUTE * (1 - limit / self.current)


class _Storage(Protocol):
    """What is used of `limits.aio.storage`."""

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]: ...
    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool: ...


class InProcess:
    """The library's sliding window in this process's memory.

    Its own memory storage looks through every key after each hit: 180 us with 1,000 keys, where this takes 1.
    """

    def __init__(self) -> None:
        self._windows: dict[str, list[int]] = {}
        """By key: the number of the minute, and the counts of the one before and of it."""
        self._minute = 0

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        at = now()
        minute, left = int(at // expiry), expiry - at % expiry
        window = self._windows.get(key)
        if window is None or window[0] < minute - 1:
            return 0, 0.0, 0, left + expiry
        if window[0] < minute:
            return window[2], left, 0, left + expiry
        return window[1], left, window[2], left + expiry

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        previous, previous_left, current, current_left = await self.get_sliding_window(key, expiry)
        if Window(previous, previous_left, current, current_left).used + amount > limit:
            return False
        minute = int(now() // expiry)
        self._windows[key] = [minute, previous, current + amount]
        if minute != self._minute:
            self._minute = minute
            self._windows = {k: w for k, w in self._windows.items() if w[0] >= minute - 1}
        return True


class Rates:
    """Counts by key. `uri`: a Redis that several processes share (redis://...), else this process's memory."""

    def __init__(self, uri: str | None = None) -> None:
        self._pool: Any = None
        self._storage: _Storage = InProcess() if uri is None else self._redis(uri)

    def _redis(self, uri: str) -> Any:
        """Raises ConfigError where its client is not installed, or the address is none."""
        try:
            from limits.aio.storage import RedisStorage
            from redis.asyncio import ConnectionPool
        except ImportError as error:
            raise ConfigError(f"limits_storage: {error}; pip install 'heedful[redis]'") from error
        options: dict[str, Any] = {"implementation": "redispy", "key_prefix": "heedful"}
        try:
            self._pool = ConnectionPool.from_url(uri)
            return RedisStorage(uri, connection_pool=self._pool, **options)
        except Exception as error:
            raise ConfigError(f"limits_storage: {error}") from error

    @property
    def remote(self) -> bool:
        """Whether each question is a round trip."""
        return self._pool is not None

    async def look(self, keys: Sequence[str]) -> list[Window]:
        """How each stands."""
        return [Window(*w) for w in await self._each(self._look, keys)]

    async def hit(self, limits: Sequence[tuple[str, int]]) -> bool:
        """Counts one more of each, if all are within their limits; in Redis others may come in between."""
        hits = [(key, limit, 1) for key, limit in limits]
        return all(await self._each(self._acquire, hits))

    async def charge(self, keys: Sequence[str], amount: int) -> None:
        """Counts what was used already, whatever the limit."""
        await self._each(self._acquire, [(key, _UNLIMITED, amount) for key in keys])

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    async def _look(self, key: str) -> tuple[int, float, int, float]:
        return await self._storage.get_sliding_window(key, MINUTE)

    async def _acquire(self, hit: tuple[str, int, int]) -> bool:
        key, limit, amount = hit
        return await self._storage.acquire_sliding_window_entry(key, limit, MINUTE, amount)

    async def _each(self, ask: Callable[..., Awaitable[Any]], of: Sequence[Any]) -> list[Any]:
        """Raises HeedfulError where Redis can't be asked: what can't be counted is not let through."""
        if self._pool is None:
            return [await ask_one for ask_one in map(ask, of)]
        from redis.exceptions import RedisError

        try:
            return await asyncio.gather(*map(ask, of))
        except (RedisError, OSError) as error:
            raise HeedfulError(
                f"the Redis of `limits_storage` can't be asked: {type(error).__name__}",
                status=503,
                code="limits_unavailable",
                headers={"retry-after": "5"},
            ) from error
