"""What is read of one store, as statements: nearest items, versions, pages, counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg import sql

from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.errors import InvalidItem
from heedful.retrieval.items import KINDS, Filter, Hit, Version
from heedful.retrieval.postgres import rows
from heedful.retrieval.postgres.connections import PgConnection
from heedful.retrieval.postgres.layout import Tables
from heedful.retrieval.store.erasing import Erasure, digest
from heedful.retrieval.store.paging import Cursor
from heedful.retrieval.store.past import MOST, Then

_NEAREST = sql.SQL(
    "WITH near AS MATERIALIZED ("
    "SELECT row, embedding <#> %(query)s AS distance FROM {vectors} WHERE {passing} ORDER BY {order} LIMIT %(k)s) "
    "SELECT distance, {version} FROM near JOIN {items} USING (row) ORDER BY distance, row"
)
_EXACTLY = sql.SQL("distance")
_BY_INDEX = "embedding::halfvec({d}) <#> %(query)s::halfvec({d})"
"""What the index is over; half precision has half the size, and ranks as single does."""


def nearest(
    db: PgConnection,
    tables: Tables,
    generation: int,
    query: Vectors,
    k: int,
    filter: Filter,
    *,
    by_index: bool,
) -> list[Hit]:
    """The `k` items nearest to a unit vector, best first; `by_index`: most of them, and sooner."""
    passing, given = rows.passing(filter)
    order = sql.SQL(_BY_INDEX).format(d=sql.Literal(len(query))) if by_index else _EXACTLY
    statement = _NEAREST.format(
        vectors=tables.vectors(generation),
        passing=passing,
        order=order,
        version=rows.VERSION,
        items=tables.items,
    )
    given |= {"query": np.ascontiguousarray(query, np.float32), "k": k}
    found = db.execute(statement, given).fetchall()
    hits = []
    for distance, *record in found:
        version = rows.version(record)
        hits.append(Hit(version.item, -distance, version.version, version.began))
    return hits


def mandatory(db: PgConnection, tables: Tables, generation: int, filter: Filter) -> list[Version]:
    passing, given = rows.passing(filter)
    query = sql.SQL(
        "WITH bound AS MATERIALIZED (SELECT row FROM {} WHERE mandatory AND {}) "
        "SELECT {} FROM bound JOIN {} USING (row) ORDER BY row"
    ).format(tables.vectors(generation), passing, rows.VERSION, tables.items)
    return [rows.version(r) for r in db.execute(query, given).fetchall()]


def standing(db: PgConnection, tables: Tables, ids: Sequence[str]) -> dict[str, Version]:
    query = sql.SQL("SELECT {} FROM {} WHERE id = ANY(%s) AND ended IS NULL").format(
        rows.VERSION, tables.items
    )
    found = [rows.version(r) for r in db.execute(query, [list(ids)]).fetchall()]
    return {version.item.id: version for version in found}


def texts(db: PgConnection, tables: Tables, ids: Sequence[str]) -> dict[str, str]:
    query = sql.SQL("SELECT id, text FROM {} WHERE id = ANY(%s) AND ended IS NULL").format(tables.items)
    return dict(db.execute(query, [list(ids)]).fetchall())


def history(db: PgConnection, tables: Tables, id: str) -> list[Version]:
    query = sql.SQL("SELECT {} FROM {} WHERE id = %s ORDER BY version").format(rows.VERSION, tables.items)
    return [rows.version(r) for r in db.execute(query, [id]).fetchall()]


def vectors(db: PgConnection, tables: Tables, generation: int, ids: Sequence[str], dimension: int) -> Vectors:
    query = sql.SQL("SELECT id, embedding FROM {} JOIN {} i USING (row) WHERE id = ANY(%s) AND ended IS NULL")
    statement = query.format(tables.vectors(generation), tables.items)
    there: dict[str, Any] = dict(db.execute(statement, [list(ids)]).fetchall())
    found = np.zeros((len(ids), dimension), np.float32)
    for i, id in enumerate(ids):
        if id in there:
            found[i] = rows.vector(there[id])
    return found


def erasures(db: PgConnection, tables: Tables, id: str | None) -> list[Erasure]:
    where = sql.SQL("true" if id is None else "digest = %(digest)s")
    query = sql.SQL("SELECT at, by, versions, digest FROM {} WHERE {} ORDER BY number").format(
        tables.erasures, where
    )
    return [Erasure(*r) for r in db.execute(query, {} if id is None else {"digest": digest(id)}).fetchall()]


def page(
    db: PgConnection,
    tables: Tables,
    after: int,
    limit: int,
    as_of: float | None,
    within: Cursor | None,
    filter: Filter,
) -> list[tuple[int, Version]]:
    passing, given = rows.passing(filter)
    given |= {"after": after, "limit": limit}
    if within is not None:
        when = "row <= %(last)s AND (ended_seq IS NULL OR ended_seq > %(seq)s)"
        given |= {"last": within.row, "seq": within.seq}
    elif as_of is not None:
        when = "began <= %(as_of)s AND (ended IS NULL OR ended > %(as_of)s)"
        given["as_of"] = as_of
    else:
        when = "ended IS NULL"
    query = sql.SQL(
        "SELECT row, {} FROM {} WHERE row > %(after)s AND {} AND {} ORDER BY row LIMIT %(limit)s"
    ).format(rows.VERSION, tables.items, sql.SQL(when), passing)
    return [(r[0], rows.version(r[1:])) for r in db.execute(query, given).fetchall()]


def then(db: PgConnection, tables: Tables, at: float) -> Then:
    """As `past.then`."""
    latest = sql.SQL("SELECT row FROM {} WHERE began <= %s ORDER BY row DESC LIMIT 1").format(tables.items)
    last = db.execute(latest, [at]).fetchone()
    query = sql.SQL("SELECT {} FROM {} WHERE ended > %s AND began <= %s ORDER BY row LIMIT %s")
    found = db.execute(query.format(rows.VERSION, tables.items), [at, at, MOST + 1]).fetchall()
    if len(found) > MOST:
        raise InvalidItem(f"as_of: more than {MOST:,} items have changed since; give a later time", "as_of")
    return Then(int(last[0]) if last else 0, [rows.version(r) for r in found])


def facets(db: PgConnection, tables: Tables) -> dict[str, dict[str, int]]:
    """How many stand by facet and value; 0 for what was used once."""
    counted: dict[str, dict[str, int]] = {facet: {} for facet in ("kind", "scope", "mandatory", "tag")}
    query = sql.SQL("SELECT facet, value, n FROM {} ORDER BY facet, value").format(tables.facets)
    for facet, value, n in db.execute(query).fetchall():
        counted[facet][value] = int(n)
    return counted


def described(counted: dict[str, dict[str, int]], most: int) -> dict[str, Any]:
    """As `Catalogue.facets`."""
    return {
        "kinds": {kind: counted["kind"].get(kind, 0) for kind in KINDS},
        "mandatory": counted["mandatory"].get("", 0),
        "scopes": [scope for scope, n in counted["scope"].items() if scope and n][:most],
        "tags": [tag for tag, n in counted["tag"].items() if n][:most],
    }


def at_most(counted: dict[str, dict[str, int]], filter: Filter) -> int:
    """More than can pass a filter, and as near to it as single counts tell."""
    kinds = counted["kind"]
    bounds = [sum(kinds.values())]
    if filter.kind is not None:
        bounds.append(kinds.get(filter.kind, 0))
    if filter.scopes is not None:
        bounds.append(sum(counted["scope"].get(scope, 0) for scope in filter.scopes | {""}))
    if filter.tags:
        bounds.append(sum(counted["tag"].get(tag, 0) for tag in filter.tags))
    if filter.mandatory:
        bounds.append(counted["mandatory"].get("", 0))
    return min(bounds)
