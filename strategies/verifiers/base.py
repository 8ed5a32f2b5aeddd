"""What a verifier is: something that finds fault with an answer, and says so in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from heedful.strategies.engine import Capability
from heedful.strategies.run import Run
from heedful.strategies.types import Context


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score` in [0, 1], 1 without fault; `critique` tells the model what to mend; `facts` are for the trace."""

    score: float
    passed: bool
    critique: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Verifier(Protocol):
    """A frozen dataclass whose fields are its options, like a strategy.

    `needs`: what it requires of the engine. It may also define `ready(self, resources: Resources) -> None`, called
    once when it is configured, which raises a RequestError if something that its options name is not there;
    `close(self)` (async), called when the server ends; and `configured_only = True` where a request must not choose
    its options (it runs programs, or reaches other machines): then it is named in the configuration's `verifiers`.
    Whatever `verify` raises is a failure of the verifier, and not a verdict.
    """

    @property
    def needs(self) -> Capability: ...

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        """Judges an answer to `context.original`. `run.engine` is the engine that wrote it, and counts its calls."""
        ...
