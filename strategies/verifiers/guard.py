"""A guard model's verdict: of Llama Guard, Qwen3Guard, Nemotron Safety Guard, Granite Guardian or ShieldGemma.

Inan et al. 2023, "Llama Guard" (arXiv 2312.06674); "Qwen3Guard Technical Report" (2510.14276); Ghosh et al. 2025,
"Aegis2.0" (2501.09004); Padhi et al. 2024, "Granite Guardian" (2412.07724); Zeng et al. 2024, "ShieldGemma"
(2407.21772). Most have their own chat template for whole conversations; Nemotron's is asked by a prompt, ShieldGemma
for one guideline at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from heedful.prompts import Use
from heedful.strategies.engine import Capability, Engine
from heedful.strategies.errors import NoVerdict
from heedful.strategies.run import Resources, Run
from heedful.strategies.tasks import together
from heedful.strategies.thinking import say
from heedful.strategies.types import ChatRequest, Context, Message
from heedful.strategies.verifiers.base import Verdict, Verifier
from heedful.strategies.verifiers.choose import choose
from heedful.strategies.verifiers.guard_answers import READ
from heedful.strategies.verifiers.prompts import conversation
from heedful.strategies.verifiers.reading import words_of

Format = Literal["auto", "llama_guard", "qwen3guard", "nemotron", "granite", "shieldgemma"]

_USE = Use({"critique": {"categories": ["hate"]}}, {"categories": dict[str, str]})
_TURNS = [{"role": "user", "text": "Hi."}, {"role": "agent", "text": "Hello."}]
_ASKED_BY = {
    "nemotron": ("verifiers/nemotron", Use({"ask": {"turns": _TURNS, "question": True}})),
    "shieldgemma": (
        "verifiers/shieldgemma",
        Use(
            {"guideline": {"name": "hate speech", "text": "The prompt shall not contain hate."}},
            {"question": dict[str, str], "answer": dict[str, str]},
        ),
    ),
}


@dataclass(frozen=True)
class Guard(Verifier):
    """Asks a guard model about the conversation with its answer; before there is one (`gate`), about the question.

    `model`: one of this server's models by name (an upstream's, say); default the one that wrote the answer.
    `format`: whose answers it gives; "auto" tells by their shape ("nemotron" and "shieldgemma" are also asked in ways
    of their own, and must be named). `controversial`: whether what Qwen3Guard calls so may "pass" or must "fail"; its
    score is 0.5. `threshold`: of ShieldGemma's probability that no guideline is violated. `template`: what the
    model's chat template takes, such as Granite Guardian's `{guardian_config: {risk_name: jailbreak}}`.
    `max_tokens`: of its verdict, beside thoughts. `prompt`: the critique, and the names of Llama Guard's categories.
    """

    model: str | None = None
    format: Format = "auto"
    controversial: Literal["pass", "fail"] = "fail"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    template: dict[str, Any] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=256)] = 128
    prompt: str = "verifiers/guard"

    @property
    def needs(self) -> Capability:
        return Capability.NONE if self.model else Capability.CHAT

    def ready(self, resources: Resources) -> Self:
        resources.prompt(self.prompt, param="alignment.verifiers.guard.prompt", use=_USE)
        if self.format in _ASKED_BY:
            name, use = _ASKED_BY[self.format]
            resources.prompt(name, param="alignment.verifiers.guard.format", use=use)
        return self

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        engine = run.other(self.model) if self.model else run.engine
        turns = conversation(context, answer)
        if self.format == "shieldgemma":
            return await self._by_guideline(engine, turns, context, run)
        question = context.judged == "question"
        if self.format == "nemotron":
            prompt = run.prompts.get(_ASKED_BY["nemotron"][0])
            told = [{"role": _speaker(turn), "text": words_of(turn)} for turn in turns]
            turns = [{"role": "user", "content": prompt.render("ask", turns=told, question=question)}]
        params: dict[str, Any] = {"temperature": 0}
        if self.template:
            params["chat_template_kwargs"] = self.template
        said = await say(engine, turns, params, self.max_tokens)
        found = READ[self.format](said.text, question)
        if found is None:
            form = "neither safe nor unsafe" if self.format == "auto" else f"not as {self.format} does"
            raise NoVerdict(f"model {engine.model!r} answers {form}; it {said.told()}")
        facts: dict[str, Any] = dict(found.facts)
        if found.categories:
            facts["categories"] = found.categories
        if found.level == "controversial":
            facts["level"] = found.level
            return self._verdict(0.5, self.controversial == "pass", found.categories, facts, run)
        safe = found.level == "safe"
        return self._verdict(float(safe), safe, found.categories, facts, run)

    async def _by_guideline(
        self, engine: Engine, turns: list[Message], context: Context, run: Run
    ) -> Verdict:
        """One call for each guideline, all at once: the model was trained for one harm at a time."""
        prompt = run.prompts.get(_ASKED_BY["shieldgemma"][0])
        asked = [turn for turn in turns if turn.get("role") == "user"][-1:]
        if context.judged == "answer":
            asked = [*asked, turns[-1]]
        guidelines: Mapping[str, str] = prompt.data[context.judged]
        plain = Context.of(ChatRequest(engine.model, ()))
        work = []
        for name, text in guidelines.items():
            told = {"role": "system", "content": prompt.render("guideline", name=name, text=text)}
            work.append(choose(engine, [told, *asked], ("Yes", "No"), plain))
        kept = {name: no for name, (_, no) in zip(guidelines, await together(work), strict=True)}
        broken = [name for name, no in kept.items() if no < self.threshold]
        facts: dict[str, Any] = {"kept": {name: round(no, 4) for name, no in kept.items()}}
        if broken:
            facts["categories"] = broken
        return self._verdict(min(kept.values(), default=1.0), not broken, broken, facts, run)

    def _verdict(
        self, score: float, passed: bool, categories: list[str], facts: dict[str, Any], run: Run
    ) -> Verdict:
        if passed:
            return Verdict(score, True, facts=facts)
        prompt = run.prompts.get(self.prompt)
        names = [prompt.data["categories"].get(code, code) for code in categories]
        return Verdict(
            score, False, prompt.render("critique", categories=names), {"categories": categories} | facts
        )


def _speaker(turn: Message) -> str:
    return "agent" if turn.get("role") == "assistant" else str(turn.get("role"))
