"""Counts that several workers keep together: a file that all of them have mapped into memory.

What was used in a minute is one count, which any worker changes while it holds the file's lock; what is under way is
a count of each worker's, since it ends with the worker. The kernel takes a lock from a process that is killed.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from mmap import mmap
from pathlib import Path
from types import TracebackType

from heedful.server.limits import windows
from heedful.server.limits.windows import MinuteCount, RatesInMemory
from heedful.strategies import EngineUnavailable

_BUCKETS, _SLOTS = 4096, 16
_LOOKED = 4  # buckets in a row in which a name may be
_WINDOW = struct.Struct("=Qqqq")  # a name's digest, the minute, what was used in the one before, and in it
_NUMBER = struct.Struct("=q")


class SharedTable:
    """`workers`: how many there are; `number`: which this one is. Its predecessor's requests have ended with it.

    `path`: in a folder whose name nobody can guess, so that nobody finds names that lie in one bucket.
    Raises OSError, also where the disk has no room for it.
    """

    def __init__(self, path: Path, workers: int, number: int) -> None:
        self._stride = _WINDOW.size + _NUMBER.size * workers
        size = _BUCKETS * _SLOTS * self._stride
        self._secret = str(path).encode()[-64:]
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self._fd, 0, size)  # else a full disk kills whoever writes into the map
            self._map = mmap(self._fd, size)
        except OSError:
            os.close(self._fd)
            raise
        self._column = _WINDOW.size + _NUMBER.size * number
        with self:
            for at in range(0, size, self._stride):
                if _NUMBER.unpack_from(self._map, at + self._column)[0]:
                    _NUMBER.pack_into(self._map, at + self._column, 0)

    def __enter__(self) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)

    def digest(self, name: str) -> int:
        """What stands for a name; never 0."""
        return int.from_bytes(blake2b(name.encode(), digest_size=8, key=self._secret).digest()) or 1

    # -- under its lock

    def window(self, at: int, digest: int) -> tuple[int, int, int, int]:
        """Where a name stands by now, if it stood at `at`, and its minute, the use before and in it. Raises
        EngineUnavailable where there is no place."""
        whose, minute, before, current = _WINDOW.unpack_from(self._map, at)
        if whose == digest:
            return at, minute, before, current
        at = self._place(digest)
        return at, *_WINDOW.unpack_from(self._map, at)[1:]

    def set_window(self, at: int, digest: int, minute: int, before: int, current: int) -> None:
        _WINDOW.pack_into(self._map, at, digest, minute, before, current)

    def under_way(self, digest: int) -> int:
        """Of all workers."""
        return self._under_way(self._place(digest))

    def add_under_way(self, digest: int, more: int) -> None:
        """To this worker's."""
        at = self._place(digest) + self._column
        _NUMBER.pack_into(self._map, at, _NUMBER.unpack_from(self._map, at)[0] + more)

    def _under_way(self, at: int) -> int:
        return sum(n for (n,) in _NUMBER.iter_unpack(self._map[at + _WINDOW.size : at + self._stride]))

    def _place(self, digest: int) -> int:
        """A name's, which it may have taken from one of which nothing counts any more."""
        first, free = digest % _BUCKETS * _SLOTS, None
        now = int(windows.now() // windows.MINUTE)
        for slot in range(first, first + _LOOKED * _SLOTS):
            at = slot % (_BUCKETS * _SLOTS) * self._stride
            whose, minute, _, _ = _WINDOW.unpack_from(self._map, at)
            if whose == digest:
                return at
            if free is None and (whose == 0 or (minute < now - 1 and not self._under_way(at))):
                free = at
            if whose == 0:
                break
        if free is None:
            raise EngineUnavailable(
                "more keys with limits are in use than this server can count",
                code="limits_unavailable",
                headers={"retry-after": "60"},
            )
        _WINDOW.pack_into(self._map, free, digest, now, 0, 0)  # of now: nobody takes it at once
        return free


class SharedCount(MinuteCount):
    """One of a table: what it holds is so while `SharedRates.together` lasts."""

    __slots__ = ("at", "digest")

    def __init__(self, digest: int) -> None:
        super().__init__()
        self.at, self.digest = 0, digest


class SharedRates(RatesInMemory):
    """The sliding windows of all workers."""

    def __init__(self, table: SharedTable) -> None:
        super().__init__()
        self._table = table

    def new(self, key: str) -> MinuteCount:
        return SharedCount(self._table.digest(key))

    def together(self, counts: Sequence[MinuteCount]) -> _Together:
        return _Together(self._table, [count for count in counts if isinstance(count, SharedCount)])


class _Together:
    """Nobody else counts meanwhile. Not to be entered within another."""

    def __init__(self, table: SharedTable, counts: Sequence[SharedCount]) -> None:
        self._table, self._counts = table, counts

    def __enter__(self) -> None:
        table = self._table
        table.__enter__()
        try:
            for count in self._counts:
                found = table.window(count.at, count.digest)
                count.at, count.minute, count.before, count.current = found
        except BaseException:
            table.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for count in self._counts:
            self._table.set_window(count.at, count.digest, count.minute, count.before, count.current)
        self._table.__exit__(kind, error, trace)


class SharedUnderWay:
    """Requests under way in all workers, by name."""

    def __init__(self, table: SharedTable) -> None:
        self._table = table

    def full(self, named: Iterable[tuple[str, int]]) -> tuple[str, int] | None:
        """The first of names that has as many as it may have; where none has, each has one more."""
        digests = [(self._table.digest(f"running/{name}"), name, most) for name, most in named]
        with self._table:
            for digest, name, most in digests:
                if self._table.under_way(digest) >= most:
                    return name, most
            for digest, _, _ in digests:
                self._table.add_under_way(digest, 1)
        return None

    def over(self, named: Iterable[tuple[str, int]]) -> None:
        """One of each is over."""
        with self._table:
            for name, _ in named:
                self._table.add_under_way(self._table.digest(f"running/{name}"), -1)

    def __getitem__(self, name: str) -> int:
        with self._table:
            return self._table.under_way(self._table.digest(f"running/{name}"))
