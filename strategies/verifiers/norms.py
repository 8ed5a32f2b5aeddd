"""Whether an answer keeps the norms that were looked up for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import Field

from heedful.prompts import Use
from heedful.strategies.engine import Capability
from heedful.strategies.run import Resources, Run
from heedful.strategies.tasks import together
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier
from heedful.strategies.verifiers.choose import choose
from heedful.strategies.verifiers.prompts import after, instead

_OF_QUESTIONS = Use({"judge": {"request": "Hello?", "norm": "Be kind."}})
_USE = Use({"judge": {"norm": "Be kind."}, "critique": {"norms": ["Be kind."]}})


@dataclass(frozen=True)
class NormsKept(Verifier):
    """The model judges the answer by each norm that a context strategy before it has retrieved, all in one batch.

    The score is the lowest probability that a norm is kept; each must reach `threshold`. The critique quotes the
    norms that do not. Where nothing was retrieved, everything passes. A `gate` after `norms` asks by
    `question_prompt` whether the request can be fulfilled without breaking a norm.
    """

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prompt: str = "verifiers/norms"
    question_prompt: str = "verifiers/norms_question"
    needs: ClassVar[Capability] = Capability.CHAT

    def ready(self, resources: Resources) -> Self:
        resources.prompt(self.prompt, param="alignment.verifiers.norms.prompt", use=_USE)
        where = "alignment.verifiers.norms.question_prompt"
        resources.prompt(self.question_prompt, param=where, use=_OF_QUESTIONS)
        return self

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        prompt = run.prompts.get(self.prompt)
        if context.judged == "question":
            about = run.prompts.get(self.question_prompt)
            questions = [
                instead(context, about.render("judge", request=answer, norm=norm)) for norm in context.norms
            ]
        else:
            questions = [after(context, answer, prompt.render("judge", norm=norm)) for norm in context.norms]
        found = await together(choose(run.engine, q, ("Yes", "No"), context) for q in questions)
        kept = [yes for yes, _ in found]
        broken = [n for n, yes in zip(context.norms, kept, strict=True) if yes < self.threshold]
        critique = prompt.render("critique", norms=broken) if broken else ""
        facts = {"norms": len(kept), "kept": [round(k, 4) for k in kept]}
        return Verdict(min(kept, default=1.0), not broken, critique, facts)
