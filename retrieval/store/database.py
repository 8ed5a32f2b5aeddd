"""One store's file: SQLite, the only truth about its items, their history and their vectors.

Every version of an item is a row of `items` and never changes but to be ended, or erased; `vectors` holds those that
stand. A write is one transaction, on the disk when it returns (WAL, synchronous=FULL), and has a number, `seq`. So
whoever keeps a `Cursor` can ask what is new, in this process or another.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

from heedful.retrieval.embedding.embedder import SAME_MODEL, Vectors
from heedful.retrieval.errors import EmbedderChanged
from heedful.retrieval.items import ALL, Filter, Item, Version
from heedful.retrieval.sqlite import transaction
from heedful.retrieval.store import erasing, expected, files, paging, records
from heedful.retrieval.store.connections import Connections, new_file
from heedful.retrieval.store.expected import Expected
from heedful.retrieval.store.paging import Cursor

_ROWS_AT_ONCE = 500  # SQLite takes 32,766 values in a statement
T = TypeVar("T")
_TABLES = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, version INTEGER NOT NULL,
    kind TEXT NOT NULL, text TEXT NOT NULL, answer TEXT NOT NULL, source TEXT NOT NULL, scope TEXT NOT NULL,
    tags TEXT NOT NULL, mandatory INTEGER NOT NULL, valid_from REAL, valid_until REAL, meta TEXT NOT NULL,
    began REAL NOT NULL, ended REAL, ended_seq INTEGER);
CREATE UNIQUE INDEX item_versions ON items (id, version);
CREATE INDEX item_ends ON items (ended_seq) WHERE ended_seq IS NOT NULL;
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
"""
    + erasing.TABLES
)
_CURSOR = "SELECT (SELECT coalesce(max(row), 0) FROM items), value FROM meta WHERE key = 'seq'"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which embedder made the vectors. `generation` changes when all of them are made anew."""

    embedder: str
    probe: Vectors
    generation: str

    def made_by(self, probe: Vectors) -> bool:
        """Whether an embedder with these probe vectors is the same one."""
        if probe.shape != self.probe.shape:
            return False
        return bool(np.all(np.sum(probe * self.probe, axis=1) > SAME_MODEL))


StoreFacts = tuple[int, str, str, str, int, float | None, float | None]
"""What filters need of a row: row, kind, scope, tags (JSON), mandatory, valid_from, valid_until."""


@dataclass(frozen=True, slots=True)
class News:
    """What has been written since a cursor: rows that stand, earlier rows that ended or were erased, up to where."""

    facts: list[StoreFacts]
    ended: list[int]
    erased: list[tuple[int, int]]
    """The number of the write, and the row."""
    upto: Cursor


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did, by item id, in the order given."""

    added: list[str]
    replaced: list[str]
    unchanged: list[str]
    truncated: list[str] = field(default_factory=list)
    """Those whose text was embedded and is longer than the model reads: they are found by its beginning."""


