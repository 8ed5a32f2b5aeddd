"""A store in PostgreSQL. Nothing of it is kept in memory: what anybody has written is in everybody's next search."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from typing import ParamSpec, TypeVar

import numpy as np
from psycopg import errors, sql

from heedful.retrieval.embedding.embedder import Embedder, Vectors
from heedful.retrieval.errors import EmbedderChanged, StoreError, UnknownStore
from heedful.retrieval.items import ALL, Filter, Hit, Item, Version
from heedful.retrieval.postgres import indexing, reading, rows, writing
from heedful.retrieval.postgres.connections import ConnectionPool, PgConnection
from heedful.retrieval.postgres.directory import Directory
from heedful.retrieval.postgres.indexing import INDEXED_ROWS, Indexing
from heedful.retrieval.postgres.layout import Tables
from heedful.retrieval.postgres.reembedding import reembed
from heedful.retrieval.store import adding
from heedful.retrieval.store.any_store import AnyStore, Kept, Progress
from heedful.retrieval.store.database import Identity, Written
from heedful.retrieval.store.erasing import Erasure
from heedful.retrieval.store.expected import Expected
from heedful.retrieval.store.paging import Cursor
from heedful.retrieval.store.past import Then

P = ParamSpec("P")
T = TypeVar("T")
_FACETS = 1000  # scopes, and tags, that a description names
_PIECE = 1000
_COUNTED = 5.0  # seconds for which counts are good enough to choose how to search
EXACT_ROWS = 10_000
"""Where at most so many rows pass a filter, all of them are looked at, which is exact."""


class PostgresStore(AnyStore):
    """AnyStore, in tables of its own."""

    def __init__(
        self,
        connections: ConnectionPool,
        directory: Directory,
        place: tuple[str, str],
        embedder: Embedder,
        progress: Progress = lambda step, share: None,
    ) -> None:
        """`place`: its tenant and name. Opens it; if another embedder made its vectors, embeds it anew first."""
        self.embedder = embedder
        self._connections, self._directory, self._place = connections, directory, place
        entry = directory.get(*place)
        if entry is None:
            raise self._gone()
        self._tables, self._closed = Tables(entry.id), ""
        identity = connections.read(self._identity)
        while not identity.made_by(embedder.probe):
            with suppress(EmbedderChanged, errors.UndefinedTable):  # another has swapped in this moment
                reembed(connections, self._tables, self.name, int(identity.generation), embedder, progress)
            identity = connections.read(self._identity)
        self._generation, self._embedder_name = int(identity.generation), identity.embedder
        self._writer = ThreadPoolExecutor(1, f"write-{self.name}")
        self._indexing = Indexing(connections, self._tables, self.name, embedder.dimension)
        self._counting = threading.Lock()
        self._counted: tuple[float, dict[str, dict[str, int]], bool] | None = None
        self._scopes: tuple[int, list[str]] | None = None
        directory.on_erasure(entry, embedder.forget)

    @property
    def name(self) -> str:
        return self._place[1]

    @property
    def stands(self) -> bool:
        entry = self._directory.get(*self._place)
        return not self._closed and entry is not None and entry.id == self._tables.store

    # -- reading

    def search(self, query: Vectors, k: int, filter: Filter) -> list[Hit]:
        counted, indexed = self._known()
        by_index = indexed and reading.at_most(counted, filter) > EXACT_ROWS

        def look(by_index: bool) -> list[Hit]:
            return self._read(
                lambda db: reading.nearest(
                    db, self._tables, self._generation, query, k, filter, by_index=by_index
                )
            )

        hits = look(by_index)
        if by_index and len(hits) < k:  # few pass, more or less far away
            return look(False)
        return hits

    def mandatory(self, filter: Filter) -> list[Version]:
        return self._read(lambda db: reading.mandatory(db, self._tables, self._generation, filter))

    def scopes(self) -> list[str]:
        seq = self.cursor().seq
        if self._scopes is None or self._scopes[0] != seq:
            counted = self._read(lambda db: reading.facets(db, self._tables))
            self._scopes = seq, [scope for scope in counted["scope"] if scope]
        return list(self._scopes[1])

    def standing(self, ids: Sequence[str]) -> dict[str, Version]:
        return self._read(lambda db: reading.standing(db, self._tables, ids))

    def vectors(self, ids: Sequence[str]) -> Vectors:
        dimension = self.embedder.dimension
        return self._read(lambda db: reading.vectors(db, self._tables, self._generation, ids, dimension))

    def history(self, id: str) -> list[Version]:
        return self._read(lambda db: reading.history(db, self._tables, id))

    def erasures(self, id: str | None = None) -> list[Erasure]:
        return self._read(lambda db: reading.erasures(db, self._tables, id))

    def page(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        as_of: float | None = None,
        within: Cursor | None = None,
        filter: Filter = ALL,
    ) -> list[tuple[int, Version]]:
        return self._read(lambda db: reading.page(db, self._tables, after, limit, as_of, within, filter))

    def stood(self, at: float) -> Then:
        return self._read(lambda db: reading.then(db, self._tables, at))

    def cursor(self) -> Cursor:
        found = self._read(
            lambda db: db.execute(
                "SELECT last_row, seq FROM stores WHERE id = %s", [self._tables.store]
            ).fetchone()
        )
        if found is None:
            raise self._gone()
        return Cursor(*found)

    @contextmanager
    def whole(self) -> Iterator[Iterator[Kept]]:
        query = sql.SQL(
            "SELECT embedding, version, began, ended, {} FROM {} i LEFT JOIN {} USING (row) ORDER BY row"
        ).format(rows.FIELDS_OF_ITEMS, self._tables.items, self._tables.vectors(self._generation))
        with self._telling(), self._connections.snapshot() as db, db.cursor("whole") as cursor:
            cursor.itersize = _PIECE
            cursor.execute(query)
            yield (Kept(rows.version(r[1:]), None if r[0] is None else rows.vector(r[0])) for r in cursor)

    def __len__(self) -> int:
        counted = self._read(lambda db: reading.facets(db, self._tables))
        return sum(counted["kind"].values())

    def describe(self) -> dict[str, object]:
        counted = self._read(lambda db: reading.facets(db, self._tables))
        indexed = self._read(lambda db: indexing.there(db, self._tables, self._generation))
        return {
            "name": self.name,
            "items": sum(counted["kind"].values()),
            "embedder": self._embedder_name,
            "dimension": self.embedder.dimension,
            "index": "hnsw" if indexed else "flat",
            **reading.described(counted, _FACETS),
        }

    # -- writing

    def add(
        self,
        items: Sequence[Item],
        vectors: Mapping[str, Vectors] | None = None,
        expected: Expected | None = None,
    ) -> Written:
        written = adding.add(
            _Writable(self), self.embedder, str(self._generation), items, vectors or {}, expected
        )
        self._known()  # which has an index made where there are many by now
        return written

    def unembedded(self, items: Sequence[Item], known: Mapping[str, Vectors]) -> list[str]:
        return adding.unembedded(_Writable(self), items, known)

    def delete(self, ids: Sequence[str], expected: Expected | None = None) -> list[str]:
        return self._write(lambda db, turn: writing.delete(db, self._tables, turn, ids, expected or {}))

    def erase(self, ids: Sequence[str], by: str | None = None) -> dict[str, int]:
        erased = self._write(lambda db, turn: writing.erase(db, self._tables, turn, ids, by))
        self.embedder.forget()
        if erased:
            tables = self._tables.items, self._tables.vectors(self._generation)
            vacuum = sql.SQL("VACUUM (INDEX_CLEANUP ON) {}").format(sql.SQL(", ").join(tables))
            self._read(lambda db: db.execute(vacuum))
            self._directory.look()
        return erased

    def take(self, versions: Iterator[Kept], erasures: Sequence[Erasure]) -> int:
        taken = self._write(
            lambda db, turn: writing.take(db, self._tables, turn, _pieces(versions), erasures), again=False
        )
        self._counted = None
        self._known()
        return taken

    def in_turn(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self._raise_if_closed()
        return self._writer.submit(function, *args, **kwargs)

    def settle(self) -> None:
        self._indexing.settle()
        self._counted = None

    def close(self, *, deleted: bool = False) -> None:
        self._closed = self._closed or ("deleted" if deleted else "closed")
        self._writer.shutdown(wait=False)

    # -- what all of this goes through

    def _read(self, work: Callable[[PgConnection], T]) -> T:
        with self._telling():
            return self._connections.read(work)

    def _write(
        self,
        work: Callable[[PgConnection, writing.WriteTurn], T],
        generation: int | None = None,
        *,
        again: bool = True,
    ) -> T:
        def in_turn(db: PgConnection) -> T:
            return work(db, writing.begin(db, self._tables, self.name, generation))

        with self._telling():
            return self._connections.write(in_turn, again=again)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What a table that is not there means."""
        self._raise_if_closed()
        try:
            yield
        except errors.UndefinedTable as error:
            self._directory.look()
            entry = self._directory.get(*self._place)
            if entry is None or entry.id != self._tables.store:
                raise self._gone() from error
            raise EmbedderChanged(f"{self.name}: the store has been embedded anew; open it again") from error

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise (
                self._gone() if self._closed == "deleted" else StoreError(f"{self.name}: the store is closed")
            )

    def _gone(self) -> UnknownStore:
        return UnknownStore(f"the store {self.name!r} has been deleted")

    def _known(self) -> tuple[dict[str, dict[str, int]], bool]:
        """Counts by facet, and whether there is an index, as of some seconds ago: they choose how to search, and no
        answer hangs on them. Has an index made where one is wanted."""
        known = self._counted
        if known is None or time.monotonic() - known[0] > _COUNTED:
            counted = self._read(lambda db: reading.facets(db, self._tables))
            indexed = self._read(lambda db: indexing.there(db, self._tables, self._generation))
            known = self._counted = time.monotonic(), counted, indexed
            if not indexed and sum(counted["kind"].values()) >= INDEXED_ROWS:
                self._indexing.want(self._generation)
        return known[1:]

    def _identity(self, db: PgConnection) -> Identity:
        found = db.execute(
            "SELECT embedder, probe, dimension, generation FROM stores WHERE id = %s", [self._tables.store]
        ).fetchone()
        if found is None:
            raise self._gone()
        embedder, probe, dimension, generation = found
        return Identity(embedder, np.frombuffer(probe, np.float32).reshape(-1, dimension), str(generation))


class _Writable:
    """What `adding` writes to."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        store = self._store
        return store._read(lambda db: reading.texts(db, store._tables, ids))

    def write(
        self, items: Sequence[Item], vectors: Mapping[str, Vectors], generation: str, known: Expected | None
    ) -> Written:
        store = self._store
        return store._write(
            lambda db, turn: writing.write(db, store._tables, turn, items, vectors, known or {}),
            int(generation),
        )


def _pieces(versions: Iterator[Kept]) -> Iterator[list[Kept]]:
    while piece := list(islice(versions, _PIECE)):
        yield piece
