"""Every path under /v1 that is not ours: an upstream's, forwarded as it is. No alignment applies, as answers say.

Bodies are streamed both ways. Where they name a model, in JSON or in a form, it chooses the upstream and goes on
under the upstream's name for it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import aiohttp
import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Message, Receive, Scope, Send

from heedful.server.api import passthrough
from heedful.server.edge.encodings import at_most, codings_of, decoded, too_large
from heedful.server.edge.multipart import MultipartForm, boundary_of
from heedful.server.edge.upload import Upload
from heedful.server.engines.upstream.client import Upstream
from heedful.server.engines.upstream.errors import faults, passed_on
from heedful.server.engines.upstream.tally import UsageTally
from heedful.server.exchange import admitted
from heedful.server.http import WhileConnected, client_error, json_object
from heedful.server.observe.facts import facts_of
from heedful.server.service import Service
from heedful.server.shapes import error_shape
from heedful.strategies import NotFound, RequestError

UNALIGNED = "x-heedful-alignment"
"""The answer's header, always `none` here."""
WHERE = "x-heedful-upstream"
"""The request's header that chooses among several upstreams, by host and port as `GET /v1/models` shows it."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_OWN = re.compile(r"/v1/(alignment|v1)(/|$)")  # what is below is ours or nobody's
# Of the client's headers, those that belong to this one request and its body.
_OF_THE_REQUEST = frozenset(
    b"content-type content-encoding content-language accept accept-language range if-range if-match if-none-match "
    b"if-modified-since if-unmodified-since idempotency-key anthropic-version anthropic-beta".split()
)
_MOST_FIELDS, _LONG_FORM = 10_000, 16_384  # of a form: fields; bytes that take a while to take apart
_HELD = (
    256 * 1024
)  # bytes of a form that wait for its model to be named, where that can change nothing but its name
# An upstream's file that a browser opens is no page of this server's: its scripts would have the page's rights.
_NO_PAGE = ((b"content-security-policy", b"sandbox"), (b"x-content-type-options", b"nosniff"))
_NO_BODY = frozenset({204, 304})


def refuse_alignment(header: str | None, fields: Mapping[str, Any]) -> None:
    """Raises RequestError for a request that asks for what does not apply."""
    if header not in (None, "direct"):
        raise _no_alignment("x-alignment")
    if fields.get("alignment") not in (None, "direct"):
        raise _no_alignment("alignment")


def _no_alignment(param: str) -> RequestError:
    return RequestError(
        f"{param}: alignments do not apply to this path; leave it out", param=param, code="no_alignment_here"
    )


def upstreams_of(service: Service, path: str) -> list[Upstream]:
    """Those that may be asked for `path` (below /v1), in the configuration's order."""
    asked = dict.fromkeys(remote.upstream for remote in service.remotes)
    return [upstream for upstream in asked if upstream.config.offers(path)]


def named_model(service: Service, offering: Sequence[Upstream], model: str) -> tuple[Upstream, str]:
    """The upstream of a model, and its name there. Raises RequestError for one that none of them has."""
    name, at, alignment = model, "", ""
    if name not in service.engines and "@" in name:
        name, at, alignment = name.rpartition("@")
    if name not in service.engines:
        if len(offering) == 1 and not offering[0].config.models and not at:
            return offering[0], model  # no list restricts it, and it may have models that it does not show
        known = [remote.model for remote in service.remotes if remote.upstream in offering]
        raise NotFound.among("model", model, known, param="model", code="model_not_found")
    if at and alignment != "direct":
        raise _no_alignment("model")
    remote = service.engines[name].remote
    if remote is None or remote.upstream not in offering:
        raise RequestError(f"model: {name!r} does not have this path", param="model", status=404)
    return remote.upstream, remote.upstream_model


