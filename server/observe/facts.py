"""What is known of one request: gathered on its way, told to whoever counts, limits or keeps it when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import getrandbits
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from heedful.server.access.client import Client
from heedful.strategies import HeedfulError, Plan, Run, Trace, Usage

if TYPE_CHECKING:
    from heedful.server.service import Target

RECORDED = frozenset(f"/v1/{path}" for path in ("chat/completions", "completions", "responses", "messages"))
"""Routes whose answers have a record, where their tenant keeps any."""
_KEPT = 8 << 20  # bytes of an answer
SCOPE = "heedful.facts"
"""Where a request's ASGI scope holds its Facts."""


@dataclass(slots=True)
class Facts:
    """One request under /v1. Times are `time.perf_counter()`'s, but for `came`, which is the clock's (seconds)."""

    method: str
    path: str
    """As the client wrote it. For a label take `route`."""
    client: Client | None = None
    """None: it brought no key that this server knows."""
    id: str = field(default_factory=lambda: f"{getrandbits(128):032x}")
    """The client's `x-request-id`, or else the upstream's, or else made up here."""
    came: float = field(default_factory=time.time)
    began: float = field(default_factory=time.perf_counter)
    route: str = "other"
    """The path's template; "other" for what has none of ours."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The request's body, where it is an object."""
    model: str | None = None
    """Who answers; None where it has not come so far. As in `plan` no `Target`, which holds these facts: a ring of
    objects would keep the request's body until the next collection."""
    plan: Plan | None = None
    run: Run | None = None
    """Its trace and ledger are whole once the request is over."""
    trace: Trace = field(default_factory=Trace)
    """The run's, from before there is one."""
    stream: bool = False
    status: int = 0
    """0: the client left before there was one."""
    first: float | None = None
    """When the first bytes of the answer's body went out."""
    ended: float = 0.0
    usage: Usage | None = None
    """None: unknown, or no model was asked. Hidden calls are in it, and what was cut off."""
    charged: bool = False
    """Whether it stands on somebody's account: an upstream is asked then for what it would not tell by itself."""
    usage_estimated: bool = False
    """Whether some of it was counted by nobody: of an upstream that does not tell, or of what was cut off."""
    response_id: str | None = None
    received: int = 0
    """Bytes of the request's body, unpacked."""
    sent: int = 0
    """Bytes of the answer that are kept in `answered`."""
    answered: list[bytes] | None = None
    """The answer as it went out, where it will be recorded: the first megabytes."""
    answer_cut: bool = False
    error: HeedfulError | None = None
    """What went wrong, also after the first bytes."""
    gone: bool = False
    """Whether the client left before the answer's end."""

    def answers(self, target: Target, run: Run) -> None:
        """Who is about to answer."""
        self.model, self.plan, self.run = target.engine.model, target.plan, run

    def keep(self, piece: bytes) -> None:
        """Takes in a piece of the answer."""
        if self.answered is None:
            self.answered = []
        if self.sent + len(piece) > _KEPT:
            self.answer_cut = True
        else:
            self.answered.append(piece)
            self.sent += len(piece)

    def settle(self) -> None:
        """Fills in what was used where no answer's end has told it: of what failed or was cut off."""
        if self.run is None:
            return
        ledger = self.run.ledger
        if self.usage is None and ledger.calls:
            self.usage = ledger.spent if ledger.calls == 1 else ledger.split
        self.usage_estimated = self.usage_estimated or ledger.estimated

    def release(self) -> None:
        """Lets go of all that held the request while it ran, so that its body and its answer are free when nobody
        has these facts any more, and not some time later by a collection."""
        self.trace.release()
        _without_frames(self.error)

    @property
    def tokens(self) -> int:
        """What the request has cost in all."""
        return 0 if self.usage is None else self.usage.prompt_tokens + self.usage.completion_tokens


def _without_frames(error: BaseException | None) -> None:
    """Of an error, and of all that led to it; which may lead back to it, where one is raised from another twice."""
    seen, left = set[int](), [error]
    while left:
        if (each := left.pop()) is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            left += [each.__cause__, each.__context__]


def facts_of(scope: Scope) -> Facts | None:
    """What is gathered of a request; None where nobody wants to be told."""
    facts: Facts | None = scope.get(SCOPE)
    return facts


Sink = Callable[[Facts], None]
"""Who is told when a request is over. Must take microseconds, and raise nothing: slow work goes to a thread."""
