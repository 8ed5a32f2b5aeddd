"""Connections to one store's file, each with one owner at a time. No others are opened anywhere.

SQLite crashes where a connection is closed while another thread reads from it. So nobody closes what another uses: a
connection is lent, and whoever gives it back to a store that has been closed closes it. Files are told apart by
inode: one that was deleted, and perhaps made anew under its name, is not the one that was opened.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from heedful.retrieval.errors import DamagedStore, StoreError, UnknownStore
from heedful.retrieval.sqlite import Layout, opened

_LAYOUT = Layout(0x48454544, 1)
_BUSY = 30.0  # seconds to wait for another process that writes
_IDLE = 8  # connections kept open while nobody uses them
# Checking every page of a larger file would make opening it slow.
_CHECKED_BYTES = 64 << 20


class Connections:
    """Opens a store's file. Raises UnknownStore or DamagedStore."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UnknownStore(f"there is no store at {path}")
        self.path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed: StoreError | None = None
        self._inode = self._inode_now()
        with self._telling():
            _check(path)

    @contextmanager
    def lent(self) -> Iterator[sqlite3.Connection]:
        """A connection of one's own. Raises UnknownStore where the store is deleted, StoreError where closed."""
        with self._telling():
            with self._lock:
                self.raise_if_closed()
                connection = self._idle.pop() if self._idle else None
            connection = connection or self._connect()
            try:
                yield connection
            finally:
                broken = not _rolled_back(connection)
                with self._lock:
                    keep = not broken and self._closed is None and len(self._idle) < _IDLE
                    if keep:
                        self._idle.append(connection)
                if not keep:
                    connection.close()

    def stands(self) -> bool:
        """Whether the file that was opened is still the one of its name."""
        return self._closed is None and self._inode_now() == self._inode

    def raise_if_gone(self) -> None:
        """Raises UnknownStore where it stands no more."""
        if not self.stands():
            raise self._gone()

    def close(self, *, deleted: bool = False) -> None:
        """At once, whoever reads: those finish what they do, and let go of their connections then."""
        with self._lock:
            if self._closed is not None:
                return
            self._closed = self._gone() if deleted else StoreError(f"{self.path.name}: the store is closed")
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def raise_if_closed(self) -> None:
        """Raises UnknownStore where the store has been deleted, StoreError where it is closed."""
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """SQLite's errors as ours. A file that is deleted under a connection makes many of them, none of which is
        anything but that: a lock that is gone, a page that can't be read."""
        try:
            with store_errors(self.path):
                yield
        except StoreError as error:
            if isinstance(error.__cause__, sqlite3.Error):
                self.raise_if_closed()
                self.raise_if_gone()
            raise

    def _gone(self) -> UnknownStore:
        return UnknownStore(f"the store {self.path.stem!r} has been deleted")

    def _inode_now(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = opened(self.path, wait=_BUSY)
        except sqlite3.OperationalError:
            if self.path.is_file():
                raise
            raise self._gone() from None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        if self._inode_now() != self._inode:  # perhaps it is another store's
            connection.close()
            raise self._gone()
        return connection


@contextmanager
def new_file(path: Path) -> Iterator[sqlite3.Connection]:
    """A new file of ours for whoever fills it."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA page_size=8192")
        # From the beginning: two connections that change it at once don't wait for each other, one fails.
        connection.execute("PRAGMA journal_mode=WAL")
        _LAYOUT.write(connection)
        yield connection
    finally:
        connection.close()


def _rolled_back(connection: sqlite3.Connection) -> bool:
    """Whether nothing is left open of what its last user began."""
    try:
        connection.rollback()
    except sqlite3.Error:
        return False
    return True


def _check(path: Path) -> None:
    if path.stat().st_size == 0:
        raise DamagedStore(f"{path} is empty and no heedful store")
    with closing(opened(path, wait=_BUSY)) as connection:
        layout = Layout.of(connection)
        if layout.application != _LAYOUT.application:
            raise DamagedStore(f"{path} is a database of something else, no heedful store")
        if layout != _LAYOUT:
            raise DamagedStore(
                f"{path} has layout {layout.version}; this heedful reads {_LAYOUT.version}: use the version that "
                "made it"
            )
        if path.stat().st_size <= _CHECKED_BYTES:
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise DamagedStore(f"{path} is damaged ({problem}); restore it from a copy or an export")


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, with the file's name."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "malformed" in str(error):
            raise DamagedStore(f"{path} is damaged ({error})") from error
        raise StoreError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise DamagedStore(f"{path} is damaged or no heedful store ({error})") from error
