"""All stores of a PostgreSQL database, by tenant and name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from psycopg import errors

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.errors import UnknownStore
from heedful.retrieval.items import Version
from heedful.retrieval.postgres import layout, reading
from heedful.retrieval.postgres.connections import Address, ConnectionPool, PgConnection
from heedful.retrieval.postgres.directory import Directory
from heedful.retrieval.postgres.layout import Tables
from heedful.retrieval.postgres.store import PostgresStore
from heedful.retrieval.store.any_store import Progress
from heedful.retrieval.store.backend import check_name_of_tenant

T = TypeVar("T")
_ABOVE = ""  # the name of nobody: whose stores are above all tenants'


class PostgresBackend:
    """A Backend. `url`: postgresql://USER:PASSWORD@HOST:PORT/DATABASE?schema=NAME, with libpq's own parameters."""

    gone = False  # whoever can't reach it is told so by every question

    def __init__(self, url: str, *, above: PostgresBackend | None = None, tenant: str = _ABOVE) -> None:
        """Raises StoreError for what is no address."""
        self._above, self._tenant = above, tenant
        self._connections: ConnectionPool = (
            ConnectionPool(Address.of(url)) if above is None else above._connections
        )
        self._directory: Directory = Directory(self._connections) if above is None else above._directory

    def names(self) -> list[str]:
        return sorted(name for tenant, name in self._directory.entries() if tenant == self._tenant)

    def has(self, name: str) -> bool:
        return self._directory.get(self._tenant, name) is not None

    def look(self) -> None:
        self._directory.look()

    def embedder_of(self, name: str) -> str:
        query = "SELECT embedder FROM stores WHERE id = %s"
        found = self._of(name, lambda db, tables: db.execute(query, [tables.store]).fetchone())
        if found is None:
            raise _unknown(name)
        return str(found[0])

    def count(self, name: str) -> int:
        return sum(self._of(name, reading.facets)["kind"].values())

    def history(self, name: str, id: str) -> list[Version]:
        return self._of(name, lambda db, tables: reading.history(db, tables, id))

    def open(self, name: str, embedder: Embedder, progress: Progress) -> PostgresStore:
        return PostgresStore(self._connections, self._directory, (self._tenant, name), embedder, progress)

    def create(self, name: str, embedder: Embedder) -> bool:
        self._directory.look()
        if self.has(name):
            return False
        probe = embedder.probe.astype(np.float32)
        said = [self._tenant, name, embedder.name, probe.tobytes(), int(probe.shape[1])]

        def make(db: PgConnection) -> bool:
            made = db.execute(
                "INSERT INTO stores (tenant, name, embedder, probe, dimension) VALUES (%s, %s, %s, %s, %s) "
                "ON CONFLICT DO NOTHING RETURNING id",
                said,
            ).fetchone()
            if made is None:  # by another in this moment
                return False
            layout.make_store(db, made[0], probe.shape[1])
            layout.changed(db)
            return True

        new = self._connections.write(make)
        self._directory.look()
        return new

    def drop(self, name: str) -> None:
        def drop(db: PgConnection) -> None:
            query = "DELETE FROM stores WHERE tenant = %s AND name = %s RETURNING id, generation"
            found = db.execute(query, [self._tenant, name]).fetchone()
            if found is not None:
                layout.drop_store(db, *found)
                layout.changed(db)

        self._connections.write(drop)
        self._directory.look()

    def below(self, tenant: str) -> PostgresBackend:
        check_name_of_tenant(tenant)
        return PostgresBackend("", above=self._above or self, tenant=tenant)

    def tenants(self) -> list[str]:
        return sorted({tenant for tenant, _ in self._directory.entries() if tenant != _ABOVE})

    def left(self) -> list[str]:
        self._directory.look()
        return self.names()

    def clear(self) -> None:
        pass  # a tenant has no place but its stores

    def close(self) -> None:
        if self._above is None:
            self._directory.close()
            self._connections.close()

    def _of(self, name: str, work: Callable[[PgConnection, Tables], T]) -> T:
        """What is read of a store that need not be open."""
        self._directory.look()
        if (entry := self._directory.get(self._tenant, name)) is None:
            raise _unknown(name)
        try:
            return self._connections.read(lambda db: work(db, Tables(entry.id)))
        except errors.UndefinedTable as error:  # dropped in this moment
            raise _unknown(name) from error


def _unknown(name: str) -> UnknownStore:
    return UnknownStore(f"there is no store {name!r}")
