"""Rows of the database as what they stand for, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.items import Item, encoded

FIELDS = "id, kind, text, answer, source, scope, tags, mandatory, valid_from, valid_until, meta"
T = TypeVar("T")


def pieces(values: Sequence[T], size: int = 1000) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def item(record: Sequence[object]) -> Item:
    id, kind, text, answer, source, scope, tags, mandatory, valid_from, valid_until, meta = record
    return Item(
        id=str(id),
        kind=str(kind),
        text=str(text),
        answer=str(answer),
        source=str(source),
        scope=str(scope),
        tags=tuple(msgspec.json.decode(str(tags))),
        mandatory=bool(mandatory),
        valid_from=valid_from,  # type: ignore[arg-type]
        valid_until=valid_until,  # type: ignore[arg-type]
        meta=msgspec.json.decode(str(meta)),
    )


def values(item: Item) -> list[object]:
    said = [item.id, item.kind, item.text, item.answer, item.source, item.scope]
    return [
        *said,
        encoded(item.tags),
        int(item.mandatory),
        item.valid_from,
        item.valid_until,
        encoded(item.meta),
    ]


def matrix(records: Sequence[tuple[int, bytes]]) -> tuple[np.ndarray, Vectors]:
    rows = np.fromiter((r[0] for r in records), np.int64, len(records))
    return rows, np.frombuffer(b"".join(r[1] for r in records), np.float32).reshape(len(records), -1)
