"""A store's file as a whole, every version with its vector: read for another store, and filled from one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from heedful.retrieval.errors import StoreError
from heedful.retrieval.items import Version
from heedful.retrieval.store import records
from heedful.retrieval.store.any_store import Kept
from heedful.retrieval.store.erasing import Erasure

if TYPE_CHECKING:
    from heedful.retrieval.store.database import Database

_PIECE = 1000


@contextmanager
def whole(database: Database) -> Iterator[Iterator[Kept]]:
    """As `AnyStore.whole`: one snapshot, for as long as it is open."""
    with database.reading() as db:
        query = (
            f"SELECT vector, version, began, ended, {records.FIELDS} FROM items LEFT JOIN vectors USING (row)"
        )
        yield (_kept(record) for record in db.execute(f"{query} ORDER BY row"))


def take(database: Database, versions: Iterator[Kept], erasures: Sequence[Erasure]) -> int:
    """As `AnyStore.take`, in one transaction."""
    row = 0
    with database.writing(None) as (db, seq):
        if db.execute("SELECT 1 FROM items").fetchone() or db.execute("SELECT 1 FROM erasures").fetchone():
            raise StoreError(f"{database.path.stem}: the store is not empty")
        while piece := list(islice(versions, _PIECE)):
            _insert(db, row, piece, seq)
            row += len(piece)
        db.executemany(
            "INSERT INTO erasures VALUES (?, ?, ?, ?)", [(e.at, e.by, e.versions, e.digest) for e in erasures]
        )
    return row


def _kept(record: Sequence[object]) -> Kept:
    blob, version, began, ended, *said = record
    vector = None if blob is None else np.frombuffer(blob, np.float32)  # type: ignore[call-overload]
    return Kept(Version(records.item(said), version, began, ended), vector)  # type: ignore[arg-type]


def _insert(db: sqlite3.Connection, row: int, piece: Sequence[Kept], seq: int) -> None:
    values, vectors = [], []
    for number, kept in enumerate(piece, row + 1):
        v = kept.version
        ended = None if v.ended is None else seq
        values.append([number, *records.values(v.item), v.version, v.began, v.ended, ended])
        if kept.vector is not None:
            vectors.append((number, np.ascontiguousarray(kept.vector, np.float32).tobytes()))
    columns = f"row, {records.FIELDS}, version, began, ended, ended_seq"
    db.executemany(f"INSERT INTO items ({columns}) VALUES ({records.marks(range(16))})", values)
    db.executemany("INSERT INTO vectors VALUES (?, ?)", vectors)
