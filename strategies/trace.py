"""The record of what a request went through, for the client who asks for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Trace:
    """Notes in the order in which they were made. Kept out of the event stream."""

    started: float = field(default_factory=time.perf_counter)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def note(self, step: str, **facts: Any) -> None:
        """Adds one entry: which strategy, at what time (`at_ms` since the request came in), and JSON-able facts."""
        at = round((time.perf_counter() - self.started) * 1000, 1)
        self.steps.append({"step": step, "at_ms": at, **facts})
