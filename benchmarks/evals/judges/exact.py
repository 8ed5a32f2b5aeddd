"""Exact match: right or wrong without a judge's opinion."""

from __future__ import annotations

import re
import unicodedata

from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.judges.base import judgement
from heedful.benchmarks.evals.records import AnswerRecord, JudgementRecord

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_EDGES = " \t.,;:!?\"'`*_()[]“”‘’"


class ExactMatch:
    """Compares with the item's `answer`, or any of those between its `|`.

    A number: the last one of the text counts. Words: the first line that holds any counts, without case, quotes and
    full stops, and is right where it is the answer or ends with it ("It is Paris.").
    """

    name = "exact"
    measure = "capability"

    async def judge(self, item: EvalItem, answer: AnswerRecord) -> JudgementRecord:
        accepted = item.answer.split("|")
        return judgement(self, answer, float(any(matches(answer.text, one) for one in accepted)))


def matches(text: str, accepted: str) -> bool:
    """Whether a text gives this answer."""
    wanted = _plain(accepted)
    if _NUMBER.fullmatch(wanted):
        numbers = _NUMBER.findall(_plain(text))
        return bool(numbers) and _value(numbers[-1]) == _value(wanted)
    said = next((line for raw in text.splitlines() if (line := _plain(raw))), "")
    return said == wanted or said.endswith(f" {wanted}")


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


def _value(number: str) -> float:
    return float(number.replace(",", ""))
