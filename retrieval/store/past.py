"""A store as it stood at a time: what was there then and stands, and what has been replaced or has ended since."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.errors import InvalidItem
from heedful.retrieval.items import Filter, Hit, Version
from heedful.retrieval.store import records
from heedful.retrieval.store.database import Database

if TYPE_CHECKING:
    from heedful.retrieval.store.any_store import AnyStore

MOST = 2000
"""Items that may have been replaced or have ended since: they have no vectors any more, and are embedded anew."""


@dataclass(frozen=True, slots=True)
class Then:
    """`upto`: the last row that there was. `ended`: versions that stood then and do not stand now."""

    upto: int
    ended: list[Version]


def then(database: Database, at: float) -> Then:
    """Raises InvalidItem where more has ended since than is looked through."""
    with database.reading() as db:
        last = db.execute("SELECT row FROM items WHERE began <= ? ORDER BY row DESC LIMIT 1", [at]).fetchone()
        found: list[Any] = db.execute(
            f"SELECT version, began, ended, {records.FIELDS} FROM items "
            "WHERE ended_seq IS NOT NULL AND ended > ? AND began <= ? ORDER BY row LIMIT ?",
            [at, at, MOST + 1],
        ).fetchall()
    if len(found) > MOST:
        raise InvalidItem(f"as_of: more than {MOST:,} items have changed since; give a later time", "as_of")
    return Then(last[0] if last else 0, [Version(records.item(r[3:]), r[0], r[1], r[2]) for r in found])


def search(store: AnyStore, query: Vectors, k: int, filter: Filter, at: float) -> list[Hit]:
    """As `AnyStore.search`, among what stood at a time. Erased items stood at none."""
    stood = store.stood(at)
    hits = store.search(query, k, replace(filter, upto=stood.upto))
    ended = [each for each in stood.ended if filter.passes(each.item)]
    if ended:
        scores = store.embedder.embed_now([each.item.text for each in ended]) @ query
        hits += [Hit(v.item, float(s), v.version, v.began) for v, s in zip(ended, scores, strict=True)]
    return sorted(hits, key=lambda hit: -hit.score)[:k]


def mandatory(store: AnyStore, filter: Filter, at: float) -> list[Version]:
    """As `AnyStore.mandatory`, of what stood at a time."""
    stood = store.stood(at)
    standing = store.mandatory(replace(filter, upto=stood.upto))
    ended = [each for each in stood.ended if each.item.mandatory and filter.passes(each.item)]
    return sorted([*standing, *ended], key=lambda version: version.began)
