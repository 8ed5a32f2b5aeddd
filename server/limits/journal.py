"""What was used a moment ago: lines in a file of this process's own, until they are folded into the database.

One write(2) of a line is what a request pays for outliving a killed process, where a transaction takes 20 times as
long. A process holds a lock on its journal for as long as it lives: a journal without one is of a process that was
killed, and whoever comes next folds what it left.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

_SUFFIX = ".journal"
_line = msgspec.json.Encoder().encode
Row = tuple[str, str, str, int]
"""Tenant, key ("" for none), day, tokens: one request."""
_row = msgspec.json.Decoder(Row).decode


class UsageJournal:
    """One process's. `size`: the bytes that were written to it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd, self.size = path, fd, 0
        self._torn = False

    @classmethod
    def beside(cls, database: Path) -> UsageJournal:
        """A new one. Raises OSError."""
        path = database.with_name(f"{database.stem}-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(path, fd)

    def write(self, row: Row) -> None:
        """Adds a line. Raises OSError where it is not there whole: the next one begins on a line of its own."""
        line = b"\n" + _line(row) + b"\n" if self._torn else _line(row) + b"\n"
        self._torn = True
        written = os.write(self._fd, line)
        self.size += written
        if written < len(line):
            raise OSError(f"{self.path}: the disk takes no more")
        self._torn = False

    def end(self) -> None:
        """Takes it away: all that it holds is folded."""
        self.path.unlink(missing_ok=True)
        os.close(self._fd)


@contextmanager
def abandoned(database: Path) -> Iterator[list[Path]]:
    """The journals of processes that are no more, nobody else's while this lasts."""
    held: list[tuple[int, Path]] = []
    try:
        for path in sorted(database.parent.glob(f"{database.stem}-*{_SUFFIX}")):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # folded by somebody else at this moment
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had the lock before may have folded it, and taken it away.
                if path.exists() and path.stat().st_ino == os.fstat(fd).st_ino:
                    held.append((fd, path))
                    continue
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(fd)
        yield [path for _, path in held]
    finally:
        for fd, _ in held:
            os.close(fd)


def rows(path: Path, begin: int) -> Iterator[Row]:
    """The lines from a byte on, but for what is torn."""
    with path.open("rb") as file:
        file.seek(begin)
        for line in file:
            try:
                yield _row(line)
            except msgspec.DecodeError:  # half a line, or none: of a full disk
                continue
