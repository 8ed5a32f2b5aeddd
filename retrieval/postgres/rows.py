"""Rows of the tables as what they stand for, and filters as conditions on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from psycopg import sql

from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.items import Filter, Item, Version, encoded

FIELDS = sql.SQL("id, kind, text, answer, source, scope, tags, mandatory, valid_from, valid_until, meta")
FIELDS_OF_ITEMS = sql.SQL(
    "id, i.kind, text, answer, source, i.scope, i.tags, i.mandatory, i.valid_from, i.valid_until, meta"
)
"""The same where items (`i`) are joined with their vectors."""
VERSION = sql.SQL("version, began, ended, {}").format(FIELDS)
"""What `version` reads."""
ITEM_TYPES = ["text", *["text"] * 5, "text[]", "bool", "float8", "float8", "text"]
FACTS = sql.SQL("row, kind, scope, tags, mandatory, valid_from, valid_until, embedding")
FACT_TYPES = ["int8", "text", "text", "text[]", "bool", "float8", "float8", "vector"]


def item(record: Sequence[Any]) -> Item:
    id, kind, text, answer, source, scope, tags, mandatory, valid_from, valid_until, meta = record
    meta = msgspec.json.decode(meta)
    return Item(text, kind, id, answer, source, scope, tuple(tags), mandatory, valid_from, valid_until, meta)


def version(record: Sequence[Any]) -> Version:
    return Version(item(record[3:]), record[0], record[1], record[2])


def values(item: Item) -> list[Any]:
    said = [item.id, item.kind, item.text, item.answer, item.source, item.scope, list(item.tags)]
    return [*said, item.mandatory, item.valid_from, item.valid_until, encoded(item.meta)]


def vector(read: Any) -> Vectors:
    """From pgvector's own kind of vector, shape (d,)."""
    return np.asarray(read.to_numpy(), np.float32)


def facts(row: int, item: Item, vector: Vectors) -> list[Any]:
    held = [item.mandatory, item.valid_from, item.valid_until]
    return [row, item.kind, item.scope, list(item.tags), *held, np.ascontiguousarray(vector, np.float32)]


def facets(item: Item) -> list[tuple[str, str]]:
    """What it is counted under while it stands."""
    binds = [("mandatory", "")] if item.mandatory else []
    return [("kind", item.kind), ("scope", item.scope), *binds, *(("tag", tag) for tag in set(item.tags))]


def passing(filter: Filter) -> tuple[sql.Composable, dict[str, Any]]:
    """What a filter asks for, as a condition on the table of vectors or of items, and the values in it."""
    asked: list[sql.Composable] = [sql.SQL("true")]
    given: dict[str, Any] = {}
    if filter.kind is not None:
        asked.append(sql.SQL("kind = %(kind)s"))
        given["kind"] = filter.kind
    if filter.scopes is not None:
        asked.append(sql.SQL("scope = ANY(%(scopes)s::text[])"))
        given["scopes"] = sorted(filter.scopes | {""})
    if filter.tags:
        asked.append(sql.SQL("tags && %(tags)s::text[]"))
        given["tags"] = sorted(filter.tags)
    if filter.mandatory is not None:
        asked.append(sql.SQL("mandatory" if filter.mandatory else "NOT mandatory"))
    if filter.at is not None:
        held = (
            "(valid_from IS NULL OR valid_from <= %(at)s) AND (valid_until IS NULL OR valid_until > %(at)s)"
        )
        asked.append(sql.SQL(held))
        given["at"] = filter.at
    if filter.upto is not None:
        asked.append(sql.SQL("row <= %(upto)s"))
        given["upto"] = filter.upto
    return sql.SQL(" AND ").join(asked), given
