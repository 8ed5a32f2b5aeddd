"""The HTTP client of one OpenAI-compatible server: connections, keys, retries."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from io import BytesIO
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from heedful.server.access.key_text import holds_key
from heedful.server.engines.upstream import errors as upstream_errors
from heedful.server.engines.upstream.errors import Unreached, faults
from heedful.server.engines.upstream.health import Health
from heedful.server.engines.upstream.settings import UpstreamConfig
from heedful.server.observe.tracing import onward
from heedful.strategies import EngineError, HeedfulError
from heedful.strategies.trace import ASKING

# Headers of the client that say something about this one request, and travel on.
_FORWARDED = frozenset({b"x-request-id", b"traceparent", b"tracestate", b"baggage"})
_KEYS = frozenset({b"authorization", b"x-api-key"})
_RETRIED = frozenset({429, 502, 503})
_BACKOFF = 0.25  # seconds before the first retry without a Retry-After; doubles
_READS = frozenset({"GET", "HEAD"})
_READING = frozenset({301, 302, 303, 304, 307, 308})  # what a GET may be answered with, beside a success
_TYPE = ("Content-Type",)  # its own or none, and never one that the library makes up
_LARGE = 1 << 20
_MOST_URLS = 64
_ERROR_BYTES = 64 * 1024
_LINGER = 1.0  # seconds that a stream may take from its last event to its end; then its connection is closed


@asynccontextmanager
async def connect(config: UpstreamConfig, *, client_keys: bool) -> AsyncIterator[Upstream]:
    """Opens the session. `client_keys`: whether clients' keys may go upstream where the file leaves it open.

    Raises ValueError where a key or a variable that the configuration names is not there.
    """
    key, headers = config.key(), config.own_headers()
    forwards = config.forward_client_key
    if forwards is None:
        forwards = client_keys and key is None
    # sock_read is the time between bytes; the whole request is bounded by the server's own deadline.
    timeout = aiohttp.ClientTimeout(
        total=None, connect=None, sock_connect=config.connect_timeout, sock_read=config.read_timeout
    )
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=config.max_connections),
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are not another's
        read_bufsize=256 * 1024,
    ) as session:
        upstream = Upstream(config, session, key, headers, forwards)
        try:
            yield upstream
        finally:
            await upstream.close()


class Upstream:
    """One server. Requests are bytes; answers are aiohttp's responses, and the caller closes them."""

    def __init__(
        self,
        config: UpstreamConfig,
        session: aiohttp.ClientSession,
        key: str | None,
        headers: Mapping[str, str],
        forwards_client_key: bool,
    ) -> None:
        self.config = config
        self.host = config.host
        self.health = Health()
        self._session = session
        self._forwards_key = forwards_client_key
        self._forwarded = _FORWARDED | {name.lower().encode() for name in config.forward_headers}
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Accept-Encoding": "identity",  # bytes go out as they come in
            "User-Agent": f"heedful/{version('heedful')}",
            **({"Authorization": f"Bearer {key}"} if key else {}),
            **headers,
        }
        self.secrets = tuple(s for s in (key, *headers.values()) if s and len(s) >= 8)
        self._urls: dict[str, URL] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends what still waits for connections to come back."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def headers_for(self, client: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        """The headers of a request upstream, from those of the client's (lower-case names, as in ASGI).

        Where this server wants keys, the door has taken them all. A key of heedful's stays here even before that: the
        first one may have been made a moment ago, and may stand in any header.
        """
        headers, forwarded = self._headers.copy(), self._forwarded
        for name, raw_value in client:
            if name not in _KEYS and name not in forwarded and not name.startswith(b"openai-"):
                continue
            if holds_key(raw_value):
                continue
            value = raw_value.decode("latin-1")
            if name in forwarded or name.startswith(b"openai-"):
                headers[name.decode("latin-1")] = value
            elif self._forwards_key and name == b"authorization":
                headers["Authorization"] = value
            elif self._forwards_key:
                headers.setdefault("Authorization", f"Bearer {value}")
        return headers

    def post(
        self, path: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> Awaitable[aiohttp.ClientResponse]:
        """A successful response whose body is still to be read. `path` is relative to the base URL.

        Tries again where that repeats nothing. Raises HeedfulError with the upstream's own words.
        """
        return self._send("POST", self._url(path), payload, headers or self._headers)

    async def request(
        self, method: str, path: str, body: bytes | AsyncIterable[bytes], headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """As `post`, for any method and any path with its query, percent-encoded, and a body that may be a stream.

        A stream is sent once. Redirections of a GET and answers without a body are successes here.
        """
        url = URL(self.config.url + path, encoded=True)  # not kept: clients make these up
        return await self._send(method, url, body, headers, _READING if method in _READS else (), _TYPE)

    async def _send(
        self,
        method: str,
        url: URL,
        body: bytes | AsyncIterable[bytes],
        headers: Mapping[str, str],
        taken: Collection[int] = (),
        skip: Collection[str] | None = None,
    ) -> aiohttp.ClientResponse:
        attempt = 0
        if span := ASKING.get():
            # Where this server has a span of its own, that is what the upstream's are part of.
            headers = {k: v for k, v in headers.items() if k != "tracestate"} | onward(span)
        while True:
            try:
                with faults(self.host):
                    response = await self._session.request(
                        method,
                        url,
                        data=(body if len(body) < _LARGE else BytesIO(body)) or None
                        if isinstance(body, bytes)
                        else body,
                        headers=headers,
                        allow_redirects=False,
                        skip_auto_headers=skip,
                    )
                if 200 <= response.status < 300 or response.status in taken:
                    self.health.in_a_row = 0
                    return response
                error: HeedfulError = await self._refusal(response, headers)
            except Unreached as unreached:
                error = unreached
            except EngineError as hung:
                self.health.failed(hung, unreached=True)
                raise
            self.health.failed(error, unreached=isinstance(error, Unreached))
            pause = self._pause(error, attempt) if isinstance(body, bytes) else None
            if pause is None:
                raise error
            attempt += 1
            await asyncio.sleep(pause)

    async def json(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Posts an object and returns the object that comes back."""
        response = await self.post(path, msgspec.json.encode(body), headers)
        return self.object(await self.read(response), sent=headers)

    async def get(self, path: str) -> dict[str, Any]:
        """One GET without retries."""
        try:
            with faults(self.host):
                response = await self._session.get(
                    self._url(path), headers=self._headers, allow_redirects=False
                )
        except EngineError as error:
            self.health.failed(error, unreached=True)
            raise
        self.health.in_a_row = 0
        if not 200 <= response.status < 300:
            raise await self._refusal(response, self._headers)
        return self.object(await self.read(response))

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body. Raises EngineError where it is cut off or larger than max_response_bytes."""
        limit = self.config.max_response_bytes
        pieces, size = [], 0
        try:
            with faults(self.host):
                async for piece in response.content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        raise EngineError(
                            f"upstream {self.host} answered more than {limit} bytes", status=502
                        )
        finally:
            response.close()
        return b"".join(pieces)

    def finish(self, response: aiohttp.ClientResponse, *, whole: bool) -> None:
        """Ends a streamed response. Where its last event has come (`whole`) the connection is kept for the next
        request; it comes back with the end of the body, which is awaited for a moment in the background."""
        if not whole or response.closed:
            response.close()
            return
        task = asyncio.create_task(_ended(response))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def object(self, body: bytes, *, sent: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A body as a JSON object; an `error` inside is raised."""
        try:
            value: Any = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.nonsense("its answer is not JSON") from error
        if not isinstance(value, dict):
            raise self.nonsense("its answer is no JSON object")
        if value.get("error"):
            raise upstream_errors.from_event(self.host, value, self.secrets_in(sent))
        return value

    def nonsense(self, what: str) -> EngineError:
        """The error for an answer that is not what the API promises."""
        return upstream_errors.invalid(self.host, what)

    def _url(self, path: str) -> URL:
        if path not in self._urls:
            # vLLM has its tokenizer endpoints beside /v1, not under it.
            base = self.config.url.removesuffix("/v1") if path.startswith("/../") else self.config.url
            url = URL(base + path.removeprefix("/.."))
            if len(self._urls) >= _MOST_URLS:  # a path may be a client's
                return url
            self._urls[path] = url
        return self._urls[path]

    async def _refusal(self, response: aiohttp.ClientResponse, sent: Mapping[str, str]) -> HeedfulError:
        body = b""
        try:
            with faults(self.host):
                while len(body) < _ERROR_BYTES and (piece := await response.content.readany()):
                    body += piece
        except EngineError:
            pass  # the status is the news; a cut-off explanation is told as far as it came
        finally:
            response.close()
        secrets = self.secrets_in(sent)
        return upstream_errors.from_response(self.host, response.status, response.headers, body, secrets)

    def secrets_in(self, sent: Mapping[str, str] | None) -> tuple[str, ...]:
        given = (sent or {}).get("Authorization", "").strip().rpartition(" ")[2]
        return (*self.secrets, given) if len(given) >= 8 else self.secrets

    def _pause(self, error: HeedfulError, attempt: int) -> float | None:
        """Seconds until the next try; None where there is none."""
        if attempt >= self.config.retries or error.headers.get("x-should-retry") == "false":
            return None
        if not isinstance(error, Unreached) and (
            error.status not in _RETRIED or error.code == "insufficient_quota"
        ):
            return None
        asked = _retry_after(error.headers)
        if asked is not None and asked > self.config.max_retry_wait:
            return None
        backoff = min(_BACKOFF * 2.0**attempt, self.config.max_retry_wait)
        # Jitter, so that clients who failed together do not come back together.
        return max(asked or 0.0, backoff * random.uniform(0.5, 1.0))


async def _ended(response: aiohttp.ClientResponse) -> None:
    try:
        async with asyncio.timeout(_LINGER):
            await response.content.wait_eof()
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass  # the answer was whole: a connection that breaks or lingers after it is closed, and nobody's concern
    finally:
        response.close()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from milliseconds, seconds or a date."""
    try:
        if ms := headers.get("retry-after-ms"):
            return _finite(float(ms) / 1000)
        if not (value := headers.get("retry-after")):
            return None
        if value.replace(".", "", 1).isdecimal():
            return _finite(float(value))
        date = parsedate_to_datetime(value)
        return max(0.0, (date - datetime.now(date.tzinfo)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _finite(seconds: float) -> float:
    if not math.isfinite(seconds):
        raise ValueError(seconds)
    return max(0.0, seconds)
