"""What the API of the stores takes and gives."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heedful.retrieval import Filter
from heedful.retrieval.items import time_of

MOST = 1000
"""Items of a page, results of a search, scopes and tags of a filter."""


class StoreObject(msgspec.Struct):
    name: str
    items: int


class StoreItem(msgspec.Struct, kw_only=True):
    """A norm, or a demonstration; read by `retrieval.items.item_of`, wherever it comes from."""

    text: Annotated[str, Meta(min_length=1)]
    kind: Literal["norm", "demo"] = "norm"
    id: str = ""
    answer: str = ""
    source: str = ""
    scope: str = ""
    tags: list[str] = []
    mandatory: bool = False
    valid_from: str | float | None = None
    valid_until: str | float | None = None
    meta: dict[str, Any] = {}


class ItemsBody(StoreItem, kw_only=True):
    """One item, or several as `items`."""

    text: str = ""
    items: list[StoreItem] = []


class SearchBody(msgspec.Struct, forbid_unknown_fields=True):
    query: Annotated[str, Meta(min_length=1)]
    k: Annotated[int, Meta(ge=1, le=MOST)] = 10
    kind: Literal["norm", "demo"] | None = None
    scopes: Annotated[list[str], Meta(max_length=MOST)] | None = None
    tags: Annotated[list[str], Meta(max_length=MOST)] | None = None
    at: Annotated[Any, Meta(extra_json_schema={"type": ["string", "number"]})] = None


def filter_of(body: SearchBody) -> Filter:
    return Filter(
        kind=body.kind,
        scopes=None if body.scopes is None else frozenset(body.scopes),
        tags=frozenset(body.tags or ()),
        at=time.time() if body.at is None else time_of(body.at, "at"),
    )


class ListObject(msgspec.Struct):
    object: Literal["list"]
    data: list[dict[str, Any]]


class WrittenObject(msgspec.Struct):
    added: list[str]
    replaced: list[str]
    unchanged: list[str]


class ImportedObject(msgspec.Struct):
    added: int
    replaced: int
    unchanged: int


class DeletedObject(msgspec.Struct):
    deleted: bool
