"""The records' own SQLite file, beside the stores."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec

from heedful.retrieval.errors import DamagedStore, StoreError
from heedful.retrieval.items import iso
from heedful.retrieval.sqlite import Layout, rewrite, transaction
from heedful.retrieval.store.connections import store_errors
from heedful.server.records.digests import Digests
from heedful.server.records.record import Entry

NAME = "records.sqlite"  # not a store's: those end in .db
_LAYOUT = Layout(0x48454552, 1)
_BUSY = 30.0  # seconds to wait for another process that writes or reads
_EXPIRED_AT_ONCE, _PAGES_AT_ONCE = 500, 2000
_DAY = 86400.0
_TABLES = """
CREATE TABLE records (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, at REAL NOT NULL, tenant TEXT NOT NULL,
    key_id TEXT, model TEXT, alignment TEXT, verdict TEXT, users TEXT, body BLOB NOT NULL);
CREATE INDEX records_by_id ON records (id);
CREATE INDEX records_by_time ON records (tenant, at);
CREATE TABLE users (user TEXT NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (user, row)) WITHOUT ROWID;
CREATE TABLE kept (tenant TEXT PRIMARY KEY, days REAL NOT NULL) WITHOUT ROWID;
"""
# Keys of tenants that were purged: what was asked under one of them and ends later has no record.
_PURGED = "CREATE TABLE IF NOT EXISTS purged (key TEXT PRIMARY KEY) WITHOUT ROWID"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records; every condition must be met. `tenant` None: of all tenants. Times in seconds since 1970."""

    tenant: str | None = None
    id: str | None = None
    key: str | None = None
    user: str | None = None
    model: str | None = None
    alignment: str | None = None
    verdict: str | None = None
    since: float | None = None
    until: float | None = None


