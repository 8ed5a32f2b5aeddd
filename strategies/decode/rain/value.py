"""What a leaf is worth by verifiers, in place of the model's own judgement or mixed with it."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from heedful.strategies.decode.rain.drafts import together
from heedful.strategies.decode.rain.notes import Counts
from heedful.strategies.verifiers.grading import Grader


@dataclass(frozen=True, slots=True)
class LeafValue:
    """`value` in [-1, 1]. `opinion` is false where a model that judges itself took the same letter in both orders."""

    value: float
    opinion: bool = True


class LeafJudge(Protocol):
    """Says what the answer so far is worth. Pure in the text, so that work begun ahead changes nothing."""

    @property
    def overhead(self) -> int:
        """Tokens that a judgement needs of the model's context beside the answer."""
        ...

    async def judge(self, answer: Sequence[int], text: str) -> LeafValue:
        """Judges an answer given as token ids; `text` is what they say."""
        ...


@dataclass(frozen=True, slots=True)
class ByVerifiers(LeafJudge):
    """The verifiers' grade; with `own`, the model's judgement of itself, (1 - share) · grade + share · own.

    `batched`: asks both at once.
    """

    grader: Grader
    counts: Counts
    own: LeafJudge | None = None
    share: float = 0.0
    batched: bool = True

    @property
    def overhead(self) -> int:
        return self.own.overhead if self.own else 0

    async def judge(self, answer: Sequence[int], text: str) -> LeafValue:
        if self.own is None:
            return await self._graded(text)
        work: list[Coroutine[Any, Any, LeafValue]] = [self._graded(text), self.own.judge(answer, text)]
        graded, own = await together(work, self.batched)
        return LeafValue((1 - self.share) * graded.value + self.share * own.value)

    async def _graded(self, text: str) -> LeafValue:
        value = LeafValue(await self.grader.grade(text))
        self.counts.verdicts, self.counts.verdicts_cached = self.grader.asked, self.grader.known
        return value
