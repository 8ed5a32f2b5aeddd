"""What an upstream refuses and how it fails, told in our errors with its own words and without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from heedful.strategies import EngineError, EngineUnavailable, HeedfulError, NotFound, RequestError

# Of a refusal's headers, what tells a client when and whether to try again.
_TELLING = ("retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
# Elements of which nothing is read to anybody.
_UNSAID = re.compile(r"(script|style|head)\b", re.IGNORECASE)
_CLOSING = {name: re.compile(f"</{name}\\s*>", re.IGNORECASE) for name in ("script", "style", "head")}
_SNIPPET = 300
# No server may send these in a header's value, though some upstreams do.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def from_response(
    host: str, status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str]
) -> HeedfulError:
    """The error for a response that is no success."""
    if not 300 <= status < 600:
        return invalid(host, f"HTTP status {status} is no answer")
    kept = {name: value for name in _TELLING if (value := headers.get(name))}
    kept |= {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-ratelimit")}
    kept = {name: told for name, value in kept.items() if (told := _sendable(value)) is not None}
    secrets = tuple(secrets)
    if 300 <= status < 400:
        return EngineError(f"upstream {host} redirects (HTTP {status}); configure its final URL", status=502)
    text = body.decode(errors="replace")
    try:
        # Without secrets once it is decoded: JSON has several ways to write one.
        error = _error_object(_without(msgspec.json.decode(text), secrets))
    except (msgspec.DecodeError, RecursionError):
        error = None
    if error is None:
        plain = " ".join(_untagged(_without(text, secrets)).split())[:_SNIPPET]
        error = {"message": f"upstream {host} answered HTTP {status}" + (f": {plain}" if plain else "")}
    return _of(error, status, kept)


def invalid(host: str, what: str) -> EngineError:
    """The error for an answer that is not what the API promises."""
    return EngineError(f"upstream {host}: {what}", status=502, code="upstream_invalid")


def passed_on(
    host: str, headers: Sequence[tuple[bytes, bytes]], dropped: frozenset[bytes], secrets: Iterable[str]
) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that go on to the client, names in lower case.

    Those `dropped` do not, nor what is the connection's own (RFC 9110, 7.6.1), nor what has a secret in it. Raises
    EngineError where one has a character in it that no header can carry.
    """
    lower = [(name.lower(), value) for name, value in headers]
    connections = [value for name, value in lower if name == b"connection"]
    own = {name.strip().lower() for name in b",".join(connections).split(b",")} if connections else ()
    keys = [secret.encode() for secret in secrets]
    kept = []
    for name, value in lower:
        if name not in dropped and name not in own:
            if _CONTROL.search(value):
                raise invalid(host, f"a control character in its header {name.decode('latin-1')}")
            if not any(key in value for key in keys):
                kept.append((name, value))
    return kept


def _sendable(value: str) -> str | None:
    """A header's value as the server's library takes it, its bytes the same; None where it can't be sent."""
    raw = value.encode("utf-8", "surrogateescape")
    return None if _CONTROL.search(raw) else raw.decode("latin-1")


def from_event(host: str, event: dict[str, Any], secrets: Iterable[str]) -> HeedfulError:
    """The error for an `error` object inside a stream or in place of an answer."""
    try:
        error = _error_object(_without(event, tuple(secrets)))
    except RecursionError:
        error = None
    error = error or {"message": f"upstream {host} reported an error"}
    code = error.get("code")
    return _of(error, code if isinstance(code, int) and 400 <= code < 600 else 502, {})


def _error_object(value: Any) -> dict[str, Any] | None:
    """OpenAI's error object out of the shapes that servers use: nested, flat, FastAPI's `detail`, plain text."""
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if isinstance(error, dict):
        return (
            error
            if isinstance(error.get("message"), str)
            else {"message": msgspec.json.encode(error).decode()}
        )
    if isinstance(error, str):
        return {"message": error}
    if isinstance(value.get("message"), str):
        return {k: v for k, v in value.items() if k in ("message", "type", "param", "code")}
    if detail := value.get("detail"):
        return {"message": detail if isinstance(detail, str) else msgspec.json.encode(detail).decode()}
    return None


def _of(error: dict[str, Any], status: int, headers: dict[str, str]) -> HeedfulError:
    if status == 429 or status == 503:
        kind: type[HeedfulError] = EngineUnavailable
    elif status == 404:
        kind = NotFound
    else:
        kind = RequestError if status < 500 else EngineError
    rest = dict(error)
    told = kind(
        rest.pop("message"),
        status=status,
        headers=headers,
        param=rest.pop("param", None),
        code=rest.pop("code", None),
        type=rest.pop("type", None) or ("rate_limit_error" if status == 429 else None),
    )
    told.extra = rest
    return told


class faults:
    """`with faults(host)`: turns the client library's exceptions into ours. No message holds an address with its
    query or a key. A class, since a generator takes five times as long."""

    __slots__ = ("_host",)

    def __init__(self, host: str) -> None:
        self._host = host

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and (ours := _ours(self._host, error)) is not None:
            raise ours from error


def _ours(host: str, error: Exception) -> HeedfulError | None:
    """The client library's exception as ours; None for what is not its own."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return Unreached(
                f"upstream {host} can't be reached: no connection in time", code="upstream_timeout"
            )
        case aiohttp.ServerTimeoutError():
            return EngineError(
                f"upstream {host} sent nothing for too long (read_timeout)",
                status=504,
                code="upstream_timeout",
            )
        case aiohttp.ClientConnectorError() | aiohttp.ClientSSLError():
            reason = getattr(error.os_error, "strerror", None) or type(error.os_error).__name__
            return Unreached(f"upstream {host} can't be reached: {reason}")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            # Of a body that breaks off the client library says ClientPayloadError.
            return Unreached(f"upstream {host} closed the connection without an answer")
        case aiohttp.ClientPayloadError():
            return EngineError(f"upstream {host} broke off its answer", status=502, code="upstream_broken")
        case aiohttp.ClientResponseError():
            return invalid(host, "its answer is not HTTP as it should be")
        case aiohttp.ClientError() | OSError() | ValueError():
            return EngineError(f"upstream {host}: {type(error).__name__}", status=502, code="upstream_error")
    return None


class Unreached(EngineUnavailable):
    """No byte of an answer has come, so that trying again repeats nothing."""


def _without(value: Any, secrets: tuple[str, ...]) -> Any:
    """The same value with no secret in any of its strings."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, dict):
        return {_without(k, secrets): _without(v, secrets) for k, v in value.items()}
    if isinstance(value, list):
        return [_without(v, secrets) for v in value]
    return value


def _untagged(page: str) -> str:
    """A page's words, in time linear in its length."""
    said, at, endless = [], 0, set[str]()
    while (tag := page.find("<", at)) >= 0 and (end := page.find(">", tag)) >= 0:
        said.append(page[at:tag])
        at = end + 1
        if (unsaid := _UNSAID.match(page, tag + 1)) and (name := unsaid[1].lower()) not in endless:
            if closing := _CLOSING[name].search(page, at):
                at = closing.end()
            else:
                endless.add(name)  # to look for it again and again would take quadratic time
    return " ".join([*said, page[at:]])
