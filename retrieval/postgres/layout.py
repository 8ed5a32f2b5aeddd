"""What is in the database: one schema with a list of stores, and a few tables for each store.

Every store has tables of its own, so that its index has no other's rows in it, and one that is dropped is gone at
once: `items_N` (every version), `vectors_N_G` (those that stand, with what filters ask for; G is another one after
each embedding anew), `facets_N` (how many stand of each kind, scope and tag), `erasures_N`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import errors, sql

from heedful.retrieval.errors import StoreError

LAYOUT = 1
_LEAST_SERVER, _LEAST_VECTOR = 14, (0, 8)
_LOCK = 0x48454544  # among advisory locks, for whoever changes the layout
_FIRST = """
CREATE TABLE state (layout integer NOT NULL, changes bigint NOT NULL);
INSERT INTO state VALUES (1, 0);
CREATE TABLE stores (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL,
    embedder text NOT NULL, probe bytea NOT NULL, dimension integer NOT NULL,
    generation integer NOT NULL DEFAULT 1, next_probe bytea,
    seq bigint NOT NULL DEFAULT 0, last_row bigint NOT NULL DEFAULT 0, erased bigint NOT NULL DEFAULT 0,
    UNIQUE (tenant, name));
"""
_STORE = """
CREATE TABLE {items} (
    row bigint PRIMARY KEY, id text COLLATE "C" NOT NULL, version integer NOT NULL,
    kind text COLLATE "C" NOT NULL, text text NOT NULL, answer text NOT NULL, source text NOT NULL,
    scope text COLLATE "C" NOT NULL, tags text[] COLLATE "C" NOT NULL, mandatory boolean NOT NULL,
    valid_from double precision, valid_until double precision, meta text NOT NULL,
    began double precision NOT NULL, ended double precision, ended_seq bigint);
CREATE UNIQUE INDEX ON {items} (id, version);
CREATE UNIQUE INDEX ON {items} (id) WHERE ended IS NULL;
CREATE INDEX ON {items} (ended) WHERE ended IS NOT NULL;
CREATE TABLE {facets} (facet text COLLATE "C", value text COLLATE "C", n bigint NOT NULL, PRIMARY KEY (facet, value));
CREATE TABLE {erasures} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at double precision NOT NULL, by text, versions integer NOT NULL, digest text NOT NULL);
"""
_VECTORS = """
CREATE TABLE {vectors} (
    row bigint PRIMARY KEY, kind text COLLATE "C" NOT NULL, scope text COLLATE "C" NOT NULL,
    tags text[] COLLATE "C" NOT NULL, mandatory boolean NOT NULL,
    valid_from double precision, valid_until double precision, embedding vector({dimension}) NOT NULL);
CREATE INDEX ON {vectors} (scope, kind);
CREATE INDEX ON {vectors} (kind);
CREATE INDEX ON {vectors} USING gin (tags);
CREATE INDEX ON {vectors} (row) WHERE mandatory;
"""
_MIGRATIONS: list[Callable[[psycopg.Connection[Any]], None]] = []
"""From each layout to the next, the first from 1 to 2. Each is done within the transaction that says so."""


class Tables:
    """Names of one store's tables."""

    def __init__(self, store: int) -> None:
        self.store = store
        self.items, self.facets = sql.Identifier(f"items_{store}"), sql.Identifier(f"facets_{store}")
        self.erasures = sql.Identifier(f"erasures_{store}")

    def vectors(self, generation: int) -> sql.Identifier:
        return sql.Identifier(f"vectors_{self.store}_{generation}")

    def index(self, generation: int) -> sql.Identifier:
        """The name of its index over vectors, where it has one."""
        return sql.Identifier(f"hnsw_{self.store}_{generation}")


def make_store(db: psycopg.Connection[Any], store: int, dimension: int) -> None:
    tables = Tables(store)
    db.execute(sql.SQL(_STORE).format(items=tables.items, facets=tables.facets, erasures=tables.erasures))
    make_vectors(db, tables.vectors(1), dimension)


def make_vectors(db: psycopg.Connection[Any], vectors: sql.Identifier, dimension: int) -> None:
    db.execute(sql.SQL(_VECTORS).format(vectors=vectors, dimension=sql.Literal(dimension)))


def drop_store(db: psycopg.Connection[Any], store: int, generation: int) -> None:
    tables = Tables(store)
    # The next one's, where the store was being embedded anew.
    both = [tables.vectors(generation), tables.vectors(generation + 1)]
    for table in (*both, tables.items, tables.facets, tables.erasures):
        db.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))


def changed(db: psycopg.Connection[Any]) -> None:
    """Tells everybody that a store was made, dropped, embedded anew or had something erased."""
    db.execute("UPDATE state SET changes = changes + 1")


def prepare(db: psycopg.Connection[Any], schema: str, told: str) -> str:
    """Makes the layout, or brings it up to date; returns the schema that pgvector is in.

    Of several who start at once one does it, and the others wait; whoever is killed at it leaves nothing behind.
    `told`: what the database is called. Raises StoreError for a server or an extension that is missing or too old.
    """
    if db.info.server_version < _LEAST_SERVER * 10_000:
        has = db.info.server_version // 10_000
        raise StoreError(f"{told} is PostgreSQL {has}; stores need {_LEAST_SERVER} or later")
    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        extension = _extension(db, told)
        if db.execute("SELECT to_regnamespace(%s) IS NULL", [f'"{schema}"']).fetchone() == (True,):
            db.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        schemas = sql.SQL(", ").join(map(sql.Identifier, (schema, extension)))
        db.execute(sql.SQL("SET LOCAL search_path = {}").format(schemas))
        if db.execute("SELECT to_regclass('state') IS NULL").fetchone() == (True,):
            db.execute(_FIRST)
        found = db.execute("SELECT layout FROM state").fetchone()
        layout = int(found[0]) if found else 0
        if not 1 <= layout <= LAYOUT:
            raise StoreError(
                f"{told} has layout {layout}; this heedful reads up to {LAYOUT}: use the version that made it"
            )
        for step, migrate in enumerate(_MIGRATIONS[layout - 1 :], layout + 1):
            migrate(db)
            db.execute("UPDATE state SET layout = %s", [step])
    return extension


def _extension(db: psycopg.Connection[Any], told: str) -> str:
    query = (
        "SELECT extversion, nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace "
        "WHERE extname = 'vector'"
    )
    found = db.execute(query).fetchone()
    if found is None:
        needs = f"{told} lacks the extension pgvector ({_version_told()} or later)"
        if db.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone() is None:
            raise StoreError(f"{needs}: install it on the server (github.com/pgvector/pgvector)")
        try:
            with db.transaction():
                db.execute("CREATE EXTENSION vector")
        except errors.InsufficientPrivilege as error:
            raise StoreError(f"{needs}: have its owner say CREATE EXTENSION vector") from error
        found = db.execute(query).fetchone()
        assert found is not None
    version, schema = found
    if tuple(int(part) for part in version.split(".")[:2]) < _LEAST_VECTOR:
        raise StoreError(
            f"{told} has pgvector {version}, too old for stores ({_version_told()} or later): install a newer one "
            "and say ALTER EXTENSION vector UPDATE"
        )
    return str(schema)


def _version_told() -> str:
    return ".".join(map(str, _LEAST_VECTOR))
