"""The upstream's answer to the client, byte by byte: for requests whose answer nobody has to read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any

import aiohttp
import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heedful.server.engines.upstream.engine import OpenAIEngine
from heedful.server.engines.upstream.errors import faults, passed_on
from heedful.server.engines.upstream.sse import whole_events
from heedful.server.engines.upstream.tally import UsageTally
from heedful.server.http import WhileConnected, client_error, sse, told
from heedful.server.observe.facts import Facts
from heedful.strategies import EngineError, RequestError
from heedful.strategies.trace import ASKING, NOTHING, Span, asking

# Of the connection and not of the answer, or ours to say.
DROPPED = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade "
    b"content-length content-encoding date server set-cookie alt-svc strict-transport-security "
    b"access-control-allow-origin access-control-allow-credentials access-control-expose-headers".split()
)
# An upstream's file that a browser opens is no page of this server's: its scripts would have the page's rights.
NO_PAGE = ((b"content-security-policy", b"sandbox"), (b"x-content-type-options", b"nosniff"))
# A whole answer up to this size is checked and sent at once; a larger one goes out as it comes.
_LARGE = 1 << 20
# An event longer than this is no longer held back until it is complete.
_LONG_EVENT = 256 * 1024
_END = b"[DONE]"
_UNWATCHED = nullcontext()
_ENDED = re.compile(rb"(?:^|\n)data: ?\[DONE\]\r?\n")
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def forward(
    engine: OpenAIEngine,
    path: str,
    payload: bytes,
    deadline: float | None,
    facts: Facts | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Response:
    """Posts `payload` and waits for the answer, or for the first bytes of one that streams.

    `facts`: where it is to be counted what the answer costs. `fields`: what `payload` says, if not the client's body.
    Raises HeedfulError where the upstream refuses, fails, or answers with something that is no JSON.
    """
    tally = None if facts is None else UsageTally(facts, facts.fields if fields is None else fields, path)
    span, response = _span(engine, path), None
    try:
        with asking(span) if span else _UNWATCHED:
            if tally is None or not tally.adds:
                response = await engine.forward(path, payload)
            else:
                response = await _asked(engine, path, payload, tally)
        upstream = engine.upstream
        headers = passed_on(upstream.host, response.raw_headers, DROPPED, upstream.secrets)
        with faults(upstream.host):
            if response.content_type == "text/event-stream":
                if not (first := await response.content.readany()):
                    raise _broken(engine)
                return _Stream(engine, response, headers, first, deadline, tally, span)
            body = await response.content.readany()
            while not response.content.at_eof() and len(body) < _LARGE:
                body += await response.content.readany()
            if not response.content.at_eof():
                return _Large(engine, response, headers, body, deadline, tally, span)
        answer = _checked(engine, body)
        if tally is not None:
            tally.whole(answer)
        whole = Response(body, response.status)
        whole.raw_headers += headers
        span.close()
        return whole
    except BaseException as error:
        if response is not None:
            response.close()
        span.close(error)
        if tally is not None and isinstance(error, asyncio.CancelledError):
            tally.end(whole=False)
        raise


def _span(engine: OpenAIEngine, path: str) -> Span:
    """The span of one forwarded call, where the request is part of a trace."""
    if (trace := (within := ASKING.get()).trace) is None:
        return NOTHING
    operation = {"/chat/completions": "chat", "/completions": "text_completion"}.get(path, path.strip("/"))
    return trace.span("call", operation, within, model=engine.model, stage="direct")


async def _asked(
    engine: OpenAIEngine, path: str, payload: bytes, tally: UsageTally
) -> aiohttp.ClientResponse:
    """Asks for the usage, too; without, where the upstream does not know the question."""
    try:
        return await engine.forward(path, tally.asking(payload, engine.dialect))
    except RequestError as error:
        if not tally.refused(error, engine.dialect):
            raise
        return await engine.forward(path, payload)


def _checked(engine: OpenAIEngine, body: bytes) -> dict[str, msgspec.Raw]:
    """The answer's fields. Raises EngineError for what is no JSON object, and for an error dressed as a success."""
    try:
        fields = _object.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise engine.upstream.nonsense("its answer is no JSON object") from error
    if "error" in fields:
        engine.object(body)
    return fields


