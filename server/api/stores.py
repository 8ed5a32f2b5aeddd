"""/v1/alignment/stores: norms and demonstrations over HTTP, live and durable when acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from email.message import Message
from typing import Annotated, Literal

from msgspec import Meta
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heedful.retrieval import Filter, InvalidItem, Item, StoreError, UnknownItem, UnknownStore
from heedful.retrieval.ingest import Parsed, decoded, export_lines, parse
from heedful.retrieval.items import item_of, time_of, unhurried
from heedful.retrieval.store.store import Store
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Role
from heedful.server.api.bodies import typed
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
)
from heedful.server.http import Handler, WhileConnected, body_of, json_object, json_response
from heedful.server.log import logger
from heedful.server.service import Service
from heedful.strategies import RequestError
from heedful.strategies.retrieve import retrieval_errors

_PAGE, _EXPORTED = 100, 500
_SMALL = 64 << 10  # bytes of a body that are read in a few milliseconds
_LAST_ROW = 2**63 - 1  # SQLite's


def _stores(request: Request) -> Stores:
    service: Service = request.app.state.service
    stores = service.alignments.resources.stores
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


async def _named(request: Request) -> tuple[Stores, Store]:
    stores = _stores(request)
    name = request.path_params["store"]
    stores.require(name)
    return stores, await stores.open(name)


async def list_stores(request: Request) -> Response:
    """GET /v1/alignment/stores"""
    stores = _stores(request)
    data = []
    for name in stores.names():
        with suppress(UnknownStore):  # deleted in this moment
            data.append(await stores.call((await stores.open(name)).describe))
    return json_response({"object": "list", "data": data})


async def show_store(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE"""
    stores, store = await _named(request)
    return json_response(await stores.call(store.describe))


async def create_store(request: Request) -> Response:
    """PUT /v1/alignment/stores/STORE: 201 where it is new, 200 where it was there."""
    stores = _stores(request)
    store, new = await stores.make(request.path_params["store"])
    return json_response(await stores.call(store.describe), 201 if new else 200)


async def drop_store(request: Request) -> Response:
    """DELETE /v1/alignment/stores/STORE: with its whole history."""
    stores = _stores(request)
    name = request.path_params["store"]
    await stores.delete_store(name)
    return json_response({"name": name, "deleted": True})


async def add_items(request: Request) -> Response:
    """POST /v1/alignment/stores/STORE/items: one item, or {"items": […]}: all of them or none."""
    stores, store = await _named(request)
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
    """DELETE /v1/alignment/stores/STORE/items/ID: it ends now, and stays in the history."""
    stores, store = await _named(request)
    id = request.path_params["id"]
    if not await stores.delete(store, [id]):
        raise UnknownItem(f"no item {id!r} stands in {request.path_params['store']!r}")
    return json_response({"id": id, "deleted": True})


async def item_history(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/history/ID: every version, the oldest first."""
    stores, store = await _named(request)
    versions = await stores.call(store.history, request.path_params["id"])
    if not versions:
        raise UnknownItem(f"there never was an item {request.path_params['id']!r}")
    return json_response({"object": "list", "data": [v.as_json() for v in versions]})


async def search(request: Request) -> Response:
    """POST /v1/alignment/stores/STORE/search: {"query", "k", "kind", "scopes", "tags", "at"}"""
    stores, store = await _named(request)
    body = typed(json_object(await body_of(request, limit=_limit(request))), SearchBody)
    if not body.query.strip():
        raise RequestError("query: give a text", param="query")
    hits = await stores.search(store.path.stem, body.query, body.k, _filter(body))
    return json_response(
        {"object": "list", "data": [{"score": round(h.score, 6), **h.item.as_json()} for h in hits]}
    )


async def import_file(request: Request) -> Response:
    """POST /v1/alignment/stores/STORE/import?format=jsonl|csv|markdown|text: the body is the file.

    It is UTF-8, or in the `charset` of its content type. With bad lines nothing is imported (400 lists them), unless
    `skip_bad=true`.
    """
    stores, store = await _named(request)
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

    return _Export(stores, piece, await stores.long(piece, 0))


class _Export(Response):
    """Line upon line. Where the store is deleted meanwhile, the connection breaks off: nothing calls it whole."""

    media_type = "application/jsonl"

    def __init__(
        self, stores: Stores, piece: Callable[[int], tuple[int, bytes]], first: tuple[int, bytes]
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._stores, self._piece, self._first = stores, piece, first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            async with WhileConnected(receive):
                await self._send(send)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        after, lines = self._first
        while lines:
            await send({"type": "http.response.body", "body": lines, "more_body": True})
            try:
                after, lines = await self._stores.long(self._piece, after)
            except StoreError as error:
                logger.warning("an export was broken off: %s", error)
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _filter(body: SearchBody) -> Filter:
    return Filter(
        kind=body.kind,
        scopes=None if body.scopes is None else frozenset(body.scopes),
        tags=frozenset(body.tags or ()),
        at=time.time() if body.at is None else time_of(body.at, "at"),
    )


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
        Operation("GET", _BASE, list_stores, "All stores", answer=ListObject, role=Role.USER),
        Operation("GET", _STORE, show_store, "One store", answer=StoreObject, role=Role.USER),
        Operation(
            "PUT", _STORE, create_store, "Makes a store", answer=StoreObject, also=_NEW, role=Role.ADMIN
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
            role=Role.USER,
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
            "GET", f"{_STORE}/items/{{id:item_id}}", show_item, "One item", answer=StoreItem, role=Role.USER
        ),
        Operation(
            "DELETE",
            f"{_STORE}/items/{{id:item_id}}",
            delete_item,
            "Ends an item",
            answer=DeletedObject,
            role=Role.AUTHOR,
        ),
        Operation(
            "GET",
            f"{_STORE}/history/{{id:item_id}}",
            item_history,
            "All versions of an item",
            answer=ListObject,
            role=Role.USER,
        ),
        Operation(
            "POST",
            f"{_STORE}/search",
            search,
            "The nearest items",
            body=SearchBody,
            answer=ListObject,
            role=Role.USER,
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
            role=Role.USER,
        ),
    )
)
