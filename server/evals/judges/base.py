"""What a judge is: one that marks a single answer, and one that holds two against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from heedful.server.evals.records import Answer, Comparison, Judgement

if TYPE_CHECKING:
    from heedful.server.evals.sets import Item


class Judge(Protocol):
    """Marks answers by one measure. `name` says which judge it is, versions and models included."""

    @property
    def name(self) -> str: ...

    @property
    def measure(self) -> str: ...

    async def judge(self, item: Item, answer: Answer) -> Judgement:
        """Raises what its endpoint raises; a judge without an opinion gives the value None."""


class PairJudge(Protocol):
    """Holds two answers to one item against each other, in both orders."""

    @property
    def name(self) -> str: ...

    async def compare(self, item: Item, a: Answer, b: Answer) -> Comparison:
        """`a` and `b` are of one model under two alignments. Raises what its endpoint raises."""


def judgement(judge: Judge, answer: Answer, value: float | None, **facts: object) -> Judgement:
    """`judge`'s word on `answer`."""
    return Judgement(
        measure=judge.measure,
        judge=judge.name,
        set=answer.set,
        id=answer.id,
        model=answer.model,
        alignment=answer.alignment,
        value=value,
        facts=facts,
    )
