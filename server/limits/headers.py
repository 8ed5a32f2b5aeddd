"""What clients are told of their limits, in the headers of OpenAI's API or of Anthropic's."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from heedful.server.limits import windows
from heedful.server.limits.budgets import iso_seconds
from heedful.server.limits.windows import Window

Headers = list[tuple[bytes, bytes]]
OURS = (b"x-ratelimit-", b"anthropic-ratelimit-")
"""How the names begin. An upstream's own say nothing about this server."""
_OPENAI = {
    kind: tuple(f"x-ratelimit-{what}-{kind}".encode() for what in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}
_ANTHROPIC = {
    kind: tuple(f"anthropic-ratelimit-{kind}-{what}".encode() for what in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}


class RateStanding(msgspec.Struct, gc=False):
    """How one limit stands: `used` is with the request that asks, `window` without."""

    kind: str
    owner: str
    limit: int
    used: int
    window: Window


def written(standings: Iterable[RateStanding], *, anthropic: bool) -> Headers:
    """Of each kind the limit that is nearest."""
    nearest: dict[str, RateStanding] = {}
    for each in standings:
        known = nearest.get(each.kind)
        if known is None or each.limit - each.used < known.limit - known.used:
            nearest[each.kind] = each
    headers: Headers = []
    for kind, standing in nearest.items():
        limit, used, window = standing.limit, standing.used, standing.window
        reset = window.current_left if used > window.used else window.reset
        headers += told(kind, limit, used, reset, anthropic=anthropic)
    return headers


def told(kind: str, limit: int, used: int, reset: float, *, anthropic: bool) -> Headers:
    """Of one limit. `reset`: seconds until nothing counts any more."""
    most, left, renewed = (_ANTHROPIC if anthropic else _OPENAI)[kind]
    until = iso_seconds(windows.now() + reset).encode() if anthropic else _go(reset)
    return [(most, b"%d" % limit), (left, b"%d" % max(0, limit - used)), (renewed, until)]


def _go(seconds: float) -> bytes:
    """As Go writes a duration, and so OpenAI: 1m30s, 6s, 250ms."""
    return _go_whole(round(seconds)) if seconds >= 1 else b"%dms" % (seconds * 1000)


@lru_cache(maxsize=256)
def _go_whole(seconds: int) -> bytes:
    minutes, rest = divmod(seconds, 60)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
