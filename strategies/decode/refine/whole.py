"""Whole answers, corrected as a whole."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heedful.strategies.answer import Answer, Choice, ask, collect
from heedful.strategies.decode.refine.correct import correction, text_params
from heedful.strategies.decode.refine.structure import Check, check_of
from heedful.strategies.errors import RequestError
from heedful.strategies.run import Run
from heedful.strategies.tasks import together
from heedful.strategies.thinking import spoken
from heedful.strategies.types import Context
from heedful.strategies.verifiers.panel import Judgement
from heedful.strategies.verifiers.reading import calls_tools, text_to_judge

if TYPE_CHECKING:
    from heedful.strategies.decode.refine.refine import Refining


@dataclass(frozen=True, slots=True)
class _Candidate:
    choice: Choice
    judgement: Judgement
    malformed: str | None
    """How it breaks the structure that the client asked for."""

    @property
    def passed(self) -> bool:
        return self.judgement.passed and self.malformed is None

    @property
    def rank(self) -> tuple[bool, tuple[int, float, float]]:
        return self.malformed is None, self.judgement.rank


async def settle(refining: Refining, context: Context, run: Run) -> Answer:
    """The draft with each of its choices refined on its own, all at once."""
    draft = await collect(run.engine.chat(context.call(stream=False)))
    check = check_of(context.params)
    settled = await together(_refined(refining, c, check, context, run) for c in draft.choices)
    return Answer(settled, draft.usage, draft.extra)


async def _refined(
    refining: Refining, draft: Choice, check: Check | None, context: Context, run: Run
) -> Choice:
    if (spoke := spoken(draft)) is not draft:
        run.trace.note("refine", choice=draft.index, left_out="the model's thoughts, which are not judged")
        draft = spoke
    if not text_to_judge(draft):
        run.trace.note("refine", choice=draft.index, passed_through="no text")
        return draft
    prompt = run.prompts.get(refining.options.prompt)
    part = "structured" if check and not calls_tools(draft) else "correct"

    async def judged(choice: Choice) -> _Candidate:
        malformed = check(choice.text) if check and not calls_tools(choice) else None
        return _Candidate(choice, await refining.panel.judge(context, text_to_judge(choice), run), malformed)

    def note(number: int, candidate: _Candidate, **facts: Any) -> None:
        if candidate.malformed:
            facts["malformed"] = candidate.malformed
        judgement = candidate.judgement
        facts |= {"score": round(judgement.score, 4), "verdicts": judgement.facts}
        facts["text"] = text_to_judge(candidate.choice)
        run.trace.note("refine", choice=draft.index, round=number, passed=candidate.passed, **facts)

    best = await judged(draft)
    note(0, best)
    seen = {text_to_judge(draft)}
    for number in range(1, refining.options.max_rounds + 1):
        if best.passed:
            break
        began = time.perf_counter()
        critique = "\n".join(filter(None, (best.judgement.critique, best.malformed)))
        messages = correction(context, prompt, text_to_judge(best.choice), critique, part=part)
        tools = calls_tools(draft)
        params = text_params(context, shift=number, temperature=refining.options.temperature, tools=tools)
        try:
            answer = await ask(run.engine, messages, params)
        except RequestError as error:
            # Too long for the model, say: the draft was not.
            run.trace.note("refine", choice=draft.index, round=number, accepted=False, stopped=error.message)
            break
        attempt = spoken(answer.choices[0]) if answer.choices else Choice(0)
        attempt.index = draft.index
        if not (text := text_to_judge(attempt)) or text in seen:
            # What a greedy model says twice it says for ever.
            why = "the correction repeats a text" if text else "the correction is empty"
            run.trace.note("refine", choice=draft.index, round=number, accepted=False, stopped=why)
            break
        seen.add(text)
        candidate = await judged(attempt)
        accepted = candidate.rank > best.rank
        note(number, candidate, accepted=accepted)
        if accepted:
            best = candidate
        remaining = run.remaining()
        if remaining is not None and remaining < 2 * (time.perf_counter() - began):
            run.trace.note("refine", choice=draft.index, stopped="no time for another round")
            break
    if best.passed or refining.options.unresolved == "release":
        return best.choice
    run.trace.note("refine", choice=draft.index, withheld=True)
    return Choice(draft.index, {"role": "assistant", "content": ""}, "content_filter")
