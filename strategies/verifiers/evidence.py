"""Claims held against a store: what supports them, what contradicts them, in the store's own words.

After the question-answering task of Gou et al. 2023 (CRITIC, arXiv 2305.11738, section 4.1), with a store in place of
a web search.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from heedful.prompts import Use
from heedful.retrieval import Filter
from heedful.strategies.engine import Capability
from heedful.strategies.retrieve import require, retrieval_errors
from heedful.strategies.run import Resources, Run
from heedful.strategies.sentences import split
from heedful.strategies.tasks import together
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier
from heedful.strategies.verifiers.choose import choose

_OPTIONS = ("Supported", "Contradicted", "Unclear")
_LEAST_WORDS = 4
_QUOTE = 400  # characters of a text that are shown, as in CRITIC

_TEXTS = [{"id": "1", "text": "It is so.", "source": "A book"}]
_FINDINGS = [
    {"claim": "It is not.", "evidence": _TEXTS, "verdict": verdict, "score": 0.1}
    for verdict in ("none", "contradicted", "supported", "unclear")
]
_USE = Use({"judge": {"claim": "It is so.", "evidence": _TEXTS}, "critique": {"findings": _FINDINGS}})


@dataclass(frozen=True)
class Evidence(Verifier):
    """Looks each claim of the answer up in a store; the model says whether what is found speaks for or against it.

    A claim is a sentence; the first `max_claims` are looked at, all in one batch. `k` texts of the store are shown
    for each, those with a similarity of `min_score` at least; where there are none nothing speaks against the claim.
    `require_support`: a claim must be supported, not only uncontradicted, with probability `threshold`. The score is
    the lowest of all claims.
    """

    store: str = "norms"
    k: Annotated[int, Field(ge=1, le=20)] = 3
    min_score: Annotated[float, Field(ge=-1, le=1)] = 0.3
    max_claims: Annotated[int, Field(ge=1, le=64)] = 8
    require_support: bool = False
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prompt: str = "verifiers/evidence"
    needs: ClassVar[Capability] = Capability.CHAT

    def ready(self, resources: Resources) -> Self:
        require(resources, "verifiers.evidence", [self.store], self.prompt, _USE)
        return self

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        claims = [s.strip() for s in split(answer) if _is_claim(s)][: self.max_claims]
        findings = await together(self._look_up(claim, context, run) for claim in claims)
        at_fault = [f for f in findings if f["score"] < self.threshold]
        critique = run.prompts.get(self.prompt).render("critique", findings=at_fault) if at_fault else ""
        score = min((f["score"] for f in findings), default=1.0)
        return Verdict(score, not at_fault, critique, {"claims": findings})

    async def _look_up(self, claim: str, context: Context, run: Run) -> dict[str, Any]:
        with retrieval_errors("alignment.verifiers.evidence."):
            hits = await run.stores.search(self.store, claim, self.k, Filter(at=time.time()))
        shown = [
            {"id": h.item.id, "text": _text(h.item.text, h.item.answer), "source": h.item.source}
            for h in hits
            if h.score >= self.min_score
        ]
        finding: dict[str, Any] = {"claim": claim, "evidence": shown}
        if not shown:
            verdict: Literal["none"] = "none"
            return finding | {"verdict": verdict, "score": 0.0 if self.require_support else 1.0}
        prompt = run.prompts.get(self.prompt).render("judge", claim=claim, evidence=shown)
        odds = await choose(run.engine, [{"role": "user", "content": prompt}], _OPTIONS, context)
        supported, contradicted, _ = odds
        said = _OPTIONS[odds.index(max(odds))].lower()
        score = supported if self.require_support else 1 - contradicted
        return finding | {"verdict": said, "score": round(score, 4)}


def _is_claim(sentence: str) -> bool:
    text = sentence.strip()
    return len(text.split()) >= _LEAST_WORDS and not text.endswith("?")


def _text(text: str, answer: str) -> str:
    """What an item says, on one line; a demonstration is its question with its answer."""
    return " ".join(f"{text} {answer}".split())[:_QUOTE]
