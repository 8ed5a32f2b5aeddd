"""Writes to one store, each within a transaction that holds the store's row in the list: one writer at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import sql

from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.errors import EmbedderChanged, StoreError, UnknownStore
from heedful.retrieval.items import Item
from heedful.retrieval.postgres import rows
from heedful.retrieval.postgres.connections import PgConnection
from heedful.retrieval.postgres.layout import Tables, changed
from heedful.retrieval.store.any_store import Kept
from heedful.retrieval.store.database import Written
from heedful.retrieval.store.erasing import Erasure, digest
from heedful.retrieval.store.expected import Expected, compare


class WriteTurn(NamedTuple):
    """A write: its number, the last row that there is, which vectors the store has, and the database's time."""

    seq: int
    last_row: int
    generation: int
    now: float


def begin(db: PgConnection, tables: Tables, name: str, generation: int | None) -> WriteTurn:
    """Waits for who writes to the store. Raises UnknownStore where it was dropped, EmbedderChanged where it has other
    vectors than those of `generation`."""
    found = db.execute(
        "UPDATE stores SET seq = seq + 1 WHERE id = %s "
        "RETURNING seq, last_row, generation, round(extract(epoch FROM clock_timestamp()), 6)::double precision",
        [tables.store],
    ).fetchone()
    if found is None:
        raise UnknownStore(f"the store {name!r} has been deleted")
    turn = WriteTurn(*found)
    if generation is not None and turn.generation != generation:
        raise EmbedderChanged(f"{name}: the store has been embedded anew; open it again to go on")
    return turn


def write(
    db: PgConnection,
    tables: Tables,
    turn: WriteTurn,
    items: Sequence[Item],
    vectors: Mapping[str, Vectors],
    known: Expected,
) -> Written:
    """Adds or replaces items, whose ids differ. Raises VersionConflict; KeyError where a new text has no vector."""
    require(db, tables, known)
    done = Written([], [], [])
    last = _last(db, tables, [item.id for item in items])
    new: list[
        tuple[Item, int, int]
    ] = []  # with the number of its version, and the row whose vector it keeps, or 0
    ended: list[int] = []
    counts: Counter[tuple[str, str]] = Counter()
    for item in items:
        row, version, old = last.get(item.id, (0, 0, None))
        if old == item:
            done.unchanged.append(item.id)
            continue
        keeps = old is not None and old.text == item.text and item.text not in vectors
        new.append((item, version + 1, row if keeps else 0))
        counts.update(rows.facets(item))
        if old is not None:
            ended.append(row)
            counts.subtract(rows.facets(old))
        (done.replaced if old is not None else done.added).append(item.id)
    if new:
        kept = _vectors(db, tables.vectors(turn.generation), [row for _, _, row in new if row])
        made = [kept[row] if row else vectors[item.text] for item, _, row in new]
        end(db, tables, turn, ended)
        _insert(db, tables, turn, new, made)
        count(db, tables, counts)
    return done


def delete(
    db: PgConnection, tables: Tables, turn: WriteTurn, ids: Sequence[str], known: Expected
) -> list[str]:
    """Ends items; returns the ids that stood. Raises VersionConflict."""
    require(db, tables, known)
    standing = {
        id: (row, item) for id, (row, _, item) in _last(db, tables, list(ids)).items() if item is not None
    }
    end(db, tables, turn, [row for row, _ in standing.values()])
    counts: Counter[tuple[str, str]] = Counter()
    for _, item in standing.values():
        counts.subtract(rows.facets(item))
    count(db, tables, counts)
    return [id for id in dict.fromkeys(ids) if id in standing]


def erase(
    db: PgConnection, tables: Tables, turn: WriteTurn, ids: Sequence[str], by: str | None
) -> dict[str, int]:
    """Deletes every version of items; returns how many there were, by id."""
    query = sql.SQL("DELETE FROM {} WHERE id = ANY(%s) RETURNING row, ended, {}").format(
        tables.items, rows.FIELDS
    )
    gone = db.execute(query, [list(ids)]).fetchall()
    if not gone:
        return {}
    counts: Counter[tuple[str, str]] = Counter()
    for _, ended, *said in gone:
        if ended is None:
            counts.subtract(rows.facets(rows.item(said)))
    _forget(db, tables, turn, [row for row, *_ in gone])
    count(db, tables, counts)
    # Scopes and tags that no version has any more; those of other items that ended stay.
    for facet, has in (("scope", "scope = f.value"), ("tag", "f.value = ANY(tags)")):
        unused = "DELETE FROM {} f WHERE facet = %s AND n = 0 AND NOT EXISTS (SELECT 1 FROM {} WHERE {})"
        db.execute(sql.SQL(unused).format(tables.facets, tables.items, sql.SQL(has)), [facet])
    versions = Counter(said[0] for _, _, *said in gone)
    told = [Erasure(turn.now, by, n, digest(id)) for id, n in versions.items()]
    _tell(db, tables, told)
    db.execute("UPDATE stores SET erased = seq WHERE id = %s", [tables.store])
    changed(db)
    return dict(versions)


