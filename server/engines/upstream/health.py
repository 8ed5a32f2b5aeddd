"""Whether an upstream answers, as its requests have shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from heedful.strategies import HeedfulError

_DOWN = 3  # failures in a row: one alone is noise


@dataclass(slots=True)
class Health:
    """Counts what failed. A refusal of a request (4xx) is an answer."""

    in_a_row: int = 0
    last_error: str | None = None
    probed: float = float("-inf")
    """When it was last asked for nothing but whether it is there, by `time.monotonic()`."""
    failures: dict[str, int] = field(default_factory=dict)
    """By kind: "unreached", or "http_502" and the like. Never an upstream's own words."""

    @property
    def up(self) -> bool:
        return self.in_a_row < _DOWN

    def failed(self, error: HeedfulError, *, unreached: bool) -> None:
        if not unreached and error.status < 500 and error.status != 429:
            self.in_a_row = 0
            return
        kind = "unreached" if unreached else f"http_{error.status}"
        self.failures[kind] = self.failures.get(kind, 0) + 1
        self.last_error = kind
        self.in_a_row = 0 if error.status == 429 else self.in_a_row + 1
