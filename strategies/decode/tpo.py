"""Test-time preference optimization: what parts the best answer from the worst, put into words, makes better ones.

Li et al. 2025, "Test-Time Preference Optimization: On-the-Fly Alignment via Iterative Textual Feedback" (arXiv
2501.12895, section 3). The paper's reward model is here any panel of verifiers, `reward` among them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from heedful.prompts import Use
from heedful.strategies.answer import Answer, Choice, ask, settled
from heedful.strategies.decode.refine.correct import check_turns, text_params
from heedful.strategies.engine import Capability
from heedful.strategies.errors import DeadlineExceeded, EngineError, RequestError, VerifierError
from heedful.strategies.run import DecodingStrategy, Resources, Run, Streaming
from heedful.strategies.tasks import together
from heedful.strategies.thinking import say, spoken
from heedful.strategies.types import Context, Event, Message, choices_wanted
from heedful.strategies.verifiers.panel import Judgement, Panel, Verified
from heedful.strategies.verifiers.prompts import after
from heedful.strategies.verifiers.reading import calls_tools, text_to_judge

_USE = Use(
    {
        "loss": {"rejected": "No."},
        "loss_alone": {},
        "gradient": {},
        "revise": {"advice": "Say why."},
    }
)


# Too long for the model, say, or a verifier that fails: what is in the pool already is an answer all the same.
_LEAVES_THE_POOL = (RequestError, VerifierError, EngineError)


@dataclass(frozen=True)
class Tpo(Verified):
    """Samples `n` answers; `max_rounds` times the model says why the best beats the worst, and writes `n` better.

    All answers stay in one pool, scored by the verifiers, and the best of it goes out. A round is a critique of
    the best against the worst (the paper's textual loss), advice drawn from it (its textual gradient), each of at
    most `max_feedback_tokens` beside thoughts, and `n` answers that follow the advice, in one call. It ends early
    where nothing can score higher. At temperature 0 each draw is one answer. The defaults are the paper's D2-N5.
    `verifiers`, `on_error`, `verifier_timeout` and `keep_alive` are those of `refine`. `prompt`: the wording.
    """

    n: Annotated[int, Field(ge=1, le=64)] = 5
    max_rounds: Annotated[int, Field(ge=0, le=16)] = 2
    max_feedback_tokens: Annotated[int, Field(ge=1, le=8192)] = 512
    prompt: str = "tpo/default"
    step: ClassVar[str] = "tpo"

    def ready(self, resources: Resources) -> DecodingStrategy:
        panel = self.assemble(resources)
        if not self.verifiers:
            raise RequestError("tpo: give at least one verifier", param="alignment.tpo.verifiers")
        resources.prompt(self.prompt, param="alignment.tpo.prompt", use=_USE)
        return Preferring(self, panel)


@dataclass(frozen=True)
class Preferring(DecodingStrategy):
    """`Tpo` with its panel of verifiers."""

    options: Tpo
    panel: Panel
    streaming: ClassVar[Streaming] = "buffer"

    @property
    def needs(self) -> Capability:
        return Capability.CHAT | self.panel.needs

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        check_turns(context, "tpo")
        pool = _Pool(self, context, run)
        async with aclosing(settled(pool.best(), self.options.keep_alive)) as events:
            async for event in events:
                yield event


@dataclass(frozen=True, slots=True)
class _Scored:
    choice: Choice
    text: str
    judgement: Judgement | None
    """None: it is without a word."""

    @property
    def rank(self) -> tuple[float, ...]:
        return (-1.0,) if self.judgement is None else self.judgement.rank


@dataclass(slots=True)
class _Pool:
    """All answers to one request, each with its verdicts."""

    preferring: Preferring
    context: Context
    run: Run
    scored: list[_Scored] = field(default_factory=list)
    _verdicts: dict[str, Judgement] = field(default_factory=dict)

    async def best(self) -> Answer:
        """The best answers of all rounds, as many as the client wants, best first."""
        options, wanted = self.preferring.options, choices_wanted(self.context.params)
        began = time.perf_counter()
        first = await self._draw(self.context.messages, wanted, 0, tools=True)
        await self._score(first.choices, 0)
        for number in range(1, options.max_rounds + 1):
            remaining = self.run.remaining()
            if remaining is not None and remaining < 2 * (time.perf_counter() - began):
                self.run.trace.note("tpo", round=number, stopped="no time for another round")
                break
            began = time.perf_counter()
            try:
                revised, why = await self._round(number)
                await self._score(revised, number)
            except DeadlineExceeded:
                raise
            except _LEAVES_THE_POOL as error:
                why = error.message
            if why:
                self.run.trace.note("tpo", round=number, stopped=why)
                break
        order = sorted(range(len(self.scored)), key=lambda i: self.scored[i].rank, reverse=True)[:wanted]
        self.run.trace.note("tpo", answers=len(self.scored), judged=len(self._verdicts), chosen=order)
        chosen = [replace(self.scored[i].choice, index=place) for place, i in enumerate(order)]
        return Answer(chosen, first.usage, first.extra)

    async def _round(self, number: int) -> tuple[list[Choice], str]:
        """Better answers, or why there are none."""
        worded = [s for s in self.scored if s.text]
        if not worded:
            return [], "no answer has a word"
        best = max(worded, key=lambda s: s.rank)
        worst = min(worded, key=lambda s: s.rank)
        if best.judgement is not None and best.judgement.passed and best.judgement.score == 1:
            return [], "no answer can score higher"
        prompt = self.run.prompts.get(self.preferring.options.prompt)
        alone = best.text == worst.text
        critic = after(
            self.context,
            best.text,
            prompt.render("loss_alone") if alone else prompt.render("loss", rejected=worst.text),
        )
        if not (loss := await self._say(critic)):
            return [], "the critique is empty"
        adviser: list[Message] = [
            *critic,
            {"role": "assistant", "content": loss},
            {"role": "user", "content": prompt.render("gradient")},
        ]
        if not (advice := await self._say(adviser)):
            return [], "the advice is empty"
        pair = {"best": self.scored.index(best), "worst": self.scored.index(worst)}
        self.run.trace.note("tpo", round=number, **pair, loss=loss, gradient=advice)
        asked = after(self.context, best.text, prompt.render("revise", advice=advice))
        revised = await self._draw(asked, 1, number, tools=calls_tools(best.choice))
        return revised.choices, ""

    async def _say(self, messages: Sequence[Message]) -> str:
        params, most = self.context.hidden_params(), self.preferring.options.max_feedback_tokens
        return (await say(self.run.engine, messages, params, most)).text

    async def _draw(self, messages: Sequence[Message], least: int, number: int, *, tools: bool) -> Answer:
        """`n` answers, `least` at least. Equal samples are no choice, so at temperature 0 there are only those."""
        n = max(self.preferring.options.n, least)

        def params(index: int) -> Mapping[str, Any]:
            return text_params(self.context, shift=number * n + index, tools=tools)

        if self.context.params.get("temperature") == 0:
            n = least
        engine = self.run.engine
        drawn = await ask(engine, list(messages), {**params(0), "n": n})
        # A server that knows no `n`: the rest are asked for one by one.
        missing = range(len(drawn.choices), n)
        for answer in await together(ask(engine, list(messages), {**params(i), "n": 1}) for i in missing):
            drawn.choices += answer.choices[:1]
        return drawn

    async def _score(self, choices: Sequence[Choice], number: int) -> None:
        """Takes answers into the pool, each text judged once."""
        spoke = [spoken(choice) for choice in choices]
        texts = [text_to_judge(choice) for choice in spoke]
        new = [text for text in dict.fromkeys(texts) if text and text not in self._verdicts]
        panel = self.preferring.panel
        judged = await together(panel.judge(self.context, text, self.run) for text in new)
        self._verdicts |= zip(new, judged, strict=True)
        for choice, text in zip(spoke, texts, strict=True):
            facts: dict[str, Any] = {"round": number, "choice": len(self.scored), "text": text}
            if (judgement := self._verdicts.get(text)) is not None:
                facts |= {"score": round(judgement.score, 4), "passed": judgement.passed}
                facts["verdicts"] = judgement.facts
            self.run.trace.note("tpo", **facts)
            self.scored.append(_Scored(choice, text, judgement))
