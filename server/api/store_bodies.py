"""What the API of the stores takes and gives."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.datastructures import QueryParams

from heedful.retrieval import Filter
from heedful.retrieval.items import KINDS, time_of
from heedful.server.api.operation import Parameter
from heedful.strategies import RequestError

MOST = 1000
"""Items of a page, results of a search, scopes and tags of a filter."""


class StoreRights(msgspec.Struct):
    """What whoever asks may do: add, replace and end items; drop the store and erase."""

    write: bool
    erase: bool


class StoreObject(msgspec.Struct):
    """`kinds`: how many norms and demonstrations; `mandatory`: how many bind every answer in their scope. `scopes`
    and `tags` of its items, in order, 1,000 at most."""

    name: str
    items: int
    kinds: dict[Literal["norm", "demo"], int]
    mandatory: int
    scopes: list[str]
    tags: list[str]
    embedder: str
    dimension: int
    index: str
    may: StoreRights


class StoreList(msgspec.Struct):
    """`shared`: names of stores that answers may heed besides, which are somebody else's."""

    object: Literal["list"]
    data: list[StoreObject]
    shared: list[str]


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
    mandatory: bool | None = None
    at: Annotated[Any, Meta(extra_json_schema={"type": ["string", "number"]})] = None
    """Valid at this time; "any": whenever."""


def filter_of(body: SearchBody) -> Filter:
    return Filter(
        kind=body.kind,
        scopes=None if body.scopes is None else frozenset(body.scopes),
        tags=frozenset(body.tags or ()),
        at=time.time() if body.at is None else _moment(body.at),
        mandatory=body.mandatory,
    )


def _moment(at: Any) -> float | None:
    return None if at == "any" else time_of(at, "at")


PAGE_FILTERS = (
    Parameter("kind", Literal["norm", "demo"]),
    Parameter("scope", str, about="Of this scope, or everywhere; several times: of any of these"),
    Parameter("tag", str, about="With this tag; several times: with any of these"),
    Parameter("mandatory", Literal["true", "false"]),
    Parameter("at", str, about="Valid at this time, in ISO 8601; else whenever"),
)


def filter_of_query(query: QueryParams) -> Filter:
    """What PAGE_FILTERS say. Raises RequestError that names the field."""
    kind, mandatory = query.get("kind"), query.get("mandatory")
    if kind not in (None, *KINDS):
        raise RequestError(f"kind: must be one of {', '.join(KINDS)}", param="kind")
    if mandatory not in (None, "true", "false"):
        raise RequestError("mandatory: must be true or false", param="mandatory")
    return Filter(
        kind=kind,
        scopes=frozenset(query.getlist("scope")) if "scope" in query else None,
        tags=frozenset(query.getlist("tag")),
        at=_moment(query["at"]) if "at" in query else None,
        mandatory=None if mandatory is None else mandatory == "true",
    )


class ListObject(msgspec.Struct):
    object: Literal["list"]
    data: list[dict[str, Any]]


class WrittenObject(msgspec.Struct):
    added: list[str]
    replaced: list[str]
    unchanged: list[str]


class BadLine(msgspec.Struct):
    line: int
    problem: str


class ImportedChange(msgspec.Struct):
    """What a line of a file would do: the item as it would be, and `was`, as it stands where it would be replaced."""

    line: int
    change: Literal["added", "replaced"]
    item: dict[str, Any]
    was: dict[str, Any] | None = None


class ImportedObject(msgspec.Struct):
    """`changes`: of a dry run alone, the first 200."""

    added: int
    replaced: int
    unchanged: int
    bad: list[BadLine]
    changes: list[ImportedChange] | None = None


class DeletedObject(msgspec.Struct):
    deleted: bool
