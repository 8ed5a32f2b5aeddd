"""A store's index over vectors (HNSW): made beside everything else once there are many, by one server of all."""

from __future__ import annotations

import logging
import threading
from typing import Any

import psycopg
from psycopg import errors, sql

from heedful.retrieval.errors import StoreError
from heedful.retrieval.postgres.connections import ConnectionPool, PgConnection
from heedful.retrieval.postgres.layout import Tables

logger = logging.getLogger("heedful.retrieval")
INDEXED_ROWS = 20_000
"""Vectors from which on a store has an index: fewer are gone through in some ten milliseconds, which is exact, and
adding to an index takes longer than to a table."""
_LONGEST = 4000  # dimensions of half precision that pgvector indexes
_MEMORY_MB = 1024  # at most, for making one
_BYTES = 2  # of a dimension
_LINKS_BYTES = 400  # of a row
_CLASS = 0x686E  # of the advisory locks of those who make one


class Indexing:
    """Makes one store's index. Methods but `settle` don't wait for it."""

    def __init__(self, connections: ConnectionPool, tables: Tables, name: str, dimension: int) -> None:
        self._connections, self._tables, self._name, self._dimension = connections, tables, name, dimension
        self._lock = threading.Lock()
        self._making: threading.Thread | None = None
        self._failed = False

    def want(self, generation: int) -> None:
        """Has it made in a thread, unless that is under way or has failed here."""
        with self._lock:
            if self._making is None and not self._failed and self._dimension <= _LONGEST:
                self._making = threading.Thread(
                    target=self._make, args=[generation], name="index", daemon=True
                )
                self._making.start()

    def settle(self) -> None:
        """Waits until nothing is being made here."""
        if (making := self._making) is not None:
            making.join()

    def _make(self, generation: int) -> None:
        try:
            self._connections.read(
                lambda db: make(db, self._tables, generation, self._dimension, beside=True)
            )
        except (StoreError, psycopg.Error) as error:
            # Searches go on, slower and exact; the next server that opens the store tries again.
            logger.warning("%s: no index was made, searches go through all vectors: %s", self._name, error)
            self._failed = True
        finally:
            self._making = None


def there(db: PgConnection, tables: Tables, generation: int) -> bool:
    """Whether there is an index that searches can use."""
    return _state(db, tables, generation) == (True,)


def make(db: PgConnection, tables: Tables, generation: int, dimension: int, *, beside: bool) -> None:
    """Makes the index unless it is there or somebody else makes it. `beside`: while others write to the store."""
    lock = [_CLASS, tables.store % 2**31]
    if db.execute("SELECT pg_try_advisory_lock(%s, %s)", lock).fetchone() != (True,):
        return
    try:
        state = _state(db, tables, generation)
        if state == (True,):
            return
        if state is not None:  # left by whoever was cut off
            db.execute(sql.SQL("DROP INDEX {}").format(tables.index(generation)))
        _roomy(db, tables, generation, dimension)
        create = sql.SQL(
            "CREATE INDEX {how} {index} ON {vectors} USING hnsw ((embedding::halfvec({d})) halfvec_ip_ops)"
        ).format(
            how=sql.SQL("CONCURRENTLY" if beside else ""),
            index=tables.index(generation),
            vectors=tables.vectors(generation),
            d=sql.Literal(dimension),
        )
        try:
            db.execute(create)
        except (
            errors.DiskFull
        ):  # of shared memory too, which containers have little of; one process needs none
            db.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(tables.index(generation)))
            db.execute("SET max_parallel_maintenance_workers = 0")
            db.execute(create)
        # Nobody has, while the index was made: without counts the planner takes every filter for one that few pass.
        db.execute(sql.SQL("ANALYZE {}").format(tables.vectors(generation)))
    finally:
        if not db.closed:
            db.execute("RESET statement_timeout; RESET lock_timeout; RESET maintenance_work_mem")
            db.execute("RESET max_parallel_maintenance_workers")
            db.execute("SELECT pg_advisory_unlock(%s, %s)", lock)


def _roomy(db: PgConnection, tables: Tables, generation: int, dimension: int) -> None:
    """As long as it takes, and the memory for the whole graph: without that it takes many times as long."""
    db.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    counted = db.execute(sql.SQL("SELECT count(*) FROM {}").format(tables.vectors(generation))).fetchone()
    rows = counted[0] if counted else 0
    wanted = min(_MEMORY_MB, rows * (_BYTES * dimension + _LINKS_BYTES) // 2**20 + 64)
    had = db.execute(
        "SELECT setting::bigint / 1024 FROM pg_settings WHERE name = 'maintenance_work_mem'"
    ).fetchone()
    if had and had[0] < wanted:
        db.execute(sql.SQL("SET maintenance_work_mem = {}").format(sql.Literal(f"{wanted}MB")))


def _state(db: PgConnection, tables: Tables, generation: int) -> tuple[Any, ...] | None:
    """Whether the index is whole; None: there is none."""
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
    return db.execute(query, [tables.index(generation).as_string(db)]).fetchone()
