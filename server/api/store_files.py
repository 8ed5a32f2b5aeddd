"""/v1/alignment/stores/STORE/import and export: whole files of norms and demonstrations."""

from __future__ import annotations

from dataclasses import asdict
from email.message import Message
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from heedful.retrieval import InvalidItem
from heedful.retrieval.ingest import Parsed, decoded, export_lines, parse
from heedful.retrieval.store.any_store import AnyStore
from heedful.server.access.client import Role
from heedful.server.access.store_rights import may_write
from heedful.server.api.exporting import Export
from heedful.server.api.operation import Operation, Parameter
from heedful.server.api.store_bodies import ImportedObject
from heedful.server.api.store_of import STORE, limit_of, named, of_stores
from heedful.server.http import body_of, json_response
from heedful.strategies import RequestError

_EXPORTED = 500
_TOLD = 200  # lines of a file


async def import_file(request: Request) -> Response:
    """POST /v1/alignment/stores/STORE/import?format=jsonl|csv|markdown|text: the body is the file.

    It is UTF-8, or in the `charset` of its content type. With bad lines nothing is imported (400 lists them), unless
    `skip_bad=true`. With `dry_run=true` nothing is written: the answer says what would be.
    """
    stores, store = await named(request, may_write)
    query = request.query_params
    defaults = {k: v for k, v in query.items() if k in ("source", "scope", "tags", "kind")}
    body = await body_of(request, limit=limit_of(request))

    def read() -> Parsed:
        try:
            text = decoded(body, _charset(request))
        except InvalidItem as error:
            raise RequestError(str(error), code="invalid_encoding") from error
        return parse(text, query.get("format", "jsonl"), defaults=defaults)

    parsed = await stores.long(read)
    bad = [{"line": line, "problem": problem} for line, problem in parsed.problems]
    if query.get("dry_run") == "true":
        return json_response({**await stores.long(_foreseen, store, parsed), "bad": bad})
    if bad and query.get("skip_bad") != "true":
        first = "; ".join(f"line {b['line']}: {b['problem']}" for b in bad[:20])
        refused = RequestError(
            f"{len(bad)} bad lines, so nothing was imported (skip_bad=true passes over them): {first}",
            code="bad_lines",
        )
        refused.extra = {"bad": bad[:_TOLD]}
        raise refused
    done = await stores.add_all(store, parsed.items)
    return json_response({**asdict(done), "bad": bad})


def _foreseen(store: AnyStore, parsed: Parsed) -> dict[str, Any]:
    """What an import would do to a store as it stands."""
    standing = store.standing([item.id for item in parsed.items])
    counts = {"added": 0, "replaced": 0, "unchanged": 0}
    changes: list[dict[str, Any]] = []
    for line, item in zip(parsed.lines, parsed.items, strict=True):
        was = standing.get(item.id)
        change = "added" if was is None else "unchanged" if was.item == item else "replaced"
        counts[change] += 1
        if change != "unchanged" and len(changes) < _TOLD:
            told = {"line": line, "change": change, "item": item.as_json()}
            changes.append(told if was is None else told | {"was": was.item.as_json()})
    return {**counts, "changes": changes}


def _charset(request: Request) -> str | None:
    kind = Message()
    kind["content-type"] = request.headers.get("content-type", "")
    return kind.get_content_charset()


async def export_file(request: Request) -> Response:
    """GET /v1/alignment/stores/STORE/export: what stands now, as JSON lines that import reads again."""
    stores, store = await named(request)
    now = await stores.call(store.cursor)

    def piece(after: int) -> tuple[int, bytes]:
        page = store.page(after, _EXPORTED, within=now)
        return page[-1][0] if page else 0, b"".join(export_lines(version.item for _, version in page))

    return Export(stores, piece, await stores.long(piece, 0))


OPERATIONS = of_stores(
    (
        Operation(
            "POST",
            f"{STORE}/import",
            import_file,
            "Imports a file",
            body=str,
            body_media="text/plain",
            answer=ImportedObject,
            parameters=(
                Parameter("format", Literal["jsonl", "csv", "markdown", "text"]),
                Parameter("skip_bad", Literal["true", "false"], about="Pass over lines that can't be read"),
                Parameter("dry_run", Literal["true", "false"], about="Write nothing, and say what would be"),
            ),
            role=Role.AUTHOR,
        ),
        Operation(
            "GET",
            f"{STORE}/export",
            export_file,
            "All items as JSON lines",
            answer=str,
            answer_media="application/jsonl",
            role=Role.AUTHOR,
        ),
    )
)
