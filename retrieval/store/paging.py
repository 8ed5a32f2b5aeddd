"""Pages of a store's versions, as a statement for SQLite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from heedful.retrieval.items import Filter, encoded
from heedful.retrieval.store import records

_ANY = "(SELECT value FROM json_each({}))"


@dataclass(frozen=True, slots=True)
class Cursor:
    """A moment of a store: the last row that there was, and the number of the last write; the same until the next."""

    row: int = 0
    seq: int = 0


def page(
    after: int, limit: int, *, as_of: float | None, within: Cursor | None, filter: Filter
) -> tuple[str, dict[str, Any]]:
    """The statement and its values: versions from the row past `after`, in the order written, that pass a filter.

    Those that stand, stood at `as_of`, or `within` a moment.
    """
    values: dict[str, Any] = {"after": after, "limit": limit}
    where = ["row > :after"]
    if within is not None:
        where.append("row <= :last AND (ended_seq IS NULL OR ended_seq > :seq)")
        values |= {"last": within.row, "seq": within.seq}
    elif as_of is not None:
        where.append("began <= :as_of AND (ended IS NULL OR ended > :as_of)")
        values["as_of"] = as_of
    else:
        where.append("ended IS NULL")
    for condition, name, value in _conditions(filter):
        where.append(condition)
        values[name] = value
    columns = f"row, version, began, ended, {records.FIELDS}"
    return f"SELECT {columns} FROM items WHERE {' AND '.join(where)} ORDER BY row LIMIT :limit", values


def _conditions(filter: Filter) -> list[tuple[str, str, Any]]:
    """What a filter asks for, as conditions with the name and the value of what they are given."""
    asked: list[tuple[str, str, Any]] = []
    if filter.kind is not None:
        asked.append(("kind = :kind", "kind", filter.kind))
    if filter.scopes is not None:
        asked.append(
            (f"(scope = '' OR scope IN {_ANY.format(':scopes')})", "scopes", encoded(sorted(filter.scopes)))
        )
    if filter.tags:
        having = f"EXISTS (SELECT 1 FROM json_each(tags) WHERE value IN {_ANY.format(':tags')})"
        asked.append((having, "tags", encoded(sorted(filter.tags))))
    if filter.mandatory is not None:
        asked.append(("mandatory = :mandatory", "mandatory", int(filter.mandatory)))
    if filter.at is not None:
        holds = "(valid_from IS NULL OR valid_from <= :at) AND (valid_until IS NULL OR valid_until > :at)"
        asked.append((holds, "at", filter.at))
    return asked
