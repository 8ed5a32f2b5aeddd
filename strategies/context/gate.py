"""Before the model: what comes in is judged, and refused, redacted, noted, or given to another alignment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from heedful.strategies.context.redact import Redactor
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.registry import build
from heedful.strategies.run import ContextStrategy, Resources, Run, Strategy
from heedful.strategies.types import Context, Message
from heedful.strategies.verifiers.panel import OnError, Panel, VerifierSpec
from heedful.strategies.verifiers.reading import unread, words_of

if TYPE_CHECKING:
    from heedful.strategies.plan import Plan

GateReads = Literal["last", "user", "assistant", "system", "tool"]
GateOutcome = Literal["flagged", "passed"]
_Text = Annotated[str, Field(min_length=1, max_length=2000)]
_ROLES = {
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}
_LONG = 1 << 15  # characters; more are looked through beside the event loop


@dataclass(frozen=True)
class GateStep(Strategy):
    """Judges what comes in before any model sees it; what fails is refused, or gets another alignment.

    `verifiers`: as `refine` has them, all must pass; default toxicity, and none where `redact` is given. `read`: what
    they judge: the "last" turn of the user's (all messages since the last answer), all of "user", "assistant",
    "system", "tool" (results). `action`, where one fails: "refuse" (`message` is the answer, finish_reason
    "content_filter", no model is asked) or "annotate" (the trace has the verdicts, nothing else happens). `on`:
    alignments by name for what is "flagged" or "passed"; they take the place of all steps after this one. `redact`:
    "email", "card", "iban", "phone", or names with RE2 patterns: what they find in any message is replaced by
    placeholders before the verifiers read it, and with `restore` put back in the answer. `on_error` and
    `verifier_timeout` are those of `refine`.
    """

    verifiers: Annotated[tuple[VerifierSpec, ...], Field(max_length=32)] | None = None
    read: Annotated[tuple[GateReads, ...], Field(min_length=1, max_length=5)] = ("last",)
    action: Literal["refuse", "annotate"] = "refuse"
    message: Annotated[str, Field(min_length=1)] = "This request can't be answered here."
    on: dict[GateOutcome, str] | None = None
    redact: Annotated[tuple[str | dict[str, _Text], ...], Field(max_length=32)] = ()
    restore: bool = True
    on_error: OnError = "fail"
    verifier_timeout: Annotated[float, Field(gt=0, le=600)] = 30.0
    kind: ClassVar[Literal["context", "decoding"]] = "context"

    def ready(self, resources: Resources) -> ContextStrategy:
        specs = self.verifiers
        if specs is None:
            specs = () if self.redact and not self.on else ("toxicity",)
        if not specs and not self.redact:
            raise RequestError("gate: give `verifiers` or `redact`", param="alignment.gate.verifiers")
        if self.on and not specs:
            raise RequestError("gate: `on` needs verifiers that decide", param="alignment.gate.on")
        panel = Panel.of(
            specs,
            resources,
            on_error=self.on_error,
            timeout=self.verifier_timeout,
            param="alignment.gate.verifiers",
        )
        if self.on and resources.alignment is None:
            raise RequestError("gate: there are no alignments to choose from", param="alignment.gate.on")
        find = resources.alignment
        branches = {outcome: find(name) for outcome, name in (self.on or {}).items() if find is not None}
        if resources.named is not None:
            resources.named.update(*(plan.stores for plan in branches.values()))
        redactor = Redactor.of(self.redact, param="alignment.gate.redact")
        return Gating(self, panel, redactor, branches)


@dataclass(frozen=True)
class Gating(ContextStrategy):
    """`GateStep` with its panel of verifiers, its patterns, and the alignments that it chooses from."""

    options: GateStep
    panel: Panel
    redactor: Redactor
    branches: Mapping[GateOutcome, Plan]

    @property
    def needs(self) -> Capability:
        plans = self.branches.values()
        return reduce(lambda all, plan: all | plan.needs, plans, self.panel.needs)

    async def prepare(self, context: Context, run: Run) -> Context:
        facts: dict[str, Any] = {}
        if self.redactor.patterns:
            context, found = await self._redacted(context)
            facts["redacted"] = _counted(found)
        if not self.panel.members:
            run.trace.note("gate", **facts)
            return context
        messages = context.original.messages
        read = [
            m for i, m in enumerate(messages) if _part(m) in self.options.read or i in self._last(messages)
        ]
        if left := sorted({kind for m in read for kind in unread(m)}):
            facts["unread"] = left
        words = "\n\n".join(filter(str.strip, map(words_of, read)))
        passed = True
        if words:
            judgement = await self.panel.judge(_asking(context, read, words), words, run)
            passed = judgement.passed
            facts |= {"score": round(judgement.score, 4), "verdicts": judgement.facts}
        outcome: GateOutcome = "passed" if passed else "flagged"
        if (plan := self.branches.get(outcome)) is not None:
            run.trace.note("gate", passed=passed, action=plan.name, **facts)
            return replace(context, then=plan)
        action = None if passed else self.options.action
        run.trace.note("gate", passed=passed, action=action, **facts)
        return replace(context, refusal=self.options.message) if action == "refuse" else context

    def _last(self, messages: Sequence[Message]) -> range:
        """Where the user's last turn stands, if it is to be read. A conversation without one is read whole."""
        if "last" not in self.options.read:
            return range(0)
        users = [i for i, m in enumerate(messages) if _part(m) == "user"]
        if not users:
            return range(len(messages))
        first = max((i + 1 for i in range(users[-1]) if _part(messages[i]) == "assistant"), default=0)
        return range(first, users[-1] + 1)

    async def _redacted(self, context: Context) -> tuple[Context, dict[str, str]]:
        if sum(len(words_of(m)) for m in context.messages) > _LONG:
            clean, found = await asyncio.to_thread(self.redactor.redact, context)
        else:
            clean, found = self.redactor.redact(context)
        if found and self.options.restore:
            clean = replace(clean, restore={**clean.restore, **found})
        return clean, found


