"""What a writer takes items for: a write that is based on an older version than the one that stands is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from heedful.retrieval.errors import VersionConflict
from heedful.retrieval.store import records

Expected = Mapping[str, int | None]
"""The version that stands of an item, by id; None: none does."""


def require(db: sqlite3.Connection, expected: Expected) -> None:
    """Within the transaction that writes. Raises VersionConflict."""
    if not expected:
        return
    ids = list(expected)
    query = f"SELECT id, version FROM items WHERE id IN ({records.marks(ids)}) AND ended IS NULL"
    compare(expected, dict(db.execute(query, ids).fetchall()))


def compare(expected: Expected, standing: Mapping[str, int]) -> None:
    """`standing`: the versions that stand, by id. Raises VersionConflict."""
    for id, version in expected.items():
        if (stands := standing.get(id)) != version:
            now = "it does not stand" if stands is None else f"version {stands} stands"
            then = "no version of it" if version is None else f"version {version}"
            raise VersionConflict(f"the item {id!r} has been changed: {now}, not {then}", id)
