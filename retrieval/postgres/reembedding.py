"""All vectors of a store made anew by another embedding model: beside the old ones, which serve meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.postgres import indexing, rows, writing
from heedful.retrieval.postgres.connections import ConnectionPool, PgConnection
from heedful.retrieval.postgres.layout import Tables, changed, make_vectors
from heedful.retrieval.store.any_store import Progress

_PIECE = 512
_MISSING = sql.SQL(
    "SELECT v.row, {fields} FROM {old} v JOIN {items} i USING (row) "
    "WHERE NOT EXISTS (SELECT 1 FROM {new} n WHERE n.row = v.row) ORDER BY v.row LIMIT {piece}"
)


def reembed(
    connections: ConnectionPool,
    tables: Tables,
    name: str,
    generation: int,
    embedder: Embedder,
    progress: Progress,
) -> None:
    """Swaps them in in one transaction, and goes on where it stopped.

    Several may do it at once: the first to end swaps, and the others are told that there are new ones: raises
    EmbedderChanged, or psycopg's UndefinedTable. Raises UnknownStore.
    """
    probe, new = embedder.probe.astype("float32"), tables.vectors(generation + 1)
    missing = _MISSING.format(
        fields=rows.FIELDS_OF_ITEMS,
        old=tables.vectors(generation),
        items=tables.items,
        new=new,
        piece=sql.Literal(_PIECE),
    )

    def begin(db: PgConnection) -> int:
        writing.begin(db, tables, name, generation)
        begun = db.execute("SELECT next_probe FROM stores WHERE id = %s", [tables.store]).fetchone()
        if begun is None or begun[0] != probe.tobytes():
            db.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(new))
            make_vectors(db, new, probe.shape[1])
            db.execute("UPDATE stores SET next_probe = %s WHERE id = %s", [probe.tobytes(), tables.store])
        old = sql.SQL("SELECT count(*) FROM {}").format(tables.vectors(generation))
        counted = db.execute(old).fetchone()
        return int(counted[0]) if counted else 0

    total, done = max(1, connections.write(begin)), 0
    while True:
        left = connections.read(lambda db: db.execute(missing).fetchall())
        if not left:
            if total >= indexing.INDEXED_ROWS:
                connections.read(
                    lambda db: indexing.make(db, tables, generation + 1, probe.shape[1], beside=True)
                )
            if connections.write(lambda db: _swap(db, tables, name, generation, embedder, missing)):
                return
            continue  # written by somebody else in this moment
        items = [(row, rows.item(said)) for row, *said in left]
        vectors = embedder.embed_now([item.text for _, item in items])
        made = [rows.facts(row, item, vector) for (row, item), vector in zip(items, vectors, strict=True)]
        connections.write(lambda db, made=made: _put(db, tables, name, generation, made))  # type: ignore[misc]
        done += len(left)
        progress(f"embedding with {embedder.name}", min(1.0, done / total))


def _put(db: PgConnection, tables: Tables, name: str, generation: int, made: Sequence[list[Any]]) -> None:
    writing.begin(db, tables, name, generation)  # so that it is no other's table, nor swapped in
    marks = sql.SQL(", ").join(sql.Placeholder() * len(made[0]))
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING")
    with db.cursor() as cursor:
        cursor.executemany(query.format(tables.vectors(generation + 1), rows.FACTS, marks), made)


def _swap(
    db: PgConnection, tables: Tables, name: str, generation: int, embedder: Embedder, missing: sql.Composed
) -> bool:
    writing.begin(db, tables, name, generation)
    if db.execute(missing).fetchone():
        return False
    old, new = tables.vectors(generation), tables.vectors(generation + 1)
    db.execute(sql.SQL("DELETE FROM {} WHERE row NOT IN (SELECT row FROM {})").format(new, old))
    db.execute(sql.SQL("DROP TABLE {}").format(old))
    probe = embedder.probe.astype("float32")
    db.execute(
        "UPDATE stores SET embedder = %s, probe = %s, dimension = %s, generation = %s, next_probe = NULL "
        "WHERE id = %s",
        [embedder.name, probe.tobytes(), probe.shape[1], generation + 1, tables.store],
    )
    changed(db)
    return True
