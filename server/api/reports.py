"""/v1/alignment/reports: the raw records of evaluations and benchmarks in a folder, for who runs the server.

Only files that measurements write, by their names, one folder deep: nothing in a name becomes a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from heedful.server.access.client import Role
from heedful.server.access.roles import operators_only
from heedful.server.api.operation import Operation
from heedful.server.http import json_response
from heedful.server.service import Service
from heedful.strategies import NotFound

FILES = {
    "eval.run.json": "application/json",
    "items.jsonl": "application/jsonl",
    "answers.jsonl": "application/jsonl",
    "scores.jsonl": "application/jsonl",
    "judgements.jsonl": "application/jsonl",
    "comparisons.jsonl": "application/jsonl",
    "latency.run.json": "application/json",
    "latency.jsonl": "application/jsonl",
}
"""What a measurement writes, and its media type."""
_MOST = 1000  # folders of a list


class ReportFile(msgspec.Struct):
    """`size` in bytes."""

    name: str
    size: int


class ReportObject(msgspec.Struct):
    """One folder of records; `changed`: when one of its files last was, ISO 8601."""

    name: str
    changed: str
    files: list[ReportFile]


class ReportList(msgspec.Struct):
    """The latest first. `configured`: whether this server was given a folder at all."""

    object: str
    configured: bool
    data: list[ReportObject]


def _folder(request: Request) -> Path | None:
    service: Service = request.app.state.service
    return service.config.reports


def _files(folder: Path) -> Iterator[Path]:
    """Plain files of known names that lie in the folder itself: no link leads out of it."""
    for name in FILES:
        path = folder / name
        if path.is_file() and not path.is_symlink():
            yield path


def _found(root: Path) -> dict[str, list[Path]]:
    """By name each folder that holds records: the root itself, and those in it."""
    inside = sorted(each for each in root.iterdir() if each.is_dir() and not each.is_symlink())
    return {each.name: files for each in [root, *inside] if (files := list(_files(each)))}


def _told(name: str, files: list[Path]) -> ReportObject:
    stats = [path.stat() for path in files]
    changed = datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC).isoformat()
    sizes = [ReportFile(path.name, stat.st_size) for path, stat in zip(files, stats, strict=True)]
    return ReportObject(name, changed, sizes)


async def list_reports(request: Request) -> Response:
    """GET /v1/alignment/reports"""
    root = _folder(request)

    def read() -> list[ReportObject]:
        if root is None or not root.is_dir():
            return []
        return sorted((_told(*each) for each in _found(root).items()), key=lambda each: each.changed)[::-1]

    data = await run_in_threadpool(read)
    return json_response(ReportList("list", root is not None, data[:_MOST]))


async def show_file(request: Request) -> Response:
    """GET /v1/alignment/reports/NAME/FILE"""
    root, name, file = _folder(request), request.path_params["name"], request.path_params["file"]

    def find() -> Path | None:
        found = _found(root).get(name, []) if root is not None and root.is_dir() else []
        return next((path for path in found if path.name == file), None)

    path = await run_in_threadpool(find)
    if path is None:
        raise NotFound("there is no such file of a report", param="name", code="report_not_found")
    return FileResponse(path, media_type=FILES[path.name], headers={"cache-control": "no-cache"})


OPERATIONS = (
    Operation(
        "GET",
        "/v1/alignment/reports",
        operators_only(list_reports),
        "Records of evaluations and benchmarks in the server's folder of reports",
        role=Role.ADMIN,
        answer=ReportList,
    ),
    Operation(
        "GET",
        "/v1/alignment/reports/{name}/{file}",
        operators_only(show_file),
        "One of their files",
        role=Role.ADMIN,
        answer=str,
        answer_media="application/jsonl",
        other_media=("application/json",),
    ),
)
