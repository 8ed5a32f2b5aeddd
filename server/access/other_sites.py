"""Pages of other sites: a browser lets any page send a request to any address, though not read the answer.

Where a key is wanted they have none; where none is wanted they would write as whoever sits before the browser.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from heedful.strategies import RequestError

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = frozenset({b"same-origin", b"none"})  # none: a person's doing, or an extension that may ask
_ANY = b"*"


class OtherSites:
    """Turns their requests away. `welcome`: the origins that may ask all the same; "*" is any."""

    def __init__(self, welcome: Collection[str]) -> None:
        self._welcome = frozenset(origin.encode() for origin in welcome)

    def check(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises RequestError for a request that a browser sends for a page of another site, and that may write.

        Browsers say so by `Sec-Fetch-Site`; older ones, and all of them on plain http to another machine, by an
        `Origin` that is not the host they ask.
        """
        if method in _READING:
            return
        site = origin = host = b""
        for name, value in headers:
            if name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"host":
                host = value
        if not (site or origin) or _ANY in self._welcome or origin in self._welcome:
            return
        if site not in _OWN if site else origin.partition(b"://")[2].lower() != host.lower():
            whose = origin.decode("latin-1") or "another site"
            raise RequestError(
                "this server wants no key, and takes nothing from pages of other sites: the request comes from "
                f"{whose}. To let its pages ask, name the origin in `cors_origins`; if it is this server's own "
                "behind a proxy, have the proxy pass `Host` on",
                status=403,
                type="permission_error",
                code="other_site",
            )
