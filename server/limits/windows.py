"""Requests and tokens a minute: sliding windows, in this process's memory, or in a Redis by the library `limits`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from heedful.server.config import ConfigError
from heedful.strategies import HeedfulError

now = time.time
MINUTE = 60
_UNLIMITED = 1 << 62


class Window(msgspec.Struct, frozen=True, gc=False):
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


class MinuteCount:
    """What is counted under one key, in this minute and the one before."""

    __slots__ = ("__weakref__", "before", "current", "minute")

    def __init__(self) -> None:
        self.minute = self.before = self.current = 0


class RatesInMemory:
    """The sliding windows of `limits` in this process's memory.

    Its own memory storage looks through every key after each hit: 180 us with 1,000 keys. Who counts a key for each
    request keeps its `MinuteCount`, which saves looking it up.
    """

    def __init__(self) -> None:
        self._counts: WeakValueDictionary[str, MinuteCount] = WeakValueDictionary()
        self._recent: set[MinuteCount] = set()
        """Those of this minute and the one before, whoever else has them; a count that nobody uses any more goes."""
        self._minute = 0

    def count(self, key: str) -> MinuteCount:
        """The one of a key, for as long as somebody has it."""
        if (found := self._counts.get(key)) is None:
            found = self._counts[key] = self.new(key)
        return found

    def new(self, key: str) -> MinuteCount:
        return MinuteCount()

    def together(self, counts: Sequence[MinuteCount]) -> AbstractContextManager[None]:
        """While it lasts nobody else counts these. Around whatever looks at counts or changes them."""
        return nullcontext()

    def turn(self, count: MinuteCount, minute: int) -> None:
        """To another minute than it stands at."""
        count.before = count.current if count.minute == minute - 1 else 0
        count.minute, count.current = minute, 0
        if minute != self._minute:
            self._minute = minute
            self._recent = {each for each in self._recent if each.minute >= minute - 1}
        self._recent.add(count)

    def look(self, keys: Sequence[str]) -> list[Window]:
        """How each stands, within `together`."""
        minute, into = divmod(now(), MINUTE)
        left, seen = MINUTE - into, []
        for key in keys:
            found = self._counts.get(key)
            if found is None or found.minute < minute - 1:
                seen.append(Window(0, 0.0, 0, left + MINUTE))
            elif found.minute < minute:
                seen.append(Window(found.current, left, 0, left + MINUTE))
            else:
                seen.append(Window(found.before, left, found.current, left + MINUTE))
        return seen

    def add(self, counts: Sequence[MinuteCount], amount: int) -> None:
        minute = int(now() // MINUTE)
        with self.together(counts):
            for count in counts:
                if count.minute != minute:
                    self.turn(count, minute)
                count.current += amount


class Rates:
    """Counts by key. `uri`: a Redis that several processes share (redis://...), else `memory`: this process's own, or
    that of all workers."""

    def __init__(self, uri: str | None = None, memory: RatesInMemory | None = None) -> None:
        self.memory = memory or RatesInMemory()
        self._pool: Any = None
        self._redis = None if uri is None else self._connected(uri)

    def _connected(self, uri: str) -> Any:
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
        return self._redis is not None

    async def look(self, keys: Sequence[str]) -> list[Window]:
        """How each stands."""
        if (redis := self._redis) is None:
            counts = [self.memory.count(key) for key in keys]
            with self.memory.together(counts):
                return self.memory.look(keys)
        found = await _at_once(redis.get_sliding_window(key, MINUTE) for key in keys)
        return [Window(*each) for each in found]

    async def hit(self, limits: Sequence[tuple[str, int]]) -> bool:
        """Counts one more of each, which were within their limits a moment ago; in Redis others may have come in
        between, and then some may not be."""
        assert self._redis is not None, "in memory whoever has the counts counts"
        asked = (self._redis.acquire_sliding_window_entry(key, limit, MINUTE) for key, limit in limits)
        return all(await _at_once(asked))

    async def charge(self, keys: Sequence[str], amount: int) -> None:
        """Counts what was used already, whatever the limit."""
        assert self._redis is not None, "in memory whoever has the counts counts"
        hit = self._redis.acquire_sliding_window_entry
        await _at_once(hit(key, _UNLIMITED, MINUTE, amount) for key in keys)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()


async def _at_once(asked: Iterable[Awaitable[Any]]) -> list[Any]:
    """Raises HeedfulError where Redis can't be asked: what can't be counted is not let through."""
    from redis.exceptions import RedisError

    try:
        return await asyncio.gather(*asked)
    except (RedisError, OSError) as error:
        raise HeedfulError(
            f"the Redis of `limits_storage` can't be asked: {type(error).__name__}",
            status=503,
            code="limits_unavailable",
            headers={"retry-after": "5"},
        ) from error
