"""/v1/alignment/stores: norms and demonstrations over HTTP, live and durable when acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from email.message import Message
from typing import Annotated, Literal

from msgspec import Meta
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from heedful.retrieval import InvalidItem, Item, UnknownItem, UnknownStore
from heedful.retrieval.ingest import Parsed, decoded, export_lines, parse
from heedful.retrieval.items import iso, item_of, time_of, unhurried
from heedful.retrieval.store.store import Store
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Client, Role
from heedful.server.access.letting_in import client_of
from heedful.server.access.store_rights import forbidden, may_destroy, may_read, may_write
from heedful.server.api.bodies import typed
from heedful.server.api.exporting import Export
from heedful.server.api.operation import Operation, Parameter
from heedful.server.api.store_bodies import (
    MOST,
    DeletedObject,
    ImportedObject,
    ItemsBody,
    ListObject,
    SearchBody,
    StoreItem,
    StoreObject,
    WrittenObject,
    filter_of,
)
from heedful.server.http import Handler, body_of, json_object, json_response
from heedful.server.service import Service
from heedful.strategies import RequestError
from heedful.strategies.retrieve import retrieval_errors

_PAGE, _EXPORTED = 100, 500
_SMALL = 64 << 10  # bytes of a body that are read in a few milliseconds
_LAST_ROW = 2**63 - 1  # SQLite's


def _stores(request: Request) -> Stores:
    service: Service = request.app.state.service
    stores = service.resources(client_of(request.scope)).stores
    if stores is None:
        raise RequestError("this server has no stores", status=404, code="no_stores")
    return stores


def _limit(request: Request) -> int:
    service: Service = request.app.state.service
    return service.config.max_body_bytes


def _with_retrieval_errors(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        with retrieval_errors():
            return await handler(request)

    answer.__doc__ = handler.__doc__
    return answer


def _allowed(request: Request, may: Callable[[Client, str], bool]) -> str:
    """The name of the request's store. Raises RequestError where its client may not do this with one of that name."""
    client, name = client_of(request.scope), str(request.path_params["store"])
    if not may(client, name):
        raise forbidden(client, name)
    return name


async def _named(request: Request, may: Callable[[Client, str], bool] = may_read) -> tuple[Stores, Store]:
    name, stores = _allowed(request, may), _stores(request)
    stores.require(name)
    return stores, await stores.open(name)


async def list_stores(request: Request) -> Response:
    """GET /v1/alignment/stores"""
    client, stores = client_of(request.scope), _stores(request)
    data = []
    for name in stores.names():
        if not may_read(client, name):
            continue
        with suppress(UnknownStore):  # deleted in this moment
            data.append(await stores.call((await stores.open(name)).describe))
    return json_response({"object": "list", "data": data})


