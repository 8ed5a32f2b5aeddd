"""Media that a conversation names by URL: vLLM would fetch them itself, so only from hosts that the operator lists.

Without this any client could make the server ask whatever the server reaches: the cloud's metadata, a neighbour's
database, its own admin port. Upstreams get URLs as they are; they fetch from where they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from heedful.strategies import Message, RequestError

# What vLLM fetches, whatever `type` the part says it is of.
_FETCHED = ("image_url", "audio_url", "video_url")
# Only what every reader of URLs reads alike: no user, no backslash, no host that needs decoding.
_URL = re.compile(
    r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(?=[/?#]|\Z)", re.ASCII | re.IGNORECASE
)
_PORTS = {"http": 80, "https": 443}
_SHOWN = 100  # characters of a URL in an error

NO_HOST = "media-hosts.invalid"
"""For vLLM, which takes an empty list of hosts for all of them; nothing ever has this name (RFC 2606)."""


@dataclass(frozen=True, slots=True)
class MediaHosts:
    """From where media may come. `listed`: "HOST" at the port of its scheme, or "HOST:PORT"."""

    listed: frozenset[str] = frozenset()
    files: bool = False
    """Whether vLLM reads `file:` URLs, in the folder of its --allowed-local-media-path."""

    @classmethod
    def of(cls, listed: Iterable[str], *, files: bool = False) -> MediaHosts:
        return cls(frozenset(host.lower() for host in listed), files)

    @property
    def names(self) -> list[str]:
        """As vLLM takes them: without ports."""
        return sorted({re.sub(r":[0-9]+\Z", "", host) for host in self.listed}) or [NO_HOST]

    def check(self, messages: Iterable[Message]) -> None:
        """Raises RequestError for the first URL in a conversation that may not be fetched."""
        for message in messages:
            content = message.get("content")
            if isinstance(content, list):
                for field, url in _urls(content):
                    self._check(field, url)

    def _check(self, field: str, url: str) -> None:
        # As vLLM recognizes them. They hold their content and fetch nothing.
        if url[:5].lower() == "data:" or (self.files and url[:7].lower() == "file://"):
            return
        if not (read := _URL.match(url)):
            raise _refused(field, url, "is no plain http, https or data URL")
        scheme, host, port = read[1].lower(), read[2].lower(), int(read[3] or _PORTS[read[1].lower()])
        if f"{host}:{port}" in self.listed or (port == _PORTS[scheme] and host in self.listed):
            return
        named = host if port == _PORTS[scheme] else f"{host}:{port}"
        raise _refused(field, url, f"is at {named}, which is not among this server's media_hosts")


def _urls(value: Any) -> Iterator[tuple[str, str]]:
    """Every URL in a message's content that would be fetched, and the field that it stands in."""
    if isinstance(value, list):
        for part in value:
            yield from _urls(part)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "image_pil":  # an object of Python's; a string in its place is fetched further in
                raise RequestError("image_pil: no request can hold one; send an image_url", param="image_pil")
            if key in _FETCHED:
                yield from ((key, url) for url in _strings(inner))
            else:
                yield from _urls(inner)


def _strings(value: Any) -> Iterator[str]:
    """`url` itself, or what an object says is its `url`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(value.get("url"))


def _refused(field: str, url: str, why: str) -> RequestError:
    shown = url if len(url) <= _SHOWN else url[:_SHOWN] + "…"
    return RequestError(
        f"{field}: {shown!r} {why}; send the data itself as a data: URL, or have the operator list the host under "
        "media_hosts in heedful.yaml",
        param=field,
        code="media_host_not_allowed",
    )
