"""/v1/alignment/stores: norms and demonstrations over HTTP, live and durable when acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Literal

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from heedful.retrieval import InvalidItem, Item, UnknownItem, UnknownStore
from heedful.retrieval.items import iso, item_of, time_of, unhurried
from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.readable import SHARED
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Client, Role
from heedful.server.access.letting_in import client_of
from heedful.server.access.store_rights import may_destroy, may_read, may_write
from heedful.server.api.bodies import typed
from heedful.server.api.operation import Operation, Parameter
from heedful.server.api.store_bodies import (
    MOST,
    PAGE_FILTERS,
    DeletedObject,
    ItemsBody,
    ListObject,
    SearchBody,
    StoreItem,
    StoreList,
    StoreObject,
    WrittenObject,
    filter_of,
    filter_of_query,
)
from heedful.server.api.store_of import BASE, STORE, allowed, limit_of, named, of_stores, stores_of
from heedful.server.api.store_versions import IF_MATCH, IF_NONE_MATCH, agreed, etag, expected
from heedful.server.http import body_of, json_object, json_response
from heedful.server.service import Service
from heedful.strategies import RequestError

_PAGE = 100
_SMALL = 64 << 10  # bytes of a body that are read in a few milliseconds
_LAST_ROW = 2**63 - 1  # SQLite's


async def list_stores(request: Request) -> Response:
    """GET /v1/alignment/stores"""
    client, stores = client_of(request.scope), stores_of(request)
    data = []
    for name in stores.names():
        if not may_read(client, name):
            continue
        with suppress(UnknownStore):  # deleted in this moment
            data.append(await _described(client, stores, await stores.open(name)))
    return json_response({"object": "list", "data": data, "shared": _shared(request)})


def _shared(request: Request) -> list[str]:
    """Those of somebody else that this client's answers may heed; what is in them is not its affair."""
    service: Service = request.app.state.service
    readable = service.resources(client_of(request.scope)).readable
    return [name for name in readable.names() if name.startswith(SHARED)]


async def _described(client: Client, stores: Stores, store: AnyStore) -> dict[str, object]:
    name = store.name
    may = {"write": may_write(client, name), "erase": may_destroy(client, name)}
    return {**await stores.call(store.describe), "may": may}


