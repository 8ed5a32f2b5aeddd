"""Whose turn it is: so many requests at once, the others in line, and the lines of all tenants served fairly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

from heedful.server.access.settings import AdmissionSettings
from heedful.strategies import EngineUnavailable

_RETRY = 1  # seconds after which a client that found no place may ask again
_Place = asyncio.Future[None]


class UnderWay:
    """Requests that are under way in this process, by name."""

    def __init__(self) -> None:
        self._of: Counter[str] = Counter()

    def full(self, named: Iterable[tuple[str, int]]) -> tuple[str, int] | None:
        """The first of names that has as many as it may have; where none has, each has one more."""
        for name, most in named:
            if self._of.get(name, 0) >= most:
                return name, most
        for name, _ in named:
            self._of[name] = self._of.get(name, 0) + 1
        return None

    def over(self, named: Iterable[tuple[str, int]]) -> None:
        """One of each is over."""
        for name, _ in named:
            if (left := self._of[name] - 1) > 0:
                self._of[name] = left
            else:
                del self._of[name]

    def __getitem__(self, name: str) -> int:
        return self._of[name]


class FairLine:
    """A tenant that has fewest requests under way comes first, of those the one whose turn was longest ago.

    Where every place in line is taken, the tenant with the longest line gives up its last one to another.
    """

    def __init__(self, settings: AdmissionSettings) -> None:
        self._room = settings.running
        self._places = settings.waiting
        self._most = min(settings.per_tenant or self._room, self._room)
        self._held: Counter[str] = Counter()
        self._running = 0
        self._lines: dict[str, dict[_Place, None]] = {}
        """By tenant, those whose turn was longest ago first."""
        self._waiting = 0

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return self._waiting

    def has_room(self, tenant: str) -> bool:
        """Whether one more of a tenant's may run at once."""
        return self._running < self._room and self._held.get(tenant, 0) < self._most

    def check(self, tenant: str) -> None:
        """Raises EngineUnavailable where neither room nor a place in line is to be had."""
        if self.has_room(tenant) or self._waiting < self._places or self._longest(tenant) is not None:
            return
        raise _busy()

    def take(self, tenant: str) -> bool:
        """Whether there is room at once. Nobody who waits could have had it."""
        if not self.has_room(tenant):
            return False
        self._start(tenant)
        return True

    async def wait(self, tenant: str) -> None:
        """Until it is this request's turn. Cancelled, it leaves the line. Raises EngineUnavailable."""
        if self._waiting >= self._places:
            if (longest := self._longest(tenant)) is None:
                raise _busy()
            last, _ = self._lines[longest].popitem()
            self._left(longest)
            if not last.done():  # its client may be leaving at this moment
                last.set_exception(_busy())
        place: _Place = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, {})[place] = None
        self._waiting += 1
        try:
            await place
        except asyncio.CancelledError:
            if tenant in self._lines and place in self._lines[tenant]:
                del self._lines[tenant][place]
                self._left(tenant)
            elif place.done() and not place.cancelled() and place.exception() is None:
                self.leave(tenant)  # its turn had just come
            raise

    def leave(self, tenant: str) -> None:
        """A request that ran is over."""
        self._running -= 1
        if (held := self._held[tenant] - 1) > 0:
            self._held[tenant] = held
        else:
            del self._held[tenant]
        while self._lines and self._running < self._room and (following := self._next()) is not None:
            line = self._lines.pop(following)
            self._lines[following] = line  # behind those whose turn is still to come
            place = next(iter(line))
            del line[place]
            self._left(following)
            if not place.done():
                self._start(following)
                place.set_result(None)

    def _next(self) -> str | None:
        able = [tenant for tenant in self._lines if self._held[tenant] < self._most]
        return min(able, key=self._held.__getitem__, default=None)

    def _longest(self, tenant: str) -> str | None:
        """Whose line is so long that another request of `tenant` may take the last place in it."""
        longest = max(self._lines, key=lambda t: len(self._lines[t]), default=None)
        if longest is None or len(self._lines[longest]) <= len(self._lines.get(tenant, ())) + 1:
            return None
        return longest

    def _start(self, tenant: str) -> None:
        self._running += 1
        self._held[tenant] = self._held.get(tenant, 0) + 1

    def _left(self, tenant: str) -> None:
        self._waiting -= 1
        if not self._lines[tenant]:
            del self._lines[tenant]


def _busy() -> EngineUnavailable:
    return EngineUnavailable(
        "this server has as many requests as it takes; try again in a moment",
        code="server_busy",
        headers={"retry-after": str(_RETRY)},
    )