def gates(
    options: Sequence[Mapping[str, Any]], resources: Resources, *, param: str = "floor.gate"
) -> tuple[tuple[str, ContextStrategy], ...]:
    """Gates out of an operator's settings (`FloorSettings.gate`), as steps of a plan.

    Raises RequestError for bad options, and for `norms`, which judge by what a step before them has retrieved.
    """
    steps = []
    for i, each in enumerate(options):
        gating = build("gate", each, param=f"{param}.{i}").ready(resources)
        assert isinstance(gating, Gating)
        if any(name.partition("#")[0] == "norms" for name, _ in gating.panel.members):
            raise RequestError(
                "gate: 'norms' judges by norms that a step before it has retrieved; put this gate after `norms`",
                param=f"{param}.{i}.verifiers",
            )
        steps.append(("gate", gating))
    return tuple(steps)


def _part(message: Message) -> str:
    """Whose message it is; a role that nobody knows is taken for the user's."""
    return _ROLES.get(str(message.get("role")), "user")


def _asking(context: Context, read: Sequence[Message], words: str) -> Context:
    """What is judged as the last turn of a conversation; before it what came before, where that was one turn."""
    messages = context.original.messages
    first = next(i for i, m in enumerate(messages) if m is read[0])
    if len(read) == 1 and _part(read[0]) == "user" and not read[0].get("name"):
        turn: Message = read[0]
    else:
        turn = {"role": "user", "content": words}
    before = messages[:first] if all(_part(m) == "user" for m in read) else ()
    turns = (*before, turn)
    original = replace(context.original, messages=turns)
    return replace(context, original=original, messages=turns, prompt=None, judged="question")


def _counted(found: Mapping[str, str]) -> dict[str, int]:
    """How many values of each name."""
    names = [placeholder[1:].rpartition("_")[0].lower() for placeholder in found]
    return {name: names.count(name) for name in dict.fromkeys(names)}