class _Large(Response):
    """A body that goes out as it comes in. One that breaks off leaves the connection broken off too."""

    def __init__(
        self,
        engine: OpenAIEngine,
        response: aiohttp.ClientResponse,
        headers: list[tuple[bytes, bytes]],
        first: bytes,
        deadline: float | None,
        tally: UsageTally | None,
        span: Span,
    ) -> None:
        self.status_code = response.status
        self.raw_headers = headers
        self.background = None
        self._engine, self._response, self._first, self._deadline = engine, response, first, deadline
        self._tally, self._whole = tally, False
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        try:
            with suppress(ClientDisconnect):
                async with WhileConnected(receive):
                    await send(
                        {
                            "type": "http.response.start",
                            "status": self.status_code,
                            "headers": self.raw_headers,
                        }
                    )
                    await self._pump(send)
        finally:
            if self._tally is not None:
                self._tally.end(whole=False)  # unless it has ended
            self._engine.upstream.finish(self._response, whole=self._whole)
            self._span.close()

    async def _pump(self, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                with faults(self._engine.upstream.host):
                    piece = self._first
                    while piece:
                        if self._tally is not None:
                            self._tally.part(piece)
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                        piece = await self._response.content.readany()
        except Exception as error:
            # Into the log: the client is told by an answer without its end.
            self._span.close(told(self._scope, client_error(error)))
            return
        if self._tally is not None:
            self._tally.end(whole=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Stream(_Large):
    """Server-sent events. Only whole ones go out, so that what follows a break is an event of its own."""

    async def _pump(self, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                with faults(self._engine.upstream.host):
                    last = await self._events(send)
        except Exception as error:
            self._response.close()  # before the last word, for which a slow reader can take its time
            # Too late for a status: one error event, and no [DONE] that would call the answer whole.
            fault = told(self._scope, client_error(error))
            self._span.close(fault)
            last = b"\n\n" + sse(msgspec.json.encode(fault.body()))
        if self._tally is not None:
            self._tally.end(whole=self._whole)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _events(self, send: Send) -> bytes:
        """Sends whole events up to [DONE], whether or not the upstream then ends its answer; returns what is left
        to say after the last."""
        content, piece, rest, tail = self._response.content, self._first, b"", b""
        secrets = [secret.encode() for secret in self._engine.upstream.secrets]
        while piece:
            text = rest + piece if rest else piece
            if not text.endswith(b"\n\n"):
                cut = whole_events(text) if len(text) < _LONG_EVENT else len(text)
                text, rest = text[:cut], text[cut:]
            else:
                rest = b""
            if text:
                seen = tail + text
                # Looked for from where it may be: the pattern alone takes 3 us a kilobyte.
                ended = (at := seen.find(_END)) >= 0 and _ENDED.search(seen, max(0, at - len(b"\ndata: ")))
                tail = seen[-18:]
                for secret in secrets:
                    if secret in text:
                        text = text.replace(secret, b"***")
                if self._tally is not None:
                    text = self._tally.events(text)
                if text:
                    await send({"type": "http.response.body", "body": text, "more_body": True})
                if ended:
                    self._whole = True
                    return b""
            piece = await content.readany()
        if rest.rstrip().endswith(_END):
            return rest.rstrip() + b"\n\n"
        raise _broken(self._engine)


def _broken(engine: OpenAIEngine) -> EngineError:
    return EngineError(
        f"upstream {engine.upstream.host} broke off its stream", status=502, code="upstream_broken"
    )


def payload(model: str | None, raw: bytes, fields: dict[str, Any]) -> bytes:
    """The client's own bytes where nothing in them is ours; else the same fields with the upstream's name, if any, of
    the model."""
    if fields.get("model") == model and "alignment" not in fields:
        return raw
    theirs = {k: v for k, v in fields.items() if k != "alignment"}
    return msgspec.json.encode(theirs if model is None else {**theirs, "model": model})
