"""The page at `/` and `/playground`: the files of server/page/, each read and compressed once for as long as it stays
as it is, under a policy that lets in nothing from elsewhere. Addresses in it are relative, as those of /docs are."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

ROOT = Path(str(files("heedful.server"))) / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time, and sent again only where it is another
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it goes out. `etag` is of its content."""

    plain: bytes
    packed: bytes
    media_type: str
    etag: str


def add_to(app: FastAPI) -> None:
    """Adds the page's routes."""
    shell = [_Read(path, _shell, methods=["GET"]) for path in ("/", "/playground")]
    app.router.routes += [*shell, _Read("/page/{path:path}", _file, methods=["GET"])]


class _Read(Route):
    """Is not there for other methods: what is posted to `/` is meant for the API, and gets the 404 that says so."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, rest = super().matches(scope)
        return (match, rest) if match is Match.FULL else (Match.NONE, {})


# Not coroutines: they read files, so Starlette runs them in a thread.


def _shell(request: Request) -> Response:
    """GET / and GET /playground"""
    return _answer(request, "index.html")


def _file(request: Request) -> Response:
    """GET /page/PATH"""
    return _answer(request, request.path_params["path"])


def _answer(request: Request, name: str) -> Response:
    file = (ROOT / name).resolve() if "\0" not in name else ROOT
    if not (file.is_relative_to(ROOT.resolve()) and file.suffix in _TYPES and file.is_file()):
        raise HTTPException(404)
    asset = _asset(file, file.stat().st_mtime_ns)
    packs = _takes_gzip(request.headers.get("accept-encoding", ""))
    etag = f'"{asset.etag}{"-gz" if packs else ""}"'
    headers = {**_HEADERS, "etag": etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    if packs:
        headers["content-encoding"] = "gzip"
    return Response(asset.packed if packs else asset.plain, 200, headers, asset.media_type)


@lru_cache(maxsize=256)
def _asset(file: Path, changed: int) -> Asset:
    """`changed`: when the file was written, so that one that is edited is read anew."""
    plain = file.read_bytes()
    return Asset(plain, gzip.compress(plain, 9, mtime=0), _TYPES[file.suffix], sha256(plain).hexdigest()[:20])


def _takes_gzip(accepted: str) -> bool:
    for coding in accepted.lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
