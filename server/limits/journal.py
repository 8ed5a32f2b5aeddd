"""What was used a moment ago: lines in a file of this process's own, until they are folded into the database.

The file is mapped into memory: a line costs a copy of its bytes, which outlives a killed process as a write(2) does
and never waits, where a transaction takes 50 us and a system call lets other threads have the interpreter's lock. A
process holds a lock on its journal for as long as it lives: a journal without one is of a process that was killed,
and whoever comes next folds what it left.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path

import msgspec

SIZE = 1 << 20
_SUFFIX = ".journal"
_line = msgspec.json.Encoder().encode
Row = tuple[str, str, str, int]
"""Tenant, key ("" for none), day, tokens: one request."""
_row = msgspec.json.Decoder(Row).decode


class UsageJournal:
    """One process's. `used`: the bytes of it that are written."""

    def __init__(self, path: Path, lines: mmap) -> None:
        self.path, self.used, self._lines = path, 0, lines

    @classmethod
    def beside(cls, database: Path) -> UsageJournal:
        """A new one. Raises OSError, also where the disk has no room for all that it may hold."""
        path = database.with_name(f"{database.stem}-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(fd, 0, SIZE)
            return cls(path, mmap(fd, SIZE))  # which has the file from now on, and its lock
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def write(self, row: Row) -> bool:
        """Adds a line; whether there was room for it."""
        line = _line(row) + b"\n"
        begin, end = self.used, self.used + len(line)
        if end > SIZE:
            return False
        self._lines[begin:end] = line
        self.used = end
        return True

    def end(self) -> None:
        """Takes it away: all that it holds is folded."""
        self.path.unlink(missing_ok=True)
        self._lines.close()


def journals(database: Path) -> list[Path]:
    """All that lie there, of processes that live and that are no more."""
    return sorted(database.parent.glob(f"{database.stem}-*{_SUFFIX}"))


@contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Whether the process of a journal is no more; nobody else has it while this lasts. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False  # folded by somebody else at this moment
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had the lock before may have folded it, and taken it away.
        free = path.exists() and path.stat().st_ino == os.fstat(fd).st_ino
    except (BlockingIOError, FileNotFoundError):
        free = False
    try:
        yield free
    finally:
        os.close(fd)


def rows(path: Path, begin: int) -> Iterator[Row]:
    """The lines from a byte on, but for one whose writer was killed in the midst of it."""
    for line in path.read_bytes()[begin:].rstrip(b"\0").splitlines():
        try:
            yield _row(line)
        except msgspec.DecodeError:
            continue
