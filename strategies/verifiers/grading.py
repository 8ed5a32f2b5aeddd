"""An answer's worth as one number, by a panel of verifiers: what a search or a choice between answers steers by.

A score of 0.4 fails one verifier and passes another. So a grade has the verdict's sign: 0 parts what passes from what
does not, and the score orders either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from heedful.strategies.errors import RequestError
from heedful.strategies.run import Resources, Run
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict
from heedful.strategies.verifiers.panel import Judgement, OnError, Panel, VerifierSpec

WORST = -1.0
"""The grade of a text without a word: nothing can be said against it, and nobody wants it."""


def grade(verdict: Verdict) -> float:
    """A verdict in [-1, 1]: its score where it passes, its score less 1 where it fails."""
    return verdict.score if verdict.passed else verdict.score - 1


@dataclass(frozen=True, slots=True)
class Grading:
    """A panel, and how its grades become one: the lowest, or with `weights` (one for each member) their mean."""

    panel: Panel
    weights: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        specs: Sequence[VerifierSpec],
        weights: Sequence[float],
        resources: Resources,
        *,
        on_error: OnError,
        timeout: float,
        param: str,
    ) -> Self:
        """Raises RequestError, naming `param`, for verifiers that can't be and for weights that don't fit them."""
        if weights and (len(weights) != len(specs) or sum(weights) <= 0):
            raise RequestError(
                f"{param}: there are {len(weights)} weights for {len(specs)} verifiers; give each one, not all 0",
                param=param,
                code="invalid_option",
            )
        return cls(
            Panel.of(specs, resources, on_error=on_error, timeout=timeout, param=param), tuple(weights)
        )

    def __call__(self, judgement: Judgement) -> float:
        """One number in [-1, 1]."""
        grades = [grade(verdict) for _, verdict in judgement.verdicts]
        if not self.weights:
            return min(grades, default=1.0)
        return sum(w * g for w, g in zip(self.weights, grades, strict=True)) / sum(self.weights)


@dataclass(slots=True)
class Grader:
    """Grades the texts of one request, each once.

    `begun`: what the request has begun of the answer, which is judged with it. `asked` counts texts that went to the
    panel, `known` those that had been there before.
    """

    grading: Grading
    context: Context
    run: Run
    begun: str = ""
    asked: int = 0
    known: int = 0
    _kept: dict[str, float] = field(default_factory=dict)

    async def grade(self, text: str) -> float:
        """An answer, or the beginning of one, in [-1, 1]. Raises VerifierError as the panel does."""
        if not text.strip():
            return WORST
        if (kept := self._kept.get(text)) is not None:
            self.known += 1
            return kept
        self.asked += 1
        judgement = await self.grading.panel.judge(self.context, self.begun + text, self.run)
        self._kept[text] = found = self.grading(judgement)
        return found
