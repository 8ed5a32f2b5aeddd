"""What clients are told of their limits, in the headers of OpenAI's API or of Anthropic's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from heedful.server.limits import windows
from heedful.server.limits.budgets import iso
from heedful.server.limits.windows import Window

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one limit stands."""

    kind: Literal["requests", "tokens"]
    owner: str
    limit: int
    window: Window

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.window.used)

    @property
    def wait(self) -> float:
        """Seconds until another request is let in."""
        return self.window.wait(self.limit)

    def after_this(self) -> Standing:
        """With the request that asks."""
        window = self.window
        left = window.current_left if window.current else 2.0 * windows.MINUTE
        return replace(self, window=window._replace(current=window.current + 1, current_left=left))


def written(standings: Iterable[Standing], *, anthropic: bool) -> Headers:
    """Of each kind the limit that is nearest."""
    nearest: dict[str, Standing] = {}
    for each in standings:
        if (known := nearest.get(each.kind)) is None or each.remaining < known.remaining:
            nearest[each.kind] = each
    headers = []
    for kind, standing in nearest.items():
        reset = standing.window.reset
        for what, value in (
            ("limit", str(standing.limit)),
            ("remaining", str(standing.remaining)),
            ("reset", iso(windows.now() + reset) if anthropic else _go(reset)),
        ):
            name = f"anthropic-ratelimit-{kind}-{what}" if anthropic else f"x-ratelimit-{what}-{kind}"
            headers.append((name.encode(), value.encode()))
    return headers


def is_ours(name: bytes) -> bool:
    """Whether an upstream's header says of itself what we say of this server."""
    return name.startswith((b"x-ratelimit-", b"anthropic-ratelimit-"))


def _go(seconds: float) -> str:
    """As Go writes a duration, and so OpenAI: 1m30s, 6s, 250ms."""
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
