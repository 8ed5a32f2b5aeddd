"""Two who write the same item: `If-Match` and `If-None-Match` say which version a writer has seen.

RFC 9110, section 13.1: an item's ETag is the number of the version that stands. Where another one does, nothing is
written (412), and the error's `current` is what stands now.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from heedful.retrieval import Version, VersionConflict
from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.expected import Expected
from heedful.retrieval.store.stores import Stores
from heedful.server.api.operation import Parameter
from heedful.strategies import RequestError

IF_MATCH = Parameter(
    "If-Match", str, "header", 'Write only where this version stands: its ETag, such as "3"; else 412'
)
IF_NONE_MATCH = Parameter(
    "If-None-Match", str, "header", "*: write only where no version of the item stands; else 412"
)
_TAG = re.compile(r'"([1-9][0-9]{0,17})"')


def etag(version: Version) -> str:
    return f'"{version.version}"'


def expected(request: Request, ids: list[str]) -> Expected:
    """What the headers ask for. Raises RequestError for what is no version, and where there are several items."""
    match, none = (request.headers.get(each.name.lower()) for each in (IF_MATCH, IF_NONE_MATCH))
    if match is None and none is None:
        return {}
    name = IF_MATCH.name if match is not None else IF_NONE_MATCH.name
    if len(ids) != 1 or (match is not None and none is not None):
        raise RequestError(f"{name}: holds for one item; write them one by one", param=name)
    if match is None:
        if none != "*":
            raise RequestError(
                'If-None-Match: must be *; a version goes into If-Match, such as "3"', param=name
            )
        return {ids[0]: None}
    if (found := _TAG.fullmatch(match.strip())) is None:
        raise RequestError(
            'If-Match: give the version that you have seen, in quotes, such as "3"', param=name
        )
    return {ids[0]: int(found[1])}


@asynccontextmanager
async def agreed(stores: Stores, store: AnyStore) -> AsyncIterator[None]:
    """A write whose conflict is told with what stands now."""
    try:
        yield
    except VersionConflict as error:
        standing = (await stores.call(store.standing, [error.id])).get(error.id)
        told = RequestError(str(error), status=412, param="If-Match", code="version_conflict")
        told.extra = {"current": None if standing is None else standing.as_json()}
        raise told from error