class Database:
    """Open with `Database(path)`; make one with `create`. Safe to use from many threads and processes.

    Every call but `vectors` is one look at the file or one change of it. Work is given to SQLite in few statements
    for many rows, since each row that is fetched and each statement takes its turn for the interpreter anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connections = Connections(path)
        self._write_lock = threading.Lock()
        with self._connections.lent() as db:
            erasing.prepare(db)

    @classmethod
    def create(cls, path: Path, embedder: str, probe: Vectors) -> Database:
        """A new, empty store. Raises FileExistsError where there is one: it is whole at once, or not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            with new_file(scratch) as db:
                db.executescript(_TABLES)
                db.execute("BEGIN")
                identify(db, embedder, probe)
                db.execute("INSERT INTO meta VALUES ('seq', 0)")
                db.execute("COMMIT")
            files.put(scratch, path)
        finally:
            for suffix in ("", "-wal", "-shm"):
                scratch.with_name(scratch.name + suffix).unlink(missing_ok=True)
        return cls(path)

    @property
    def stands(self) -> bool:
        """Whether it is still the store of its name, and open."""
        return self._connections.stands()

    def raise_if_closed(self) -> None:
        """Raises UnknownStore where it has been deleted, StoreError where it is closed."""
        self._connections.raise_if_closed()

    def close(self, *, deleted: bool = False) -> None:
        """At once: what is under way ends by itself, what comes after raises UnknownStore or StoreError."""
        self._connections.close(deleted=deleted)

    # -- reading

    def identity(self) -> Identity:
        with self.reading() as db:
            values = dict(db.execute("SELECT key, value FROM meta").fetchall())
        probe = np.frombuffer(values["probe"], np.float32).reshape(-1, values["dimension"])
        return Identity(values["embedder"], probe, values["generation"])

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for several statements on one snapshot."""
        with self._connections.lent() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def _fetch(self, query: str, parameters: Any = ()) -> list[Any]:
        with self._connections.lent() as connection:
            return connection.execute(query, parameters).fetchall()

    def versions(self, rows: Sequence[int]) -> dict[int, Version]:
        """Versions by row."""
        found: list[Any] = []
        for piece in records.pieces(rows):
            query = f"SELECT row, version, began, ended, {records.FIELDS} FROM items"
            found += self._fetch(f"{query} WHERE row IN ({records.marks(piece)})", piece)
        return {r[0]: Version(records.item(r[4:]), r[1], r[2], r[3]) for r in found}

    def standing(self, ids: Sequence[str]) -> dict[str, Version]:
        """The standing versions of those of these items that have one, by id."""
        found: list[Any] = []
        for piece in records.pieces(ids):
            query = f"SELECT version, began, ended, {records.FIELDS} FROM items"
            found += self._fetch(f"{query} WHERE id IN ({records.marks(piece)}) AND ended IS NULL", piece)
        return {r[3]: Version(records.item(r[3:]), r[0], r[1], r[2]) for r in found}

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of those of these items that stand, by id."""
        found: list[Any] = []
        for piece in records.pieces(ids):
            query = f"SELECT id, text FROM items WHERE id IN ({records.marks(piece)}) AND ended IS NULL"
            found += self._fetch(query, piece)
        return dict(found)

    def history(self, id: str) -> list[Version]:
        """All versions of an item, the oldest first."""
        query = f"SELECT version, began, ended, {records.FIELDS} FROM items WHERE id = ? ORDER BY version"
        return [Version(records.item(r[3:]), r[0], r[1], r[2]) for r in self._fetch(query, [id])]

    def page(
        self,
        after: int,
        limit: int,
        *,
        as_of: float | None = None,
        within: Cursor | None = None,
        filter: Filter = ALL,
    ) -> list[tuple[int, Version]]:
        """Versions past row `after`, in the order written: that stand, stood at `as_of`, or `within`; and pass."""
        query, values = paging.page(after, limit, as_of=as_of, within=within, filter=filter)
        found = self._fetch(query, values)
        return [(r[0], Version(records.item(r[4:]), r[1], r[2], r[3])) for r in found]

    def cursor(self) -> Cursor:
        """Now: to ask later what is new, or to go through what stands, whatever is written since."""
        return Cursor(*self._fetch(_CURSOR)[0])

    def vectors_of(self, ids: Sequence[str]) -> Vectors:
        """Vectors of standing items, shape (n, d), zeros for one that stands no more."""
        vectors: dict[str, bytes] = {}
        for piece in records.pieces(ids):
            query = (
                f"SELECT id, vector FROM vectors JOIN items USING (row) WHERE id IN ({records.marks(piece)})"
            )
            vectors |= dict(self._fetch(f"{query} AND ended IS NULL", piece))
        found = np.zeros((len(ids), self.identity().probe.shape[1]), np.float32)
        for i, id in enumerate(ids):
            if id in vectors:
                found[i] = np.frombuffer(vectors[id], np.float32)
        return found

    def count(self) -> int:
        """How many items stand."""
        return int(self._fetch("SELECT count(*) FROM vectors")[0][0])

    def news(self, since: Cursor, limit: int) -> News:
        """What was written past a cursor; at most `limit` rows at a time."""
        with self.reading() as db:
            last, seq = db.execute(_CURSOR).fetchone()
            last = min(last, since.row + limit)
            facts = db.execute(
                "SELECT row, kind, scope, tags, mandatory, valid_from, valid_until FROM items "
                "WHERE row > ? AND row <= ? AND ended IS NULL",
                [since.row, last],
            ).fetchall()
            # The sign keeps SQLite from going through all rows instead of those that have ended.
            ended = db.execute(
                "SELECT row FROM items WHERE ended_seq > ? AND +row <= ?", [since.seq, since.row]
            ).fetchall()
            erased = db.execute("SELECT seq, row FROM erased_rows WHERE seq > ?", [since.seq]).fetchall()
        return News(facts, [row for (row,) in ended], erased, Cursor(last, seq))

    def vectors(self, after: int, upto: int, chunk: int) -> Iterator[tuple[np.ndarray, Vectors]]:
        """Rows (n,) and vectors (n, d) that stand, in pieces of at most `chunk`, in the order of rows."""
        query = "SELECT row, vector FROM vectors WHERE row > ? AND row <= ? ORDER BY row LIMIT ?"
        while found := self._fetch(query, [after, upto, chunk]):
            yield records.matrix(found)
            after = found[-1][0]

    def vectors_at(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Vectors]]:
        """Those of `rows` that stand, (n,), and their vectors (n, d), in pieces."""
        for piece in records.pieces(rows.tolist()):
            if found := self._fetch(
                f"SELECT row, vector FROM vectors WHERE row IN ({records.marks(piece)})", piece
            ):
                yield records.matrix(found)

    # -- writing

    def write(
        self,
        items: Sequence[Item],
        vectors: Mapping[str, Vectors],
        generation: str,
        known: Expected | None = None,
    ) -> Written:
        """Adds or replaces items in one transaction; what is there already stays as it is.

        `vectors` has the vector of every text that is not the standing text of its item. Raises EmbedderChanged
        where the store has been embedded anew since `generation`, VersionConflict where an item is not what is
        `known` of it.
        """
        now, done = clock(), Written([], [], [])
        with self.writing(generation) as (db, seq):
            expected.require(db, known or {})
            for piece in records.pieces(items, _ROWS_AT_ONCE):
                _write(db, piece, vectors, now, seq, done)
        return done

    def delete(self, ids: Sequence[str], known: Expected | None = None) -> list[str]:
        """Ends items in one transaction; returns the ids that stood. Their history stays. Raises VersionConflict."""
        gone: list[str] = []
        with self.writing(None) as (db, seq):
            expected.require(db, known or {})
            for piece in records.pieces(list(dict.fromkeys(ids))):
                query = f"SELECT id, row FROM items WHERE id IN ({records.marks(piece)}) AND ended IS NULL"
                rows = dict(db.execute(query, piece).fetchall())
                _end(db, list(rows.values()), clock(), seq)
                gone += [id for id in piece if id in rows]
        return gone

    @contextmanager
    def writing(self, generation: str | None) -> Iterator[tuple[sqlite3.Connection, int]]:
        """One transaction and its number: all of it is on the disk at the end, or none.

        Raises EmbedderChanged where the store has been embedded anew since `generation`, UnknownStore where it has
        been deleted meanwhile.
        """
        with self._write_lock, self._connections.lent() as db, transaction(db):
            current = db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()[0]
            if generation is not None and current != generation:
                raise EmbedderChanged(
                    f"{self.path.name}: the store has been embedded anew; open it again to go on"
                )
            seq = db.execute("UPDATE meta SET value = value + 1 WHERE key = 'seq' RETURNING value")
            yield db, int(seq.fetchone()[0])
        self._connections.raise_if_gone()  # what went into a file that had lost its name is no more

    @contextmanager
    def rewriting(self) -> Iterator[sqlite3.Connection]:
        """A connection of whoever is the only one here that writes, outside of any transaction."""
        with self._write_lock, self._connections.lent() as db:
            yield db


