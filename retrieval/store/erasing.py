"""Erasure: the one exception to a store's promise that every version stays in its history.

Erased is erased with the transaction that says so. Its bytes may lie about then, in pages that SQLite has freed, in
its log and in saved indexes, until the file is written anew; where that was cut off, whoever opens the store next
does it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from heedful.retrieval.items import iso
from heedful.retrieval.sqlite import rewrite
from heedful.retrieval.store import files, records

if TYPE_CHECKING:
    from heedful.retrieval.store.database import Database

# Numbers of rows that are no more, for those who have them in memory; and what is told of an erasure.
TABLES = """
CREATE TABLE IF NOT EXISTS erased_rows
    (seq INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (seq, row)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS erasures (at REAL NOT NULL, by TEXT, versions INTEGER NOT NULL, digest TEXT NOT NULL);
"""
STILL_READ = (
    "erased, but its text may be in the log, which another process reads, until the store is opened next"
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is kept of an erased item: when and by whom, how many versions, and the SHA-256 of its id."""

    at: float
    by: str | None
    versions: int
    digest: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"at": iso(self.at)}


def prepare(db: sqlite3.Connection) -> None:
    """Adds the tables to a store that was made before there were any."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'erasures'").fetchone():
        db.executescript(f"BEGIN IMMEDIATE; {TABLES} COMMIT;")


def erase(database: Database, ids: Sequence[str], by: str | None, now: float) -> dict[str, int]:
    """Deletes every version of items in one transaction; returns how many there were, by id. `scrub` comes after."""
    versions: dict[str, int] = {}
    with database.writing(None) as (db, seq):
        rows: list[int] = []
        for piece in records.pieces(list(dict.fromkeys(ids))):
            query = f"SELECT row, id FROM items WHERE id IN ({records.marks(piece)})"
            for row, id in db.execute(query, piece).fetchall():
                rows.append(row)
                versions[id] = versions.get(id, 0) + 1
        if not rows:
            return versions
        tables = ["items", "vectors", "next_vectors"] if _being_embedded(db) else ["items", "vectors"]
        for some in records.pieces(rows):
            for table in tables:
                db.execute(f"DELETE FROM {table} WHERE row IN ({records.marks(some)})", some)
        db.executemany("INSERT INTO erased_rows VALUES (?, ?)", [(seq, row) for row in rows])
        told = [(now, by, n, digest(id)) for id, n in versions.items()]
        db.executemany("INSERT INTO erasures VALUES (?, ?, ?, ?)", told)
        db.execute("INSERT OR REPLACE INTO meta VALUES ('unscrubbed', ?)", [seq])
    return versions


def scrub(database: Database) -> bool:
    """Where something was erased since the last time, leaves none of its bytes in any file of the store.

    False: another process kept SQLite's log in use all the while, so that it is still to be done.
    """
    with database.rewriting() as db:
        left = db.execute("SELECT value FROM meta WHERE key = 'unscrubbed'").fetchone()
        if left is None:
            return True
        if not rewrite(db):
            return False
        files.remove_saved(database.path)
        # Unless something has been erased meanwhile, by another process.
        db.execute("DELETE FROM meta WHERE key = 'unscrubbed' AND value = ?", left)
        return True


def erasures(database: Database, id: str | None) -> list[Erasure]:
    """Those of an item, or all, the oldest first."""
    where, values = ("", []) if id is None else ("WHERE digest = ?", [digest(id)])
    with database.reading() as db:
        found = db.execute(f"SELECT at, by, versions, digest FROM erasures {where} ORDER BY rowid", values)
        return [Erasure(*record) for record in found.fetchall()]


def stamp(database: Database) -> str:
    """Which vectors there are: another one after each erasure, so that no index is kept that has more."""
    return stamped(database.identity().generation, last(database))


def stamped(generation: str, erasure: int) -> str:
    """`erasure`: the number of the last one."""
    return f"{generation}-{erasure}" if erasure else generation


def last(database: Database) -> int:
    """The number of the last erasure, 0 where there was none."""
    with database.reading() as db:
        return int(db.execute("SELECT coalesce(max(seq), 0) FROM erased_rows").fetchone()[0])


def rows_erased(database: Database) -> list[int]:
    """All, ever."""
    with database.reading() as db:
        return [row for (row,) in db.execute("SELECT row FROM erased_rows").fetchall()]


def digest(id: str) -> str:
    return sha256(id.encode("utf-8", "surrogatepass")).hexdigest()


def _being_embedded(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'next_vectors'").fetchone() is not None