class OtherPaths:
    """The ASGI application of everything under /v1 that has no route of its own."""

    def __init__(self, service: Service, routes: Sequence[BaseRoute]) -> None:
        self._service = service
        self._routes = [route for route in routes if isinstance(route, Route)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if await self._ours(scope, receive, send):
            return
        began = False

        async def sending(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        config = self._service.config
        upload = Upload(receive, config.max_body_bytes)
        deadline = self._service.deadline(scope)
        try:
            with suppress(ClientDisconnect):
                async with WhileConnected(upload.receive), asyncio.timeout_at(deadline):
                    await admitted(scope, None, self._service)
                    await _Forwarding(self._service, scope, upload).run(sending)
        except HTTPException:
            raise
        except Exception as error:
            mine = client_error(error)
            if began:
                return  # too late for a status: an answer without its end says so
            mine.headers[UNALIGNED] = "none"
            await error_shape(scope)(mine)(scope, receive, send)

    async def _ours(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answers what is no other path: a known one by another method, or written in another way.

        Raises HTTPException for what nobody has.
        """
        if scope["path"].rstrip("/") == "/v1":
            raise HTTPException(404, "Not Found")
        for route in self._routes:
            if route.matches(scope)[0] is Match.PARTIAL:
                await route.handle(scope, receive, send)
                return True
        path = _plain(scope)
        # Some servers leave out what stands behind a semicolon, or blanks.
        bare = "/".join(segment.partition(";")[0].strip() for segment in path.casefold().split("/"))
        mine = any(route.path_regex.match(bare) for route in self._routes)
        if mine and scope["path"] == f"{path}/":
            query = scope["query_string"].decode("latin-1")
            await RedirectResponse(path + (f"?{query}" if query else ""))(scope, receive, send)
            return True
        if mine or _OWN.match(bare):
            raise HTTPException(404, "Not Found")
        if scope["method"] not in METHODS:
            raise HTTPException(405, "Method Not Allowed", {"Allow": ", ".join(METHODS)})
        floor = self._service.floor(scope)
        if floor is not None and floor.closes_paths and not floor.allowed.path(path.removeprefix("/v1/")):
            raise HTTPException(404, "Not Found")
        return False


def _plain(scope: Scope) -> str:
    """The path as it reads, decoded, without a slash at its end. Raises HTTPException for one that could climb."""
    path = raw = _raw_path(scope)
    for _ in range(4):
        if (decoded := unquote(path)) == path:
            break
        path = decoded
    else:
        raise HTTPException(400, "the path is encoded too often")
    path = path.removesuffix("/")
    segments = [segment.partition(";")[0] for segment in path.split("/")[1:]]
    if not raw.startswith("/v1/") or "\\" in path or any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise HTTPException(400, "the path has characters in it that no path has")
    if len(segments) < 2 or any(segment in ("", ".", "..") for segment in segments):
        raise HTTPException(400, "the path has empty or dotted segments")
    return path


def _raw_path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("latin-1")


class _Forwarding:
    """One request on its way to an upstream and back."""

    def __init__(self, service: Service, scope: Scope, upload: Upload) -> None:
        self._service, self._scope, self._upload = service, scope, upload
        self._headers = Headers(scope=scope)
        self._path = _raw_path(scope).removeprefix("/v1")
        self._offering = upstreams_of(service, unquote(self._path).strip("/"))
        self._floor = service.floor(scope)
        self._chosen: Upstream | None = None
        self._refused: RequestError | None = None
        self._pieces = upload.pieces()
        self._unpacked = False

    async def run(self, send: Send) -> None:
        if not self._offering:
            raise HTTPException(404, "Not Found")
        if "sec-websocket-key" in self._headers or "websocket" in self._headers.get("upgrade", "").lower():
            raise RequestError(
                "this server forwards no websockets; use the path's HTTP form", code="no_websockets"
            )
        refuse_alignment(self._headers.get("x-alignment"), {})
        self._choose_by_header()
        limit = self._service.config.max_body_bytes
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise too_large(limit)
        body, length = await self._body(length)
        upstream = self._chosen or self._offering[0]
        query = self._scope["query_string"].decode("latin-1")
        path = self._path + (f"?{query}" if query else "")
        headers = self._sent(upstream, None if isinstance(body, bytes) else length)
        try:
            response = await upstream.request(self._scope["method"], path, body, headers)
        except Exception as error:
            # What was wrong with the client's body while it went through, the library tells as a fault of its own.
            raise self._refused or error from None
        try:
            await _relay(upstream, response, self._scope, send)
        finally:
            response.close()

    def _choose_by_header(self) -> None:
        if (host := self._headers.get(WHERE)) is None:
            return
        asked = [upstream for upstream in self._offering if upstream.host == host]
        if not asked:
            known = ", ".join(dict.fromkeys(upstream.host for upstream in self._offering))
            raise RequestError(f"{WHERE}: unknown; known here: {known}", param=WHERE)
        self._offering = asked

    def _sent(self, upstream: Upstream, length: str | None) -> dict[str, str]:
        raw: Iterable[tuple[bytes, bytes]] = self._scope["headers"]
        headers = upstream.headers_for(raw)
        given = {n.decode(): v.decode("latin-1") for n, v in raw if n in _OF_THE_REQUEST}
        operators = {name.lower() for name in upstream.config.headers}
        given = {name: value for name, value in given.items() if name not in operators}
        if self._unpacked:
            given.pop("content-encoding", None)
        ours = {*given, "content-type"} - operators
        headers = {name: value for name, value in headers.items() if name.lower() not in ours} | given
        return headers | ({"Content-Length": length} if length else {})

    # -- the body

    async def _body(self, length: str) -> tuple[bytes | AsyncGenerator[bytes, None], str]:
        """What to send, the upstream chosen if it names a model, and the length of what is streamed, where known."""
        kind = self._headers.get("content-type", "")
        media = kind.partition(";")[0].strip().lower()
        if media.startswith("multipart/form-data"):
            self._unpack()
            length = "" if self._unpacked else length
            return await self._multipart(boundary_of(kind), length)
        if not (length or "transfer-encoding" in self._headers) or length == "0":
            self._must_name(None)
            return b"", ""
        if media in ("", "application/x-www-form-urlencoded") or media.endswith("json"):
            self._unpack()
            raw = b"".join([piece async for piece in self._pieces])
            if len(raw) > _LONG_FORM and media.endswith("urlencoded"):
                return await asyncio.to_thread(self._fields, raw, media), ""  # taking it apart takes a while
            return self._fields(raw, media), ""
        self._must_name(None)
        return self._through(self._pieces), length

    def _must_name(self, model: str | None) -> None:
        """Raises RequestError where the client may choose some models only, and leaves it to the upstream."""
        writes = self._scope["method"] not in ("GET", "HEAD", "DELETE")
        if model is None and writes and self._floor is not None and self._floor.allowed.bounds_models:
            raise RequestError("model: name one, in a body of JSON or a form", param="model")

    def _unpack(self) -> None:
        """A body that has to be read for its model goes on without its codings."""
        if codings := codings_of(self._headers.get("content-encoding", "")):
            self._unpacked = True
            limit = self._service.config.max_body_bytes
            self._pieces = at_most(decoded(self._pieces, codings, limit), limit)

    def _fields(self, raw: bytes, media: str) -> bytes:
        """A JSON body, or a form's, under the upstream's name of its model."""
        if media == "application/x-www-form-urlencoded" and not raw.lstrip().startswith((b"{", b"[")):
            try:
                pairs = parse_qsl(
                    raw.decode("latin-1"),
                    keep_blank_values=True,
                    encoding="utf-8",
                    max_num_fields=_MOST_FIELDS,
                )
            except ValueError as error:
                raise RequestError(f"the form has more than {_MOST_FIELDS} fields") from error
            fields: dict[str, Any] = dict(pairs)
            if sum(name == "model" for name, _ in pairs) > 1:
                raise RequestError("model: the form has it twice", param="model")
            if self._named(fields) == fields.get("model") and self._floor is None:
                return raw
            return urlencode([(k, self._named(fields) if k == "model" else v) for k, v in pairs]).encode()
        if not raw.strip() or raw.lstrip().startswith(b"["):
            self._must_name(None)
            return raw  # a list names no model
        fields = json_object(raw)
        model = self._named(fields)
        if model == fields.get("model") and "alignment" not in fields and self._floor is None:
            return raw  # else written anew: a name that stands twice may be another one to the upstream
        return msgspec.json.encode(
            {k: model if k == "model" else v for k, v in fields.items() if k != "alignment"}
        )

    def _named(self, fields: Mapping[str, Any]) -> str | None:
        """The upstream's name for the model that a body names; chooses that upstream."""
        refuse_alignment(None, fields)
        self._must_name(model := fields.get("model"))
        if model is None:
            return None
        if not isinstance(model, str):
            raise RequestError("model: give the name of a model as a string", param="model")
        if self._floor is not None:
            self._floor.allowed.require("models", model.removesuffix("@direct"), "model")
        self._chosen, theirs = named_model(self._service, self._offering, model)
        return theirs

    async def _multipart(
        self, boundary: bytes, length: str
    ) -> tuple[bytes | AsyncGenerator[bytes, None], str]:
        """Holds a form back until its model is known, or for a moment where there is one upstream only."""
        grown, seen, promised = 0, False, False

        def rewrite(name: str, value: str) -> str:
            nonlocal grown, seen
            if name == "alignment":
                raise _no_alignment("alignment")
            if seen:
                raise RequestError("model: the form has it twice", param="model")
            seen = True
            theirs = self._named({"model": value}) or value
            grown = len(theirs.encode()) - len(value.encode())
            if grown and promised:
                raise RequestError(
                    f"model: behind the form's files only the upstream's own name for it can stand ({theirs!r}); "
                    "put it first",
                    param="model",
                )
            return theirs

        form = MultipartForm(boundary, ("model", "alignment"), rewrite)
        pieces, held, size = self._pieces, [], 0
        async for piece in pieces:
            held.append(out := form.feed(piece))
            size += len(out)
            bound = self._floor is not None and self._floor.allowed.bounds_models
            if seen or (len(self._offering) == 1 and size > _HELD and not bound):
                break
        else:
            if not seen:
                self._must_name(None)
            return b"".join(held) + form.end(), ""
        # An upstream may need to know the length; then it can't change any more.
        promised = length.isdecimal() and (seen or not self._renames())
        known = str(int(length) + grown) if promised else ""
        return self._through(self._rest_of(form, held, pieces)), known

    def _renames(self) -> bool:
        theirs = (r for r in self._service.remotes if r.upstream is self._offering[0])
        return any(remote.model != remote.upstream_model for remote in theirs)

    async def _rest_of(
        self, form: MultipartForm, held: list[bytes], pieces: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        yield b"".join(held)
        held.clear()
        async for piece in pieces:
            if out := form.feed(piece):
                yield out
        yield form.end()

    async def _through(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in pieces:
                yield piece
        except RequestError as error:
            self._refused = error
            raise


async def _relay(upstream: Upstream, response: aiohttp.ClientResponse, scope: Scope, send: Send) -> None:
    """The answer as it comes in. Raises what breaks it off."""
    method, facts = scope["method"], facts_of(scope)
    tally = None if facts is None or method != "POST" else UsageTally(facts, {}, "")
    headers = passed_on(upstream.host, response.raw_headers, passthrough.DROPPED, upstream.secrets)
    if "content-length" in response.headers and "content-encoding" not in response.headers:
        headers.append((b"content-length", response.headers["content-length"].encode()))
    headers.append((UNALIGNED.encode(), b"none"))
    headers += _NO_PAGE
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if method != "HEAD" and response.status not in _NO_BODY:
        with faults(upstream.host):
            while piece := await response.content.readany():
                if tally is not None:
                    tally.part(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    if tally is not None:
        tally.told()
    await send({"type": "http.response.body", "body": b"", "more_body": False})