async def show_store(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE"""
    stores, store = await named(request)
    return json_response(await _described(client_of(request.scope), stores, store))


async def create_store(request: Request) -> Response:
    """PUT /v1/alignment/stores/STORE: 201 where it is new, 200 where it was there."""
    name, stores = allowed(request, may_write), stores_of(request)
    store, new = await stores.make(name)
    described = await _described(client_of(request.scope), stores, store)
    return json_response(described, 201 if new else 200)


async def drop_store(request: Request) -> Response:
    """DELETE /v1/alignment/stores/STORE: with its whole history."""
    name, stores = allowed(request, may_destroy), stores_of(request)
    await stores.delete_store(name)
    return json_response({"name": name, "deleted": True})


async def add_items(request: Request) -> Response:
    """POST /v1/alignment/stores/STORE/items: one item, or {"items": […]}: all of them or none."""
    stores, store = await named(request, may_write)
    body = await body_of(request, limit=limit_of(request))
    # Reading and checking megabytes takes seconds, in which nobody else would have an answer.
    items = _items(body) if len(body) <= _SMALL else await stores.long(_items, body)
    ids = [item.id for item in items]
    async with agreed(stores, store):
        written = await stores.add(store, items, expected(request, ids))
    done = {"added": written.added, "replaced": written.replaced, "unchanged": written.unchanged}
    return json_response({"ids": ids, **done, "truncated": written.truncated}, 201 if written.added else 200)


def _items(raw: bytes) -> list[Item]:
    body = json_object(raw)
    values = body["items"] if set(body) == {"items"} else [body]
    if not isinstance(values, list):
        raise RequestError("items: must be a list of items", param="items")
    items = []
    for i, value in enumerate(unhurried(values)):
        try:
            items.append(item_of(value))
        except InvalidItem as error:
            where = f"items.{i}" if set(body) == {"items"} else ""
            field = ".".join(part for part in (where, error.field) if part)
            raise InvalidItem(f"{where}: {error}" if where else str(error), field or None) from error
    return items


async def list_items(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/items?after=&limit=&as_of=&kind=…: in the order written, a page at a time."""
    stores, store = await named(request)
    query = request.query_params
    after, limit = _number(query, "after", 0, 0, _LAST_ROW), _number(query, "limit", _PAGE, 1, MOST)
    as_of = time_of(query["as_of"], "as_of") if "as_of" in query else None
    filter = filter_of_query(query)

    def page() -> Response:
        found = store.page(after, limit, as_of=as_of, filter=filter)
        data = [version.as_json() for _, version in found]
        following = found[-1][0] if len(found) == limit else None
        return json_response({"object": "list", "data": data, "next_after": following})

    return await stores.long(page)


async def show_item(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/items/ID"""
    stores, store = await named(request)
    id = request.path_params["id"]
    standing = (await stores.call(store.standing, [id])).get(id)
    if standing is None:
        raise UnknownItem(f"no item {id!r} stands in {request.path_params['store']!r}")
    response = json_response(standing.item.as_json())
    response.headers["etag"] = etag(standing)
    return response


async def delete_item(request: Request) -> Response:
    """DELETE /v1/alignment/stores/STORE/items/ID: it ends now, and stays in the history; ?erase=true: in nothing."""
    erase = request.query_params.get("erase", "false")
    if erase not in ("true", "false"):
        raise RequestError("erase: must be true or false", param="erase")
    stores, store = await named(request, may_destroy if erase == "true" else may_write)
    id = request.path_params["id"]
    if erase == "true":
        erased = await stores.erase(store, [id], client_of(request.scope).key_id)
        if not erased:
            raise UnknownItem(f"there never was an item {id!r}")
        return json_response({"id": id, "deleted": True, "erased": True, "versions": erased[id]})
    async with agreed(stores, store):
        gone = await stores.delete(store, [id], expected(request, [id]))
    if not gone:
        raise UnknownItem(f"no item {id!r} stands in {request.path_params['store']!r}")
    return json_response({"id": id, "deleted": True})


async def item_history(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/history/ID: every version, the oldest first, after a mark of each erasure."""
    stores, store = await named(request)
    id = request.path_params["id"]
    erased = await stores.call(store.erasures, id)
    versions = await stores.call(store.history, id)
    if not versions and not erased:
        raise UnknownItem(f"there never was an item {id!r}")
    marks = [{"erased": iso(each.at), "versions": each.versions} for each in erased]
    return json_response({"object": "list", "data": [*marks, *(v.as_json() for v in versions)]})


async def list_erasures(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/erasures: when, by which key, how many versions, and the digest of the id."""
    stores, store = await named(request, may_destroy)
    data = [each.as_json() for each in await stores.call(store.erasures)]
    return json_response({"object": "list", "data": data})


async def search(request: Request) -> Response:
    """POST /v1/alignment/stores/STORE/search: {"query", "k", "kind", "scopes", "tags", "at"}"""
    stores, store = await named(request)
    body = typed(json_object(await body_of(request, limit=limit_of(request))), SearchBody)
    if not body.query.strip():
        raise RequestError("query: give a text", param="query")
    hits = await stores.search(store.name, body.query, body.k, filter_of(body))
    return json_response(
        {"object": "list", "data": [{"score": round(h.score, 6), **h.item.as_json()} for h in hits]}
    )


def _number(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    try:
        number = int(query.get(name, default))
    except ValueError:
        raise RequestError(f"{name}: must be a whole number", param=name) from None
    if not least <= number <= most:
        raise RequestError(f"{name}: must be from {least} to {most}", param=name)
    return number


_NEW = {201: "Something is new"}
OPERATIONS = of_stores(
    (
        Operation("GET", BASE, list_stores, "All stores", answer=StoreList, role=Role.AUTHOR),
        Operation("GET", STORE, show_store, "One store", answer=StoreObject, role=Role.AUTHOR),
        Operation(
            "PUT", STORE, create_store, "Makes a store", answer=StoreObject, also=_NEW, role=Role.AUTHOR
        ),
        Operation(
            "DELETE", STORE, drop_store, "Drops it with its history", answer=DeletedObject, role=Role.ADMIN
        ),
        Operation(
            "GET",
            f"{STORE}/items",
            list_items,
            "Items, a page at a time",
            answer=ListObject,
            parameters=(
                Parameter("after", Annotated[int, Meta(ge=0)]),
                Parameter("limit", Annotated[int, Meta(ge=1, le=MOST)]),
                Parameter("as_of", str, about="What stood then, in ISO 8601"),
                *PAGE_FILTERS,
            ),
            role=Role.AUTHOR,
        ),
        Operation(
            "POST",
            f"{STORE}/items",
            add_items,
            "Adds or replaces items: all of them or none",
            body=ItemsBody,
            answer=WrittenObject,
            also=_NEW,
            parameters=(IF_MATCH, IF_NONE_MATCH),
            role=Role.AUTHOR,
        ),
        Operation(
            "GET", f"{STORE}/items/{{id:item_id}}", show_item, "One item", answer=StoreItem, role=Role.AUTHOR
        ),
        Operation(
            "DELETE",
            f"{STORE}/items/{{id:item_id}}",
            delete_item,
            "Ends an item, or erases it",
            answer=DeletedObject,
            parameters=(
                IF_MATCH,
                Parameter(
                    "erase", Literal["true", "false"], about="All its versions, wherever they are kept"
                ),
            ),
            role=Role.AUTHOR,
        ),
        Operation(
            "GET",
            f"{STORE}/erasures",
            list_erasures,
            "What was erased when, and by whom",
            answer=ListObject,
            role=Role.ADMIN,
        ),
        Operation(
            "GET",
            f"{STORE}/history/{{id:item_id}}",
            item_history,
            "All versions of an item",
            answer=ListObject,
            role=Role.AUTHOR,
        ),
        Operation(
            "POST",
            f"{STORE}/search",
            search,
            "The nearest items",
            body=SearchBody,
            answer=ListObject,
            role=Role.AUTHOR,
        ),
    )
)
