"""/v1/alignment/records: why an answer came out as it did, for the administrators of its tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from heedful.retrieval.items import time_of
from heedful.server.access.client import EVERYONE, Client, Role
from heedful.server.access.letting_in import client_of
from heedful.server.api.operation import Operation, Parameter
from heedful.server.http import Handler, json_response
from heedful.server.records import export
from heedful.server.records.file import RecordsFile, Wanted
from heedful.server.records.keeping import DecisionRecords
from heedful.server.service import Service
from heedful.strategies import NotFound, RequestError, RetrievalError
from heedful.strategies.retrieve import retrieval_errors

_PAGE, _MOST = 100, 1000
_LAST_ROW = 2**63 - 1  # SQLite's
_WAIT = 10.0  # seconds for what is not written yet


class RetrievedObject(msgspec.Struct):
    """A norm or a demonstration that the model was given; its store has what it said in this version."""

    store: str
    id: str
    version: int


class RecordedText(msgspec.Struct):
    """A text, or its digest: HMAC-SHA256 with the server's own key."""

    text: str | None = None
    digest: str | None = None
    characters: int | None = None


class RecordedAnswer(RecordedText, kw_only=True):
    index: int
    finish_reason: str | None = None
    tool_calls: list[dict[str, Any]] = []


class RecordObject(msgspec.Struct, kw_only=True):
    """What went into one answer; or that a user's records were erased. `plan` holds every step that ran: the server's
    own before, `floor` of them, then the request's, then `verify` for each verification of the server's own."""

    object: Literal["alignment.record", "alignment.erasure"]
    id: str
    time: str
    tenant: str
    key_id: str | None
    request_id: str = ""
    users: list[str] = []
    route: str = ""
    stream: bool = False
    model: str | None = None
    alignment: str | None = None
    plan: list[dict[str, Any]] = []
    floor: int = 0
    norms: list[RetrievedObject] = []
    demonstrations: list[RetrievedObject] = []
    trace: list[dict[str, Any]] = []
    verdict: Literal["passed", "failed", "withheld"] | None = None
    rounds: int = 0
    usage: dict[str, Any] | None = None
    stages: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    question: RecordedText | None = None
    prompt: dict[str, Any] = {}
    answers: list[RecordedAnswer] = []
    status: int = 0
    error: dict[str, Any] | None = None
    client_gone: bool = False
    timing_ms: dict[str, float | None] = {}
    erased: int | None = None


class RecordList(msgspec.Struct):
    object: Literal["list"]
    data: list[RecordObject]
    next_after: int | None


class ErasedObject(msgspec.Struct):
    object: Literal["alignment.erased"]
    erased: int


def _records(request: Request) -> DecisionRecords:
    service: Service = request.app.state.service
    return service.records


def _admin(request: Request) -> Client:
    client = client_of(request.scope)
    if client.role < Role.ADMIN:
        raise RequestError(
            "records are for administrators; this key has another role",
            status=403,
            type="permission_error",
            code="not_allowed",
        )
    return client


def _tenant(request: Request, client: Client) -> str | None:
    """Whose records a request may read: of their own tenant; `default`'s administrators see all (None)."""
    asked = request.query_params.get("tenant")
    own = client.tenant.name
    if own == EVERYONE:
        return asked
    if asked not in (None, own):
        raise RequestError(
            f"tenant: you may see the records of {own!r} alone",
            param="tenant",
            status=403,
            type="permission_error",
            code="not_allowed",
        )
    return own


def _wanted(request: Request, client: Client) -> Wanted:
    query = request.query_params
    since, until = (time_of(query[n], n) if n in query else None for n in ("since", "until"))
    key, user, model, alignment, verdict = map(query.get, ("key", "user", "model", "alignment", "verdict"))
    return Wanted(
        tenant=_tenant(request, client),
        key=key,
        user=user,
        model=model,
        alignment=alignment,
        verdict=verdict,
        since=since,
        until=until,
    )


async def _file(request: Request) -> RecordsFile:
    """The file with all that has been answered so far."""
    records = _records(request)
    if not records.exist:
        raise _unknown()
    try:
        async with asyncio.timeout(_WAIT):
            await asyncio.wrap_future(records.flush())
    except TimeoutError as error:
        raise RetrievalError("the records can't be written at present; the log says why") from error
    return records.file()


def _unknown() -> NotFound:
    """The same for what never was, what is another tenant's, and where nothing is recorded."""
    return NotFound("there is no such record", code="record_not_found")