class RecordsFile:
    """Open with a folder; makes file and key where they are missing. Methods block. Raises StoreError."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        with store_errors(self.path):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self.digests = Digests(folder / "records.key")
                os.close(
                    os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
                )  # what people said is nobody else's
            except OSError as error:
                raise StoreError(f"{error.filename}: {error.strerror}") from error
            with closing(self._connect()) as db:
                _prepare(db, self.path)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA secure_delete=ON")
        return db

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """A connection of one's own."""
        with store_errors(self.path), closing(self._connect()) as db:
            yield db

    def inode(self) -> int | None:
        """Which file has this name now; None: none."""
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return None

    # -- reading

    def page(
        self, wanted: Wanted, *, after: int | None = None, limit: int = 100, oldest_first: bool = False
    ) -> list[tuple[int, bytes]]:
        """Up to `limit` records (JSON) with their rows, past row `after`, the newest first unless told otherwise."""
        conditions, values = ["1"], list[object]()

        def only(condition: str, value: object) -> None:
            if value is not None:
                conditions.append(condition)
                values.append(value)

        for column in ("tenant", "id", "model", "alignment", "verdict"):
            only(f"{column} = ?", getattr(wanted, column))
        only("key_id = ?", wanted.key)
        only("at >= ?", wanted.since)
        only("at < ?", wanted.until)
        if wanted.user is not None:
            only("row IN (SELECT row FROM users WHERE user = ?)", self.digests.name(wanted.user))
        only("row > ?" if oldest_first else "row < ?", after)
        order = "ASC" if oldest_first else "DESC"
        query = f"SELECT row, body FROM records WHERE {' AND '.join(conditions)} ORDER BY row {order} LIMIT ?"
        with self.opened() as db:
            return db.execute(query, [*values, limit]).fetchall()

    def count(self, tenant: str) -> int:
        """How many records there are of a tenant."""
        with self.opened() as db:
            found = db.execute("SELECT count(*) FROM records WHERE tenant = ?", [tenant]).fetchone()
        return int(found[0])

    def pages(self, wanted: Wanted, size: int = 500) -> Iterator[list[bytes]]:
        """All records, the oldest first, a page at a time; no reader keeps a writer waiting between two of them."""
        after = 0
        while page := self.page(wanted, after=after, limit=size, oldest_first=True):
            yield [body for _, body in page]
            after = page[-1][0]

    # -- writing, with a connection of `opened`

    def write(self, db: sqlite3.Connection, entries: Sequence[Entry], *, again: bool = False) -> None:
        """All of them in one transaction, or none; without those of keys that were purged with their tenant.

        `again`: without those that are in the file already.
        """
        with transaction(db):
            if again:
                entries = [entry for entry in entries if not _is_there(db, entry)]
            purged = {key for key in {e.key_id for e in entries} if _is_purged(db, key)}
            entries = [entry for entry in entries if entry.key_id not in purged] if purged else entries
            (row,) = db.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'records'"
            ).fetchone()
            rows = range(row + 1, row + 1 + len(entries))
            db.executemany(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (n, e.id, e.at, e.tenant, e.key_id, e.model, e.alignment, e.verdict, _joined(e), e.body)
                    for n, e in zip(rows, entries, strict=True)
                ],
            )
            users = [(user, n) for n, e in zip(rows, entries, strict=True) for user in e.users]
            db.executemany("INSERT INTO users VALUES (?, ?)", users)
            days = {e.tenant: e.keep_days for e in entries}
            db.executemany(
                "INSERT INTO kept VALUES (?, ?) ON CONFLICT DO UPDATE SET days = excluded.days "
                "WHERE days != excluded.days",
                list(days.items()),
            )

    def keep(self, db: sqlite3.Connection, tenant: str, days: float) -> None:
        """From now on all of a tenant's records are kept so long; nothing is written of one that has none: it may
        have been purged."""
        with transaction(db):
            db.execute("UPDATE kept SET days = ? WHERE tenant = ? AND days != ?", [days, tenant, days])

    def expire(self, db: sqlite3.Connection, now: float) -> bool:
        """Deletes some that have been kept long enough; whether there may be more. Gives pages back to the disk."""
        deleted = 0
        for tenant, days in db.execute("SELECT tenant, days FROM kept").fetchall():
            query = "SELECT row, users FROM records WHERE tenant = ? AND at < ? LIMIT ?"
            with transaction(db):
                rows = db.execute(query, [tenant, now - days * _DAY, _EXPIRED_AT_ONCE]).fetchall()
                _delete(db, rows)
            deleted = max(deleted, len(rows))
        # `execute` would take one step of it, which is one page.
        db.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
        return deleted == _EXPIRED_AT_ONCE

    def erase(self, db: sqlite3.Connection, tenant: str, user: str, by: str | None) -> int:
        """Deletes all records of a tenant's user so that no byte of them stays in the file; returns how many.

        All that stands is written anew for it (about a second for 300 MB). That it happened is recorded; of whom is
        not. Raises StoreError where a reader has kept the old bytes all the while.
        """
        with transaction(db):
            rows = db.execute(
                "SELECT row, records.users FROM users JOIN records USING (row) WHERE user = ? AND tenant = ?",
                [self.digests.name(user), tenant],
            ).fetchall()
            _delete(db, rows)
            now, id = time.time(), f"erasure-{uuid4().hex}"
            told = {"object": "alignment.erasure", "id": id, "time": iso(now), "tenant": tenant}
            body = msgspec.json.encode(told | {"key_id": by, "erased": len(rows)})
            if not _is_purged(db, by):
                db.execute(
                    "INSERT INTO records (id, at, tenant, key_id, body) VALUES (?, ?, ?, ?, ?)",
                    [id, now, tenant, by, body],
                )
        self._rewrite(db)
        return len(rows)

    def purge(self, db: sqlite3.Connection, tenant: str, keys: Iterable[str]) -> None:
        """Deletes all of a tenant so that no byte of it stays in the file. `keys`: the ids of all that it ever had;
        what was asked under them leaves no record from now on. Raises StoreError as `erase` does."""
        with transaction(db):
            db.executemany("INSERT OR IGNORE INTO purged VALUES (?)", [(key,) for key in keys])
            db.execute("DELETE FROM users WHERE row IN (SELECT row FROM records WHERE tenant = ?)", [tenant])
            db.execute("DELETE FROM records WHERE tenant = ?", [tenant])
            db.execute("DELETE FROM kept WHERE tenant = ?", [tenant])
        self._rewrite(db)

    def _rewrite(self, db: sqlite3.Connection) -> None:
        until = time.monotonic() + _BUSY
        while not rewrite(db):
            if time.monotonic() > until:
                raise StoreError(
                    f"{self.path}: erased, but another process still reads the bytes of before; erase again"
                )


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """The tables, where the file is new."""
    with transaction(db):  # one of those who open a new file at once makes them
        layout = Layout.of(db)
        if layout == Layout():
            for statement in filter(str.strip, _TABLES.split(";")):
                db.execute(statement)
            _LAYOUT.write(db)
        elif layout != _LAYOUT:
            raise DamagedStore(f"{path} holds no records that this heedful reads (layout {_LAYOUT.version})")
        db.execute(_PURGED)


def _is_purged(db: sqlite3.Connection, key: str | None) -> bool:
    return key is not None and db.execute("SELECT 1 FROM purged WHERE key = ?", [key]).fetchone() is not None


def _is_there(db: sqlite3.Connection, entry: Entry) -> bool:
    query = "SELECT 1 FROM records WHERE id = ? AND at = ? AND tenant = ?"
    return db.execute(query, (entry.id, entry.at, entry.tenant)).fetchone() is not None


def _joined(entry: Entry) -> str | None:
    """As a column has the users: JSON, where there are any."""
    return msgspec.json.encode(entry.users).decode() if entry.users else None


def _delete(db: sqlite3.Connection, found: Sequence[tuple[int, str | None]]) -> None:
    """Rows of `records` with their users."""
    users = [(user, row) for row, joined in found if joined for user in msgspec.json.decode(joined)]
    db.executemany("DELETE FROM users WHERE user = ? AND row = ?", users)
    db.executemany("DELETE FROM records WHERE row = ?", [(row,) for row, _ in found])