def take(
    db: PgConnection,
    tables: Tables,
    turn: WriteTurn,
    pieces: Iterable[Sequence[Kept]],
    erasures: Sequence[Erasure],
) -> int:
    """Fills an empty store. Raises StoreError where it is not."""
    if turn.last_row or db.execute(sql.SQL("SELECT 1 FROM {}").format(tables.erasures)).fetchone():
        raise StoreError("the store is not empty")
    row = 0
    for piece in pieces:
        counts: Counter[tuple[str, str]] = Counter()
        versions, vectors = [], []
        for kept in piece:
            row += 1
            v = kept.version
            ended = None if v.ended is None else turn.seq
            versions.append([row, *rows.values(v.item), v.version, v.began, v.ended, ended])
            facets = rows.facets(v.item)
            counts.update(facets if kept.vector is not None else dict.fromkeys(facets, 0))
            if kept.vector is not None:
                vectors.append(rows.facts(row, v.item, kept.vector))
        _copy(db, tables, turn, versions, vectors)
        count(db, tables, counts)
    db.execute("UPDATE stores SET last_row = %s WHERE id = %s", [row, tables.store])
    _tell(db, tables, erasures)
    return row


def require(db: PgConnection, tables: Tables, expected: Expected) -> None:
    if expected:
        query = sql.SQL("SELECT id, version FROM {} WHERE id = ANY(%s) AND ended IS NULL").format(
            tables.items
        )
        compare(expected, dict(db.execute(query, [list(expected)]).fetchall()))


def end(db: PgConnection, tables: Tables, turn: WriteTurn, ended: Sequence[int]) -> None:
    if ended:
        update = sql.SQL("UPDATE {} SET ended = %s, ended_seq = %s WHERE row = ANY(%s)").format(tables.items)
        db.execute(update, [turn.now, turn.seq, list(ended)])
        delete = sql.SQL("DELETE FROM {} WHERE row = ANY(%s)").format(tables.vectors(turn.generation))
        db.execute(delete, [list(ended)])


def count(db: PgConnection, tables: Tables, counts: Mapping[tuple[str, str], int]) -> None:
    """Adds to how many items stand under each facet; one that none stands under any more was used once."""
    if not counts:
        return
    query = sql.SQL(
        "INSERT INTO {} AS f SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[]) "
        "ON CONFLICT (facet, value) DO UPDATE SET n = f.n + excluded.n"
    ).format(tables.facets)
    facets, values = zip(*counts, strict=True)
    db.execute(query, [list(facets), list(values), list(counts.values())])


def _last(db: PgConnection, tables: Tables, ids: list[str]) -> dict[str, tuple[int, int, Item | None]]:
    """Row and number of the last version of each item that ever was, and what it says if it stands."""
    query = sql.SQL(
        "SELECT DISTINCT ON (id) row, version, ended IS NULL, {} FROM {} WHERE id = ANY(%s) ORDER BY id, version DESC"
    ).format(rows.FIELDS, tables.items)
    found = db.execute(query, [ids]).fetchall()
    return {r[3]: (r[0], r[1], rows.item(r[3:]) if r[2] else None) for r in found}


def _vectors(db: PgConnection, table: sql.Identifier, wanted: list[int]) -> dict[int, Vectors]:
    if not wanted:
        return {}
    query = sql.SQL("SELECT row, embedding FROM {} WHERE row = ANY(%s)").format(table)
    return {row: rows.vector(vector) for row, vector in db.execute(query, [wanted]).fetchall()}


def _insert(
    db: PgConnection,
    tables: Tables,
    turn: WriteTurn,
    new: Sequence[tuple[Item, int, int]],
    made: Sequence[Vectors],
) -> None:
    versions = [
        [row, *rows.values(item), version, turn.now, None, None]
        for row, (item, version, _) in enumerate(new, turn.last_row + 1)
    ]
    vectors = [
        rows.facts(row, item, vector)
        for row, ((item, _, _), vector) in enumerate(zip(new, made, strict=True), turn.last_row + 1)
    ]
    _copy(db, tables, turn, versions, vectors)
    db.execute("UPDATE stores SET last_row = last_row + %s WHERE id = %s", [len(new), tables.store])


def _copy(
    db: PgConnection,
    tables: Tables,
    turn: WriteTurn,
    versions: Sequence[list[Any]],
    vectors: Sequence[list[Any]],
) -> None:
    columns = sql.SQL("row, {}, version, began, ended, ended_seq").format(rows.FIELDS)
    types = ["int8", *rows.ITEM_TYPES, "int4", "float8", "float8", "int8"]
    for table, fields, kinds, records in (
        (tables.items, columns, types, versions),
        (tables.vectors(turn.generation), rows.FACTS, rows.FACT_TYPES, vectors),
    ):
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(table, fields)
        with db.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(kinds)
            for record in records:
                copy.write_row(record)


def _forget(db: PgConnection, tables: Tables, turn: WriteTurn, gone: list[int]) -> None:
    """Vectors; those of the next embedder too, where the store is being embedded anew."""
    for table in (tables.vectors(turn.generation), tables.vectors(turn.generation + 1)):
        there = db.execute("SELECT to_regclass(%s) IS NOT NULL", [table.as_string(db)]).fetchone()
        if there == (True,):
            db.execute(sql.SQL("DELETE FROM {} WHERE row = ANY(%s)").format(table), [gone])


def _tell(db: PgConnection, tables: Tables, erasures: Sequence[Erasure]) -> None:
    query = sql.SQL("INSERT INTO {} (at, by, versions, digest) VALUES (%s, %s, %s, %s)").format(
        tables.erasures
    )
    with db.cursor() as cursor:
        cursor.executemany(query, [(e.at, e.by, e.versions, e.digest) for e in erasures])
