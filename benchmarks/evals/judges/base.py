"""What a judge is: one that marks a single answer, and one that holds two against each other."""

from __future__ import annotations

from typing import Protocol

from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.records import AnswerRecord, Comparison, JudgementRecord
from heedful.strategies.types import text_of


class Judge(Protocol):
    """Marks answers by one measure. `name` says which judge it is, versions and models included."""

    @property
    def name(self) -> str: ...

    @property
    def measure(self) -> str: ...

    async def judge(self, item: EvalItem, answer: AnswerRecord) -> JudgementRecord:
        """Raises what its endpoint raises; a judge without an opinion gives the value None."""


class PairJudge(Protocol):
    """Holds two answers to one item against each other, in both orders."""

    @property
    def name(self) -> str: ...

    async def compare(self, item: EvalItem, a: AnswerRecord, b: AnswerRecord) -> Comparison:
        """`a` and `b` are of one model under two alignments. Raises what its endpoint raises."""


def judgement(judge: Judge, answer: AnswerRecord, value: float | None, **facts: object) -> JudgementRecord:
    """`judge`'s word on `answer`."""
    return JudgementRecord(
        measure=judge.measure,
        judge=judge.name,
        set=answer.set,
        id=answer.id,
        model=answer.model,
        alignment=answer.alignment,
        value=value,
        facts=facts,
    )


def conversation(item: EvalItem) -> list[tuple[str, str]]:
    """Role and text of each turn, for the prompts of judges."""
    return [(str(message["role"]), text_of(message)) for message in item.messages]
