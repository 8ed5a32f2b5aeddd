"""What a verifier is: something that finds fault with an answer, and says so in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from heedful.strategies.engine import Capability
from heedful.strategies.run import Resources, Run
from heedful.strategies.types import Context


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score` in [0, 1], 1 without fault; `critique` tells the model what to mend; `facts` are for the trace."""

    score: float
    passed: bool
    critique: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Verifier(Protocol):
    """A frozen dataclass whose fields are its options, like a strategy, and which derives from this.

    Whatever `verify` raises is a failure of the verifier, and not a verdict.
    """

    configured_only: ClassVar[bool] = False
    """Whether no request may choose its options, because it runs programs or reaches other machines: then it is named
    in the configuration's `verifiers`."""

    @property
    def needs(self) -> Capability:
        """What it requires of the engine: a class variable, or a property where options decide."""
        ...

    def ready(self, resources: Resources) -> Verifier:
        """What runs, called once per configuration. Raises RequestError if what an option names is not there."""
        return self

    async def close(self) -> None:
        """Called when the server ends."""
        return None

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        """Judges an answer to `context.original`. `run.engine` is the engine that wrote it, and counts its calls.

        Before there is an answer (`gate`), `context.judged` is "question": `answer` is then the words of the last
        turn of `context.original`, which are judged.
        """
        ...