def clock() -> float:
    """In whole microseconds, so that a time written in ISO 8601 is the same when it is read again."""
    return round(time.time(), 6)


def identify(db: sqlite3.Connection, embedder: str, probe: Vectors) -> None:
    """Writes down who makes the vectors from now on."""
    values = {
        "embedder": embedder,
        "probe": probe.astype(np.float32).tobytes(),
        "dimension": probe.shape[1],
        "generation": uuid4().hex[:12],
    }
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))


def _write(
    db: sqlite3.Connection,
    items: Sequence[Item],
    vectors: Mapping[str, Vectors],
    now: float,
    seq: int,
    done: Written,
) -> None:
    """A few statements for all items, whose ids differ. `done` is told of each."""
    query = (
        f"SELECT row, version, ended IS NULL, {records.FIELDS} FROM items i WHERE id IN ({records.marks(items)}) "
        "AND version = (SELECT max(version) FROM items m WHERE m.id = i.id)"
    )
    last = {
        r[3]: (r[0], r[1], records.item(r[3:]) if r[2] else None)
        for r in db.execute(query, [i.id for i in items])
    }
    none: tuple[int, int, Item | None] = (0, 0, None)
    new: list[
        tuple[Item, int, int]
    ] = []  # with the number of its version, and the row whose vector it keeps, or 0
    ended: list[int] = []
    for item in items:
        row, version, old = last.get(item.id, none)
        if old == item:
            done.unchanged.append(item.id)
            continue
        keeps = old is not None and old.text == item.text and item.text not in vectors
        new.append((item, version + 1, row if keeps else 0))
        if old is not None:
            ended.append(row)
        (done.replaced if old is not None else done.added).append(item.id)
    if not new:
        return
    kept: dict[int, bytes] = {}
    if rows := [row for _, _, row in new if row]:
        kept = dict(
            db.execute(
                f"SELECT row, vector FROM vectors WHERE row IN ({records.marks(rows)})", rows
            ).fetchall()
        )
    _end(db, ended, now, seq)
    (first,) = db.execute(
        "SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'items'"
    ).fetchone()
    values: list[object] = []
    blobs: list[object] = []
    for row, (item, version, keeps_row) in enumerate(new, first):
        values += [row, *records.values(item), version, now]
        blob = (
            kept[keeps_row] if keeps_row else np.ascontiguousarray(vectors[item.text], np.float32).tobytes()
        )
        blobs += [row, blob]
    marks = ",".join([f"({records.marks(range(14))})"] * len(new))
    db.execute(f"INSERT INTO items (row, {records.FIELDS}, version, began) VALUES {marks}", values)
    db.execute(f"INSERT INTO vectors VALUES {','.join(['(?,?)'] * len(new))}", blobs)


def _end(db: sqlite3.Connection, rows: Sequence[int], now: float, seq: int) -> None:
    marks = records.marks(rows)
    db.execute(f"UPDATE items SET ended = ?, ended_seq = ? WHERE row IN ({marks})", [now, seq, *rows])
    db.execute(f"DELETE FROM vectors WHERE row IN ({marks})", list(rows))
