"""What users' own tools are told, and what they answer: JSON on the way out, JSON back."""

from __future__ import annotations

from typing import Annotated

import msgspec

from heedful.strategies.errors import VerifierError
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict

_CRITIQUE = 4000  # characters that a model gets to read


class _Report(msgspec.Struct):
    score: Annotated[float, msgspec.Meta(ge=0, le=1)]
    passed: bool | None = None
    critique: str = ""


def question(context: Context, answer: str) -> bytes:
    """`{"messages": [the client's], "norms": [...], "answer": "..."}`

    What a gate has judged stands in `answer` as well, with `"judged": "question"` beside it.
    """
    told = {"messages": context.original.messages, "norms": context.norms, "answer": answer}
    return msgspec.json.encode(told | ({"judged": "question"} if context.judged == "question" else {}))


def verdict(data: bytes, threshold: float) -> Verdict:
    """Reads `{"score": 0..1, "passed": true|false, "critique": "..."}`; without `passed`, `threshold` decides.

    Raises VerifierError for anything else.
    """
    try:
        report = msgspec.json.decode(data, type=_Report)
    except msgspec.DecodeError as error:
        raise VerifierError(f"its answer is not a verdict: {error}") from error
    passed = report.score >= threshold if report.passed is None else report.passed
    return Verdict(report.score, passed, report.critique[:_CRITIQUE])
