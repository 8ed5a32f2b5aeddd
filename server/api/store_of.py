"""Which store a request means, and what of it its client may do: what all operations on stores begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated

from msgspec import Meta
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Client
from heedful.server.access.letting_in import client_of
from heedful.server.access.store_rights import forbidden, may_read
from heedful.server.api.operation import Operation
from heedful.server.http import Handler
from heedful.server.service import Service
from heedful.strategies import RequestError
from heedful.strategies.retrieve import retrieval_errors

BASE = "/v1/alignment/stores"
STORE = f"{BASE}/{{store}}"
_NAME = {"store": Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]}


def stores_of(request: Request) -> Stores:
    service: Service = request.app.state.service
    stores = service.resources(client_of(request.scope)).stores
    if stores is None:
        raise RequestError("this server has no stores", status=404, code="no_stores")
    return stores


def limit_of(request: Request) -> int:
    service: Service = request.app.state.service
    return service.config.max_body_bytes


def with_retrieval_errors(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        with retrieval_errors():
            return await handler(request)

    answer.__doc__ = handler.__doc__
    return answer


def allowed(request: Request, may: Callable[[Client, str], bool]) -> str:
    """The name of the request's store. Raises RequestError where its client may not do this with one of that name."""
    client, name = client_of(request.scope), str(request.path_params["store"])
    if not may(client, name):
        raise forbidden(client, name)
    return name


async def named(request: Request, may: Callable[[Client, str], bool] = may_read) -> tuple[Stores, AnyStore]:
    name, stores = allowed(request, may), stores_of(request)
    stores.require(name)
    return stores, await stores.open(name)


def of_stores(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Operations below STORE, whose errors of retrieval become what a client is told."""
    return tuple(
        replace(each, handler=with_retrieval_errors(each.handler), path_kinds=_NAME) for each in operations
    )


class _AnyId(Convertor[str]):
    """Ids written before there was a rule for them may hold ends of lines, and can be read and deleted too."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("item_id", _AnyId())
