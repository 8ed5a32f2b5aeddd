"""All verifiers of one strategy, asked at once; and the options of strategies that have such a panel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from heedful.strategies.engine import Capability
from heedful.strategies.errors import (
    BudgetSpent,
    HeedfulError,
    NotFound,
    NoVerdict,
    RequestError,
    VerifierError,
)
from heedful.strategies.run import Resources, Run, Strategy
from heedful.strategies.tasks import together
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier
from heedful.strategies.verifiers.registry import VERIFIERS

VerifierSpec = str | dict[str, dict[str, Any] | None]
"""A verifier's name, or its name with its options."""
OnError = Literal["fail", "pass"]

logger = logging.getLogger("heedful.strategies")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the panel says of one answer."""

    verdicts: tuple[tuple[str, Verdict], ...]

    @property
    def passed(self) -> bool:
        return all(v.passed for _, v in self.verdicts)

    @property
    def score(self) -> float:
        """The lowest of all scores."""
        return min((v.score for _, v in self.verdicts), default=1.0)

    @property
    def rank(self) -> tuple[int, float, float]:
        """Orders answers: how many verifiers pass them, then the lowest score, then the sum."""
        passed = sum(v.passed for _, v in self.verdicts)
        return passed, self.score, sum(v.score for _, v in self.verdicts)

    @property
    def critique(self) -> str:
        """What those that reject it have said."""
        return "\n".join(v.critique for _, v in self.verdicts if not v.passed and v.critique)

    @property
    def facts(self) -> dict[str, Any]:
        """For the trace."""
        return {
            name: {"score": round(v.score, 4), "passed": v.passed}
            | ({"critique": v.critique} if v.critique else {})
            | dict(v.facts)
            for name, v in self.verdicts
        }


@dataclass(frozen=True, slots=True)
class Panel:
    """Verifiers by name, asked together; all must pass."""

    members: tuple[tuple[str, Verifier], ...]
    on_error: OnError
    timeout: float

    @classmethod
    def of(
        cls,
        specs: Sequence[VerifierSpec],
        resources: Resources,
        *,
        on_error: OnError,
        timeout: float,
        param: str,
    ) -> Panel:
        """Raises RequestError for a verifier that is unknown, badly configured, or not for requests to choose."""
        members: list[tuple[str, Verifier]] = []
        for i, spec in enumerate(specs):
            if isinstance(spec, dict) and len(spec) != 1:
                raise RequestError(
                    "give a verifier's name, or one name with its options", param=f"{param}.{i}"
                )
            name, options = (spec, None) if isinstance(spec, str) else next(iter(spec.items()))
            same = sum(n.partition("#")[0] == name for n, _ in members)
            label = f"{name}#{same + 1}" if same else name
            members.append((label, _member(name, options, resources, param)))
        return cls(tuple(members), on_error, timeout)

    @property
    def needs(self) -> Capability:
        return reduce(lambda all, member: all | member[1].needs, self.members, Capability.NONE)

    async def judge(self, context: Context, answer: str, run: Run) -> Judgement:
        """All verdicts on an answer. Raises VerifierError where one fails, unless `on_error` is "pass"."""
        asked = [self._ask(name, v, context, answer, run) for name, v in self.members]
        # A task for a single one would take longer than most verdicts.
        verdicts = [await asked[0]] if len(asked) == 1 else await together(asked)
        return Judgement(tuple(zip((name for name, _ in self.members), verdicts, strict=True)))

    async def _ask(self, name: str, verifier: Verifier, context: Context, answer: str, run: Run) -> Verdict:
        with run.span("verifier", name) as span:
            verdict = await self._verdict(name, verifier, context, answer, run.inside(span))
            passed_over = bool(verdict.facts.get("passed_over"))
            span.set(score=verdict.score, passed=verdict.passed, passed_over=passed_over)
            return verdict

    async def _verdict(
        self, name: str, verifier: Verifier, context: Context, answer: str, run: Run
    ) -> Verdict:
        try:
            async with asyncio.timeout(self.timeout):
                verdict = await verifier.verify(context, answer, run)
            if not 0 <= verdict.score <= 1:
                raise VerifierError(f"its score {verdict.score} is not in [0, 1]")
            return verdict
        except BudgetSpent:
            raise
        except Exception as error:
            why = _why(error, self.timeout)
            if self.on_error == "fail":
                raise _failed(f"verifier {name!r} failed: {why}", error) from error
            foreseen = isinstance(error, HeedfulError | TimeoutError)
            logger.warning(
                "verifier %r failed and was passed over: %s", name, why, exc_info=None if foreseen else error
            )
            return Verdict(1.0, True, facts={"error": why, "passed_over": True})


def _member(name: str, options: dict[str, Any] | None, resources: Resources, param: str) -> Verifier:
    own = resources.verifiers
    if name in own:
        if options:
            raise RequestError(
                f"verifier {name!r} has its options in the configuration", param=f"{param}.{name}"
            )
        return own[name]
    if name not in VERIFIERS.names():
        known = [*own, *VERIFIERS.names()]
        raise NotFound.among("verifier", name, known, param=param, code="verifier_not_found")
    if VERIFIERS.load(name).configured_only:
        raise RequestError(
            f"verifier {name!r} can't be set up here: give it a name under `verifiers` in the server's "
            "configuration, and use that name",
            param=f"{param}.{name}",
            code="verifier_not_allowed",
        )
    return VERIFIERS.build(name, options or {}, param=param).ready(resources)


def _failed(message: str, error: Exception) -> VerifierError:
    if isinstance(error, RequestError):  # such as a conversation that leaves the verifier no room
        return VerifierError(
            message, status=error.status, type=error.type, param=error.param, code=error.code
        )
    if isinstance(error, NoVerdict):
        return NoVerdict(message)
    return VerifierError(message, headers=error.headers if isinstance(error, HeedfulError) else None)


def _why(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no verdict within {timeout:g} s"
    # What an unforeseen exception says may not be for clients; the log has it.
    return error.message if isinstance(error, HeedfulError) else type(error).__name__


@dataclass(frozen=True)
class Verified(Strategy):
    """The options that strategies with a panel of verifiers share; see `Refine` for what they mean."""

    verifiers: Annotated[tuple[VerifierSpec, ...], Field(max_length=32)] = ("toxicity",)
    on_error: OnError = "fail"
    verifier_timeout: Annotated[float, Field(gt=0, le=600)] = 30.0
    keep_alive: Annotated[float, Field(ge=0.01, le=600)] = 10.0
    step: ClassVar[str]
    kind: ClassVar[Literal["context", "decoding"]] = "decoding"

    def assemble(self, resources: Resources) -> Panel:
        """Raises RequestError for verifiers that can't be."""
        return Panel.of(
            self.verifiers,
            resources,
            on_error=self.on_error,
            timeout=self.verifier_timeout,
            param=f"alignment.{self.step}.verifiers",
        )
