"""Exact judges of questions whose right value is known, and the wrong ones: what stood before, or holds elsewhere."""

from __future__ import annotations

import re

from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.judges.base import judgement
from heedful.benchmarks.evals.records import AnswerRecord, JudgementRecord


class InForce:
    """1 where an answer names the right value and no wrong one."""

    name, measure = "named", "living"

    async def judge(self, item: EvalItem, answer: AnswerRecord) -> JudgementRecord:
        right, wrong = _named(item, answer.text)
        return judgement(self, answer, float(right and not wrong))


class NotStale:
    """0 where an answer names a wrong value, even beside the right one."""

    name, measure = "named", "stale"

    async def judge(self, item: EvalItem, answer: AnswerRecord) -> JudgementRecord:
        return judgement(self, answer, float(not _named(item, answer.text)[1]))


def _named(item: EvalItem, text: str) -> tuple[bool, bool]:
    """Whether a text names a right value, and whether it names a wrong one."""
    named = [_names(text, value) for value in item.candidates]
    return (
        any(each for i, each in enumerate(named) if i in item.right),
        any(each for i, each in enumerate(named) if i not in item.right),
    )


def _names(text: str, value: str) -> bool:
    """As a whole word: 12 is in no 112 and in no 12:30."""
    return re.search(rf"(?<![\w:.,-]){re.escape(value)}(?![\w:-]|[.,]\d)", text, re.IGNORECASE) is not None