async def show_store(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE"""
    stores, store = await _named(request)
    return json_response(await stores.call(store.describe))


async def create_store(request: Request) -> Response:
    """PUT /v1/alignment/stores/STORE: 201 where it is new, 200 where it was there."""
    name, stores = _allowed(request, may_write), _stores(request)
    store, new = await stores.make(name)
    return json_response(await stores.call(store.describe), 201 if new else 200)


async def drop_store(request: Request) -> Response:
    """DELETE /v1/alignment/stores/STORE: with its whole history."""
    name, stores = _allowed(request, may_destroy), _stores(request)
    await stores.delete_store(name)
    return json_response({"name": name, "deleted": True})


async def add_items(request: Request) -> Response:
    """POST /v1/alignment/stores/STORE/items: one item, or {"items": […]}: all of them or none."""
    stores, store = await _named(request, may_write)
    body = await body_of(request, limit=_limit(request))
    # Reading and checking megabytes takes seconds, in which nobody else would have an answer.
    items = _items(body) if len(body) <= _SMALL else await stores.long(_items, body)
    written = await stores.add(store, items)
    ids = [item.id for item in items]
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
    """GET /v1/alignment/stores/STORE/items?after=&limit=&as_of=: in the order written, a page at a time."""
    stores, store = await _named(request)
    query = request.query_params
    after, limit = _number(query, "after", 0, 0, _LAST_ROW), _number(query, "limit", _PAGE, 1, MOST)
    as_of = time_of(query["as_of"], "as_of") if "as_of" in query else None

    def page() -> Response:
        found = store.page(after, limit, as_of=as_of)
        data = [version.as_json() for _, version in found]
        following = found[-1][0] if len(found) == limit else None
        return json_response({"object": "list", "data": data, "next_after": following})

    return await stores.long(page)


async def show_item(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/items/ID"""
    stores, store = await _named(request)
    item = await stores.call(store.get, request.path_params["id"])
    if item is None:
        raise UnknownItem(f"no item {request.path_params['id']!r} stands in {request.path_params['store']!r}")
    return json_response(item.as_json())


async def delete_item(request: Request) -> Response:
    """DELETE /v1/alignment/stores/STORE/items/ID: it ends now, and stays in the history; ?erase=true: in nothing."""
    erase = request.query_params.get("erase", "false")
    if erase not in ("true", "false"):
        raise RequestError("erase: must be true or false", param="erase")
    stores, store = await _named(request, may_destroy if erase == "true" else may_write)
    id = request.path_params["id"]
    if erase == "true":
        erased = await stores.erase(store, [id], client_of(request.scope).key_id)
        if not erased:
            raise UnknownItem(f"there never was an item {id!r}")
        return json_response({"id": id, "deleted": True, "erased": True, "versions": erased[id]})
    if not await stores.delete(store, [id]):
        raise UnknownItem(f"no item {id!r} stands in {request.path_params['store']!r}")
    return json_response({"id": id, "deleted": True})


async def item_history(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/history/ID: every version, the oldest first, after a mark of each erasure."""
    stores, store = await _named(request)
    id = request.path_params["id"]
    erased = await stores.call(store.erasures, id)
    versions = await stores.call(store.history, id)
    if not versions and not erased:
        raise UnknownItem(f"there never was an item {id!r}")
    marks = [{"erased": iso(each.at), "versions": each.versions} for each in erased]
    return json_response({"object": "list", "data": [*marks, *(v.as_json() for v in versions)]})


async def list_erasures(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/erasures: when, by which key, how many versions, and the digest of the id."""
    stores, store = await _named(request, may_destroy)
    data = [each.as_json() for each in await stores.call(store.erasures)]
    return json_response({"object": "list", "data": data})


async def search(request: Request) -> Response:
    """POST /v1/alignment/stores/STORE/search: {"query", "k", "kind", "scopes", "tags", "at"}"""
    stores, store = await _named(request)
    body = typed(json_object(await body_of(request, limit=_limit(request))), SearchBody)
    if not body.query.strip():
        raise RequestError("query: give a text", param="query")
    hits = await stores.search(store.path.stem, body.query, body.k, filter_of(body))
    return json_response(
        {"object": "list", "data": [{"score": round(h.score, 6), **h.item.as_json()} for h in hits]}
    )


async def import_file(request: Request) -> Response:
    """POST /v1/alignment/stores/STORE/import?format=jsonl|csv|markdown|text: the body is the file.

    It is UTF-8, or in the `charset` of its content type. With bad lines nothing is imported (400 lists them), unless
    `skip_bad=true`.
    """
    stores, store = await _named(request, may_write)
    query = request.query_params
    defaults = {k: v for k, v in query.items() if k in ("source", "scope", "tags", "kind")}
    body = await body_of(request, limit=_limit(request))

    def read() -> Parsed:
        try:
            text = decoded(body, _charset(request))
        except InvalidItem as error:
            raise RequestError(str(error), code="invalid_encoding") from error
        return parse(text, query.get("format", "jsonl"), defaults=defaults)

    parsed = await stores.long(read)
    bad = [{"line": line, "problem": problem} for line, problem in parsed.problems]
    if bad and query.get("skip_bad") != "true":
        first = "; ".join(f"line {b['line']}: {b['problem']}" for b in bad[:20])
        raise RequestError(
            f"{len(bad)} bad lines, so nothing was imported (skip_bad=true passes over them): {first}",
            code="bad_lines",
        )
    done = await stores.add_all(store, parsed.items)
    return json_response({**asdict(done), "bad": bad})


def _charset(request: Request) -> str | None:
    kind = Message()
    kind["content-type"] = request.headers.get("content-type", "")
    return kind.get_content_charset()


async def export_file(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/export: what stands now, as JSON lines that import reads again."""
    stores, store = await _named(request)
    now = await stores.call(store.cursor)

    def piece(after: int) -> tuple[int, bytes]:
        page = store.page(after, _EXPORTED, within=now)
        return page[-1][0] if page else 0, b"".join(export_lines(version.item for _, version in page))

    return Export(stores, piece, await stores.long(piece, 0))


def _number(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    try:
        number = int(query.get(name, default))
    except ValueError:
        raise RequestError(f"{name}: must be a whole number", param=name) from None
    if not least <= number <= most:
        raise RequestError(f"{name}: must be from {least} to {most}", param=name)
    return number


class _AnyId(Convertor[str]):
    """Ids written before there was a rule for them may hold ends of lines, and can be read and deleted too."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("item_id", _AnyId())

_BASE = "/v1/alignment/stores"
_STORE = f"{_BASE}/{{store}}"
_NAME = {"store": Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]}
_NEW = {201: "Something is new"}
OPERATIONS = tuple(
    replace(each, handler=_with_retrieval_errors(each.handler), path_kinds=_NAME)
    for each in (
        Operation("GET", _BASE, list_stores, "All stores", answer=ListObject, role=Role.AUTHOR),
        Operation("GET", _STORE, show_store, "One store", answer=StoreObject, role=Role.AUTHOR),
        Operation(
            "PUT", _STORE, create_store, "Makes a store", answer=StoreObject, also=_NEW, role=Role.AUTHOR
        ),
        Operation(
            "DELETE", _STORE, drop_store, "Drops it with its history", answer=DeletedObject, role=Role.ADMIN
        ),
        Operation(
            "GET",
            f"{_STORE}/items",
            list_items,
            "Items, a page at a time",
            answer=ListObject,
            parameters=(
                Parameter("after", Annotated[int, Meta(ge=0)]),
                Parameter("limit", Annotated[int, Meta(ge=1, le=MOST)]),
                Parameter("as_of", str, about="What stood then, in ISO 8601"),
            ),
            role=Role.AUTHOR,
        ),
        Operation(
            "POST",
            f"{_STORE}/items",
            add_items,
            "Adds or replaces items: all of them or none",
            body=ItemsBody,
            answer=WrittenObject,
            also=_NEW,
            role=Role.AUTHOR,
        ),
        Operation(
            "GET", f"{_STORE}/items/{{id:item_id}}", show_item, "One item", answer=StoreItem, role=Role.AUTHOR
        ),
        Operation(
            "DELETE",
            f"{_STORE}/items/{{id:item_id}}",
            delete_item,
            "Ends an item, or erases it",
            answer=DeletedObject,
            parameters=(
                Parameter(
                    "erase", Literal["true", "false"], about="All its versions, wherever they are kept"
                ),
            ),
            role=Role.AUTHOR,
        ),
        Operation(
            "GET",
            f"{_STORE}/erasures",
            list_erasures,
            "What was erased when, and by whom",
            answer=ListObject,
            role=Role.ADMIN,
        ),
        Operation(
            "GET",
            f"{_STORE}/history/{{id:item_id}}",
            item_history,
            "All versions of an item",
            answer=ListObject,
            role=Role.AUTHOR,
        ),
        Operation(
            "POST",
            f"{_STORE}/search",
            search,
            "The nearest items",
            body=SearchBody,
            answer=ListObject,
            role=Role.AUTHOR,
        ),
        Operation(
            "POST",
            f"{_STORE}/import",
            import_file,
            "Imports a file",
            body=str,
            body_media="text/plain",
            answer=ImportedObject,
            parameters=(
                Parameter("format", Literal["jsonl", "csv", "markdown", "text"]),
                Parameter("skip_bad", Literal["true", "false"], about="Pass over lines that can't be read"),
            ),
            role=Role.AUTHOR,
        ),
        Operation(
            "GET",
            f"{_STORE}/export",
            export_file,
            "All items as JSON lines",
            answer=str,
            answer_media="application/jsonl",
            role=Role.AUTHOR,
        ),
    )
)
