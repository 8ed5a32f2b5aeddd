"""The model as its own critic, by named principles.

After the critique of Bai et al. 2022, "Constitutional AI" (arXiv 2212.08073). Gou et al. 2023 (CRITIC, section 4)
found a model's own verdict unreliable without a tool; combine it with others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import Field

from heedful.prompts import Use
from heedful.strategies.engine import Capability
from heedful.strategies.run import Resources, Run
from heedful.strategies.thinking import say
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier
from heedful.strategies.verifiers.choose import choose
from heedful.strategies.verifiers.prompts import after, instead

_PARTS = dict.fromkeys(("judge", "critique", "unspoken"), {"principles": ("Be kind.",)})
_OWN_PRINCIPLES = Use(_PARTS)
_ITS_PRINCIPLES = Use(_PARTS, {"principles": list[str]})
_OF_QUESTIONS = Use({"judge": {"request": "Hello?", "principles": ("Be kind.",)}}, {"principles": list[str]})


@dataclass(frozen=True)
class SelfCritique(Verifier):
    """The model says whether its answer breaks one of the principles, and if so how.

    `principles`: each a sentence; default those of the prompt. The score is the probability that it breaks none,
    and passes from `threshold` on. A critique costs a second call, of `max_tokens` at most beside thoughts, and only
    where it fails. A `gate` asks by `question_prompt` whether doing what the client asks would break one.
    """

    principles: tuple[str, ...] = ()
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    max_tokens: Annotated[int, Field(ge=1, le=1024)] = 96
    prompt: str = "verifiers/self"
    question_prompt: str = "verifiers/self_question"
    needs: ClassVar[Capability] = Capability.CHAT

    def ready(self, resources: Resources) -> Self:
        use = _OWN_PRINCIPLES if self.principles else _ITS_PRINCIPLES
        resources.prompt(self.prompt, param="alignment.verifiers.self.prompt", use=use)
        where = "alignment.verifiers.self.question_prompt"
        resources.prompt(self.question_prompt, param=where, use=_OF_QUESTIONS)
        return self

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        if context.judged == "question":
            return await self._question(context, answer, run)
        prompt = run.prompts.get(self.prompt)
        principles = self.principles or tuple(prompt.data["principles"])
        judge = after(context, answer, prompt.render("judge", principles=principles))
        breaks, keeps = await choose(run.engine, judge, ("Yes", "No"), context)
        if keeps >= self.threshold:
            return Verdict(keeps, True)
        critic = after(context, answer, prompt.render("critique", principles=principles))
        params = context.hidden_params(temperature=0)
        critique = (await say(run.engine, critic, params, self.max_tokens)).text
        return Verdict(keeps, False, critique or prompt.render("unspoken", principles=principles))

    async def _question(self, context: Context, request: str, run: Run) -> Verdict:
        prompt = run.prompts.get(self.question_prompt)
        principles = self.principles or tuple(prompt.data["principles"])
        asked = prompt.render("judge", request=request, principles=principles)
        _, keeps = await choose(run.engine, instead(context, asked), ("Yes", "No"), context)
        return Verdict(keeps, keeps >= self.threshold)
