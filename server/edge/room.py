"""Room for the bodies of requests that have not been admitted yet: so many bytes for all of them.

A small body needs none. A larger one takes all that it will need before more than its beginning is read, and waits
for it in line: so none holds a part of the room and waits for the rest.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from heedful.strategies import EngineUnavailable

SMALL = 64 * 1024
"""Bytes that any body may have. A connection holds as many that nobody has read."""
_PLACES = 1000  # in line, each with a small body's bytes
_Turn = asyncio.Future[None]


class BodyRoom:
    """`size` bytes. A tenant has no more of them than are left to the others; what it has too much of waits.

    Who waits, waits in the order in which they came, but those whose tenant has its share: they are passed by. Where
    there is not enough left for the first, nobody behind takes it away.
    """

    def __init__(self, size: int) -> None:
        self.size, self.held = size, 0
        """Bytes, and how many of them are taken."""
        self._of: Counter[str] = Counter()
        self._line: dict[_Turn, tuple[str, int]] = {}

    @property
    def waiting(self) -> int:
        """Bodies that wait for room."""
        return len(self._line)

    async def take(self, tenant: str, size: int) -> None:
        """Until there is room. Raises EngineUnavailable where too many wait, and ValueError for what never fits."""
        if size > self.size:
            raise ValueError(f"{size} bytes can't be held where there is room for {self.size}")
        if not self._line and self._fits(tenant, size):
            self._hold(tenant, size)
            return
        if len(self._line) >= _PLACES:
            raise EngineUnavailable(
                "this server holds as many large requests as it takes; try again in a moment",
                code="server_busy",
                headers={"retry-after": "1"},
            )
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._line[turn] = tenant, size
        self._turns()
        try:
            await turn
        except asyncio.CancelledError:
            if self._line.pop(turn, None) is None:
                self.give(tenant, size)  # its turn had just come
            else:
                self._turns()  # of those who waited behind it
            raise

    def give(self, tenant: str, size: int) -> None:
        """Gives bytes back."""
        self.held -= size
        self._of[tenant] -= size
        if not self._of[tenant]:
            del self._of[tenant]
        self._turns()

    def _fits(self, tenant: str, size: int) -> bool:
        return self._of[tenant] + size <= self.size - self.held

    def _hold(self, tenant: str, size: int) -> None:
        self.held += size
        self._of[tenant] += size

    def _turns(self) -> None:
        for turn, (tenant, size) in list(self._line.items()):
            if self._fits(tenant, size):
                del self._line[turn]
                self._hold(tenant, size)
                if not turn.done():
                    turn.set_result(None)
            elif tenant not in self._of:
                return


class Place:
    """What one body has of a room."""

    __slots__ = ("_room", "_size", "_tenant")

    def __init__(self, room: BodyRoom, tenant: str, size: int) -> None:
        """Of what has been taken."""
        self._room, self._tenant, self._size = room, tenant, size

    def shrink(self, size: int) -> None:
        """Keeps so much of it at most; 0: it is left."""
        if size < self._size:
            more, self._size = self._size - size, size
            self._room.give(self._tenant, more)
