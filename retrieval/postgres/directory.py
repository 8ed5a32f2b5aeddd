"""Which stores there are, in memory: who asks on an event loop never waits for the database.

A thread reads one number twenty times a second, which is another after every store that is made, dropped or embedded
anew and after every erasure, whoever did it; then it reads the list. Reading is chosen over LISTEN, as it finds by
itself back to a server that was away, and needs no connection that a pooler would have to keep. Items are not its
affair: they are read from the database by every search.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psycopg

from heedful.retrieval.errors import StoreError
from heedful.retrieval.postgres.connections import ConnectionPool, PgConnection

EVERY = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Listed:
    """A store: its number, which vectors it has, and the write that erased something last."""

    id: int
    generation: int
    erased: int


Entries = Mapping[tuple[str, str], Listed]
"""By tenant and name."""


class Directory:
    """Everybody's stores in one schema. The first question blocks, and starts the thread."""

    def __init__(self, connections: ConnectionPool) -> None:
        self._connections = connections
        self._lock = threading.Lock()
        self._entries: Entries | None = None
        self._changes = -1
        self._erased: dict[int, tuple[int, Callable[[], None]]] = {}  # by store: up to where, whom to tell
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def entries(self) -> Entries:
        """As of at most EVERY seconds ago, or of when the database was last to be reached. Raises StoreError where
        it never was."""
        return self.look() if self._entries is None else self._entries

    def get(self, tenant: str, name: str) -> Listed | None:
        return self.entries().get((tenant, name))

    def look(self) -> Entries:
        """As of now. Blocks."""
        changes, entries = self._connections.read(_read)
        with self._lock:
            if changes > self._changes or self._entries is None:
                self._changes, self._entries = changes, entries
                self._tell(entries)
            if self._thread is None and not self._end.is_set():
                self._thread = threading.Thread(target=self._watch, name="stores-directory", daemon=True)
                self._thread.start()
            return self._entries

    def on_erasure(self, entry: Listed, tell: Callable[[], None]) -> None:
        """`tell` is called after each erasure from a store, by whomever, that comes after what `entry` knows."""
        with self._lock:
            self._erased[entry.id] = entry.erased, tell

    def close(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _tell(self, entries: Entries) -> None:
        now = {entry.id: entry.erased for entry in entries.values()}
        for id, (known, tell) in list(self._erased.items()):
            if id not in now:
                del self._erased[id]
            elif now[id] > known:
                self._erased[id] = now[id], tell
                tell()

    def _watch(self) -> None:
        while not self._end.wait(EVERY):
            try:
                changes = self._connections.read(_changes)
                if changes < self._changes:  # another server has taken over, or a backup was put back
                    self._changes = -1
                if changes != self._changes:
                    self.look()
            except (StoreError, psycopg.Error):
                pass  # whoever asks the database is told; what is known stays until it is back


def _changes(db: PgConnection) -> int:
    found = db.execute("SELECT changes FROM state").fetchone()
    return int(found[0]) if found else 0


def _read(db: PgConnection) -> tuple[int, Entries]:
    """In one statement, so that number and list are of one moment."""
    query = "SELECT changes, id, tenant, name, generation, erased FROM state LEFT JOIN stores ON true"
    found = db.execute(query).fetchall()
    entries = {(r[2], r[3]): Listed(r[1], r[4], r[5]) for r in found if r[1] is not None}
    return int(found[0][0]), entries
