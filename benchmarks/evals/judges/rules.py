"""The exact judge of answers under rules that code can check."""

from __future__ import annotations

from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.judges.base import judgement
from heedful.benchmarks.evals.records import AnswerRecord, JudgementRecord
from heedful.strategies.verifiers.rules import broken


class RulesKept:
    """1 where an answer keeps every rule of its item; the facts name what it breaks. An empty answer keeps none."""

    name, measure = "code", "rules"

    async def judge(self, item: EvalItem, answer: AnswerRecord) -> JudgementRecord:
        lost = broken(item.rules, answer.text) if answer.text.strip() else item.rules
        return judgement(self, answer, float(not lost), broken=[next(iter(rule)) for rule in lost])