def _told(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        with retrieval_errors():
            return await handler(request)

    answer.__doc__ = handler.__doc__
    return answer


async def list_records(request: Request) -> Response:
    """GET /v1/alignment/records?tenant=&key=&user=&model=&alignment=&verdict=&since=&until=&after=&limit="""
    wanted = _wanted(request, _admin(request))
    after, limit = _number(request, "after", _LAST_ROW, _LAST_ROW), _number(request, "limit", _PAGE, _MOST)
    if not _records(request).exist:
        return json_response({"object": "list", "data": [], "next_after": None})
    file = await _file(request)
    page = await run_in_threadpool(file.page, wanted, after=after, limit=limit)
    following = page[-1][0] if len(page) == limit else None
    data = [msgspec.Raw(body) for _, body in page]
    return json_response({"object": "list", "data": data, "next_after": following})


async def show_record(request: Request) -> Response:
    """GET /v1/alignment/records/ID: by the response's id; the latest, where an upstream gives one id twice."""
    wanted = replace(Wanted(tenant=_tenant(request, _admin(request))), id=request.path_params["id"])
    file = await _file(request)
    if not (found := await run_in_threadpool(file.page, wanted, limit=1)):
        raise _unknown()
    return Response(found[0][1], media_type="application/json")


async def export_records(request: Request) -> Response:
    """GET /v1/alignment/records/export?format=jsonl|parquet: the oldest first, with the filters of the list."""
    wanted = _wanted(request, _admin(request))
    kind = request.query_params.get("format", "jsonl")
    if kind not in export.FORMATS:
        raise RequestError(f"format: must be one of {', '.join(export.FORMATS)}", param="format")
    pages: Iterator[list[bytes]] = iter(())
    if _records(request).exist:
        pages = (await _file(request)).pages(wanted)
    pieces, media_type = await run_in_threadpool(export.export, kind, pages)
    return StreamingResponse(pieces, media_type=media_type)


async def erase_records(request: Request) -> Response:
    """DELETE /v1/alignment/records?user=ID: of one tenant, one's own unless an administrator of all names it."""
    client = _admin(request)
    tenant = _tenant(request, client) or client.tenant.name
    if not (user := request.query_params.get("user")):
        raise RequestError("user: name the user whose records are to be erased", param="user")
    if unknown := set(request.query_params) - {"user", "tenant"}:
        raise RequestError(
            f"{min(unknown)}: unknown here; all records of a user are erased", param=min(unknown)
        )
    if not _records(request).exist:
        return json_response({"object": "alignment.erased", "erased": 0})
    done = _records(request).erase(tenant, user, client.key_id)
    # Also where the client leaves: half an erasure is none.
    erased = await asyncio.shield(asyncio.wrap_future(done))
    return json_response({"object": "alignment.erased", "erased": erased})


def _number(request: Request, name: str, default: int, most: int) -> int:
    given = request.query_params.get(name, str(default))
    if not (given.isascii() and given.isdecimal() and len(given) < 20 and 1 <= int(given) <= most):
        raise RequestError(f"{name}: must be a whole number from 1 to {most}", param=name)
    return int(given)


_BASE = "/v1/alignment/records"
_TENANT = Parameter("tenant", str, about="Default: one's own; all, for an administrator of `default`")
_FILTERS = (
    _TENANT,
    *(Parameter(name, str) for name in ("key", "user", "model", "alignment")),
    Parameter("verdict", Literal["passed", "failed", "withheld"]),
    *(Parameter(name, str, about="ISO 8601") for name in ("since", "until")),
)
OPERATIONS = tuple(
    replace(each, handler=_told(each.handler))
    for each in (
        Operation(
            "GET",
            _BASE,
            list_records,
            "Decision records, the newest first",
            role=Role.ADMIN,
            answer=RecordList,
            parameters=(
                *_FILTERS,
                Parameter("after", Annotated[int, Meta(ge=1)], about="`next_after` of the page before"),
                Parameter("limit", Annotated[int, Meta(ge=1, le=_MOST)]),
            ),
        ),
        Operation(
            "DELETE",
            _BASE,
            erase_records,
            "Erases all records of a user",
            role=Role.ADMIN,
            answer=ErasedObject,
            parameters=(Parameter("user", Annotated[str, Meta(min_length=1)]), _TENANT),
        ),
        Operation(
            "GET",
            f"{_BASE}/export",
            export_records,
            "All records, as JSON lines or Parquet",
            role=Role.ADMIN,
            answer=str,
            answer_media=export.FORMATS["jsonl"],
            other_media=(export.FORMATS["parquet"],),
            parameters=(*_FILTERS, Parameter("format", Literal["jsonl", "parquet"])),
        ),
        Operation(
            "GET",
            f"{_BASE}/{{id:path}}",
            show_record,
            "One record, by the id of its response",
            role=Role.ADMIN,
            answer=RecordObject,
            parameters=(_TENANT,),
        ),
    )
)
