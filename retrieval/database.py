"""One store's file: SQLite, the only truth about its items, their history and their vectors.

Every version of an item is a row of `items` and never changes but to be ended; `vectors` holds those that stand. A
write is one transaction, on the disk when it returns (WAL, synchronous=FULL), and has a number, `seq`. So whoever
remembers the last row and the last number can ask what is new, in this process or another.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec
import numpy as np

from heedful.retrieval.embedder import SAME_MODEL, Vectors
from heedful.retrieval.errors import DamagedStore, EmbedderChanged, StoreError, UnknownStore
from heedful.retrieval.items import Item, Version, encoded

_APPLICATION, _SCHEMA = 0x48454544, 1
_BUSY = 30.0  # seconds to wait for another process that writes
# Checking every page of a larger file would make opening it slow.
_CHECKED_BYTES = 64 << 20
_TABLES = """
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
_FIELDS = "id, kind, text, answer, source, scope, tags, mandatory, valid_from, valid_until, meta"


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


Facts = tuple[int, str, str, str, int, float | None, float | None]
"""What filters need of a row: row, kind, scope, tags (JSON), mandatory, valid_from, valid_until."""


@dataclass(frozen=True, slots=True)
class News:
    """What has been written since a row and a number: rows that stand, earlier rows that ended, and up to where."""

    facts: list[Facts]
    ended: list[int]
    last_row: int
    seq: int


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did, by item id, in the order given."""

    added: list[str]
    replaced: list[str]
    unchanged: list[str]


class Database:
    """Open with `Database(path)`; make one with `create`. Safe to use from many threads and processes."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UnknownStore(f"there is no store at {path}")
        self.path = path
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._write_lock = threading.Lock()
        with _telling(path):
            self._check()
            self._writer = self._connect()

    @classmethod
    def create(cls, path: Path, embedder: str, probe: Vectors) -> Database:
        """A new, empty store. Raises FileExistsError where there is one: it is whole at once, or not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            connection = sqlite3.connect(scratch, isolation_level=None)
            connection.execute("PRAGMA page_size=8192")
            connection.execute(f"PRAGMA application_id={_APPLICATION}")
            connection.execute(f"PRAGMA user_version={_SCHEMA}")
            connection.executescript(_TABLES)
            connection.execute("BEGIN")
            _identify(connection, embedder, probe)
            connection.execute("INSERT INTO meta VALUES ('seq', 0)")
            connection.execute("COMMIT")
            connection.close()
            os.link(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        return cls(path)

    # -- reading

    def identity(self) -> Identity:
        with self.reading() as db:
            values = dict(db.execute("SELECT key, value FROM meta").fetchall())
        probe = np.frombuffer(values["probe"], np.float32).reshape(-1, values["dimension"])
        return Identity(values["embedder"], probe, values["generation"])

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, in one snapshot."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        with _telling(self.path):
            if connection is None:
                connection = self._local.connection = self._connect()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    def watch(self) -> Callable[[], int]:
        """A function whose value changes whenever anybody has written. Not to be called by two threads at once."""
        connection = self._connect()

        def version() -> int:
            with _telling(self.path):
                return int(connection.execute("PRAGMA data_version").fetchone()[0])

        return version

    def items(self, rows: Sequence[int]) -> dict[int, Item]:
        """Items by row."""
        marks = ",".join("?" * len(rows))
        with self.reading() as db:
            found = db.execute(f"SELECT row, {_FIELDS} FROM items WHERE row IN ({marks})", list(rows))
            return {record[0]: _item(record[1:]) for record in found}

    def item(self, id: str) -> Item | None:
        """The standing version of an item."""
        with self.reading() as db:
            found = db.execute(f"SELECT {_FIELDS} FROM items WHERE id = ? AND ended IS NULL", [id]).fetchone()
        return _item(found) if found else None

    def history(self, id: str) -> list[Version]:
        """All versions of an item, the oldest first."""
        query = f"SELECT version, began, ended, {_FIELDS} FROM items WHERE id = ? ORDER BY version"
        with self.reading() as db:
            return [Version(_item(r[3:]), r[0], r[1], r[2]) for r in db.execute(query, [id])]

    def page(self, after: int, limit: int, *, as_of: float | None = None) -> list[tuple[int, Version]]:
        """Versions in the order written, from the row past `after`: those that stand, or stood at `as_of`."""
        stood = "ended IS NULL" if as_of is None else "began <= :at AND (ended IS NULL OR ended > :at)"
        query = (
            f"SELECT row, version, began, ended, {_FIELDS} FROM items "
            f"WHERE row > :after AND {stood} ORDER BY row LIMIT :limit"
        )
        with self.reading() as db:
            found = db.execute(query, {"at": as_of, "after": after, "limit": limit})
            return [(r[0], Version(_item(r[4:]), r[1], r[2], r[3])) for r in found]

    def vectors_of(self, ids: Sequence[str]) -> Vectors:
        """Vectors of standing items, shape (n, d), zeros for one that stands no more."""
        query = "SELECT vector FROM vectors JOIN items USING (row) WHERE id = ? AND ended IS NULL"
        dimension = self.identity().probe.shape[1]
        found = np.zeros((len(ids), dimension), np.float32)
        with self.reading() as db:
            for i, id in enumerate(ids):
                if record := db.execute(query, [id]).fetchone():
                    found[i] = np.frombuffer(record[0], np.float32)
        return found

    def count(self) -> int:
        """How many items stand."""
        with self.reading() as db:
            return int(db.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def last_row(self) -> int:
        """The highest row ever used; rows are never used twice."""
        with self.reading() as db:
            return int(db.execute("SELECT coalesce(max(row), 0) FROM items").fetchone()[0])

    def news(self, after: int, seq: int, limit: int) -> News:
        """What was written past a row and a write's number; at most `limit` rows at a time."""
        with self.reading() as db:
            last, now = db.execute(
                "SELECT (SELECT coalesce(max(row), 0) FROM items), value FROM meta WHERE key = 'seq'"
            ).fetchone()
            last = min(last, after + limit)
            facts = db.execute(
                "SELECT row, kind, scope, tags, mandatory, valid_from, valid_until FROM items "
                "WHERE row > ? AND row <= ? AND ended IS NULL",
                [after, last],
            ).fetchall()
            # The sign keeps SQLite from going through all rows instead of those that have ended.
            ended = db.execute(
                "SELECT row FROM items WHERE ended_seq > ? AND +row <= ?", [seq, after]
            ).fetchall()
        return News(facts, [row for (row,) in ended], last, now)

    def vectors(self, after: int, upto: int, chunk: int) -> Iterator[tuple[np.ndarray, Vectors]]:
        """Rows (n,) and vectors (n, d) that stand, in pieces of at most `chunk`, in the order of rows."""
        query = "SELECT row, vector FROM vectors WHERE row > ? AND row <= ? ORDER BY row LIMIT ?"
        while True:
            with self.reading() as db:
                found = db.execute(query, [after, upto, chunk]).fetchall()
            if not found:
                return
            yield _matrix(found)
            after = found[-1][0]

    def vectors_at(self, rows: np.ndarray, chunk: int = 1000) -> Iterator[tuple[np.ndarray, Vectors]]:
        """Those of `rows` that stand, (n,), and their vectors (n, d), in pieces of at most `chunk`."""
        for start in range(0, len(rows), chunk):
            wanted = rows[start : start + chunk].tolist()
            marks = ",".join("?" * len(wanted))
            with self.reading() as db:
                found = db.execute(
                    f"SELECT row, vector FROM vectors WHERE row IN ({marks})", wanted
                ).fetchall()
            if found:
                yield _matrix(found)

    # -- writing

    def write(
        self,
        items: Sequence[Item],
        vectors: Mapping[str, Vectors],
        generation: str,
    ) -> Written:
        """Adds or replaces items in one transaction; what is there already stays as it is.

        `vectors` has the vector of every text that is not the standing text of its item. Raises EmbedderChanged
        where the store has been embedded anew since `generation`.
        """
        now, done = _now(), Written([], [], [])
        with self._writing(generation) as (db, seq):
            for item in items:
                last = db.execute(
                    f"SELECT row, version, ended, {_FIELDS} FROM items "
                    "WHERE id = ? ORDER BY version DESC LIMIT 1",
                    [item.id],
                ).fetchone()
                row, version, stands = (last[0], last[1], last[2] is None) if last else (0, 0, False)
                old = _item(last[3:]) if stands else None
                if old == item:
                    done.unchanged.append(item.id)
                    continue
                vector: bytes | None = None
                if stands:
                    if item.text not in vectors and old is not None and old.text == item.text:
                        kept = db.execute("SELECT vector FROM vectors WHERE row = ?", [row]).fetchone()
                        vector = kept[0]
                    _end(db, row, now, seq)
                if vector is None:
                    vector = np.ascontiguousarray(vectors[item.text], np.float32).tobytes()
                new = db.execute(
                    f"INSERT INTO items ({_FIELDS}, version, began) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    [*_values(item), version + 1, now],
                ).lastrowid
                db.execute("INSERT INTO vectors VALUES (?, ?)", [new, vector])
                (done.replaced if stands else done.added).append(item.id)
        return done

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Ends items in one transaction; returns the ids that stood. Their history stays."""
        gone = []
        with self._writing(None) as (db, seq):
            for id in dict.fromkeys(ids):
                found = db.execute("SELECT row FROM items WHERE id = ? AND ended IS NULL", [id]).fetchone()
                if found:
                    _end(db, found[0], _now(), seq)
                    gone.append(id)
        return gone

    def reembed(
        self,
        embedder: str,
        probe: Vectors,
        embed: Callable[[list[str]], Vectors],
        progress: Callable[[str, float], None],
    ) -> None:
        """Makes all vectors anew beside the old ones, and swaps them in one transaction. Goes on where it stopped."""
        with self._writing(None) as (db, _):
            begun = db.execute("SELECT value FROM meta WHERE key = 'next_probe'").fetchone()
            if begun is None or begun[0] != probe.tobytes():
                db.execute("DROP TABLE IF EXISTS next_vectors")
                db.execute("CREATE TABLE next_vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
                db.execute("INSERT OR REPLACE INTO meta VALUES ('next_probe', ?)", [probe.tobytes()])
        missing = (
            "SELECT v.row, i.text FROM vectors v JOIN items i USING (row) "
            "WHERE NOT EXISTS (SELECT 1 FROM next_vectors n WHERE n.row = v.row) ORDER BY v.row LIMIT 512"
        )
        total, done = max(1, self.count()), 0
        while True:
            with self.reading() as db:
                left = db.execute(missing).fetchall()
            made = embed([text for _, text in left]) if left else None
            with self._writing(None) as (db, _):
                if made is None:
                    if db.execute(missing).fetchone():  # written by another process in this moment
                        continue
                    db.execute("DELETE FROM next_vectors WHERE row NOT IN (SELECT row FROM vectors)")
                    db.execute("DROP TABLE vectors")
                    db.execute("ALTER TABLE next_vectors RENAME TO vectors")
                    db.execute("DELETE FROM meta WHERE key = 'next_probe'")
                    _identify(db, embedder, probe)
                    return
                db.executemany(
                    "INSERT OR REPLACE INTO next_vectors VALUES (?, ?)",
                    [(row, v.astype(np.float32).tobytes()) for (row, _), v in zip(left, made, strict=True)],
                )
            done += len(left)
            progress(f"embedding with {embedder}", min(1.0, done / total))

    @contextmanager
    def _writing(self, generation: str | None) -> Iterator[tuple[sqlite3.Connection, int]]:
        """One transaction and its number: all of it is on the disk at the end, or none."""
        with self._write_lock, _telling(self.path):
            db = self._writer
            db.execute("BEGIN IMMEDIATE")
            try:
                current = db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()[0]
                if generation is not None and current != generation:
                    raise EmbedderChanged(
                        f"{self.path.name}: the store has been embedded anew; open it again to go on"
                    )
                seq = db.execute("UPDATE meta SET value = value + 1 WHERE key = 'seq' RETURNING value")
                yield db, int(seq.fetchone()[0])
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        self._all.append(connection)
        return connection

    def _check(self) -> None:
        if self.path.stat().st_size == 0:
            raise DamagedStore(f"{self.path} is empty and no heedful store")
        connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY)
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != _APPLICATION:
                raise DamagedStore(f"{self.path} is a database of something else, no heedful store")
            if schema != _SCHEMA:
                raise DamagedStore(
                    f"{self.path} has layout {schema}; this heedful reads {_SCHEMA}: use the version that made it"
                )
            if self.path.stat().st_size <= _CHECKED_BYTES:
                problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if problem != "ok":
                    raise DamagedStore(
                        f"{self.path} is damaged ({problem}); restore it from a copy or an export"
                    )
        finally:
            connection.close()

    def close(self) -> None:
        for connection in self._all:
            connection.close()


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, with the file's name."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "malformed" in str(error):
            raise DamagedStore(f"{path} is damaged ({error})") from error
        raise StoreError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise DamagedStore(f"{path} is damaged or no heedful store ({error})") from error


def _now() -> float:
    """In whole microseconds, so that a time written in ISO 8601 is the same when it is read again."""
    return round(time.time(), 6)


def _identify(db: sqlite3.Connection, embedder: str, probe: Vectors) -> None:
    values = {
        "embedder": embedder,
        "probe": probe.astype(np.float32).tobytes(),
        "dimension": probe.shape[1],
        "generation": uuid4().hex[:12],
    }
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))


def _end(db: sqlite3.Connection, row: int, now: float, seq: int) -> None:
    db.execute("UPDATE items SET ended = ?, ended_seq = ? WHERE row = ?", [now, seq, row])
    db.execute("DELETE FROM vectors WHERE row = ?", [row])


def _matrix(records: Sequence[tuple[int, bytes]]) -> tuple[np.ndarray, Vectors]:
    rows = np.fromiter((r[0] for r in records), np.int64, len(records))
    return rows, np.frombuffer(b"".join(r[1] for r in records), np.float32).reshape(len(records), -1)


def _values(item: Item) -> list[object]:
    said = [item.id, item.kind, item.text, item.answer, item.source, item.scope]
    return [
        *said,
        encoded(item.tags),
        int(item.mandatory),
        item.valid_from,
        item.valid_until,
        encoded(item.meta),
    ]


def _item(record: Sequence[object]) -> Item:
    id, kind, text, answer, source, scope, tags, mandatory, valid_from, valid_until, meta = record
    return Item(
        id=str(id),
        kind=str(kind),
        text=str(text),
        answer=str(answer),
        source=str(source),
        scope=str(scope),
        tags=tuple(msgspec.json.decode(str(tags))),
        mandatory=bool(mandatory),
        valid_from=valid_from,  # type: ignore[arg-type]
        valid_until=valid_until,  # type: ignore[arg-type]
        meta=msgspec.json.decode(str(meta)),
    )
