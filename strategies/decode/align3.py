"""Deliberation over rules in three steps, behavior, safety, then all of them, before the answer is written.

Zhang et al. 2025, "Reasoning over Boundaries: Enhancing Specification Alignment via Test-time Deliberation" (arXiv
2509.14760, section 5). The paper continues the model's thoughts; here each step is a turn, which any chat API takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints

from heedful.prompts import Use
from heedful.strategies.context.norms import data
from heedful.strategies.decode.refine.correct import check_turns
from heedful.strategies.engine import Capability
from heedful.strategies.run import DecodingStrategy, Resources, Run, Streaming
from heedful.strategies.tasks import keep_alive
from heedful.strategies.thinking import say
from heedful.strategies.types import Context, Event, Message, text_of

_STAGES = ("behavior", "safety", "audit")
_GIVEN: dict[str, Any] = {"behavior": ["Be brief."], "safety": ["Be kind."]}
_USE = Use({"system": _GIVEN, **dict.fromkeys(_STAGES, _GIVEN), "answer": {}}, {"safety": list[str]})
_Rule = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
_Rules = Annotated[tuple[_Rule, ...], Field(max_length=200)]


@dataclass(frozen=True)
class Align3(DecodingStrategy):
    """The model plans its answer by the rules of behavior, revises the plan by those of safety, audits it by all of
    them, and then answers: that last call is an ordinary one with all of the client's parameters, and streams.

    `behavior`: rules beside the norms that steps before have looked up. `safety`: rules in place of the prompt's own.
    `max_reasoning_tokens`: of each of the three steps, beside thoughts; what they say is in the trace and never in
    the answer. `keep_alive`: seconds between comments in a stream that waits for them. `prompt`: the wording.
    """

    behavior: _Rules = ()
    safety: _Rules = ()
    max_reasoning_tokens: Annotated[int, Field(ge=1, le=8192)] = 512
    keep_alive: Annotated[float, Field(ge=0.01, le=600)] = 10.0
    prompt: str = "align3/default"
    needs: ClassVar[Capability] = Capability.CHAT
    streaming: ClassVar[Streaming] = "stream"

    def ready(self, resources: Resources) -> Self:
        resources.prompt(self.prompt, param="alignment.align3.prompt", use=_USE)
        return self

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        check_turns(context, "align3")
        task = asyncio.create_task(self._deliberate(context, run))
        async with aclosing(keep_alive(task, self.keep_alive)) as waiting:
            async for comment in waiting:
                yield comment
        async with aclosing(run.engine.chat(task.result().call())) as events:
            async for event in events:
                yield event

    async def _deliberate(self, context: Context, run: Run) -> Context:
        """What the model sees when it answers: the conversation, and what it has said to itself."""
        prompt = run.prompts.get(self.prompt)
        behavior = [data(text) for text in dict.fromkeys((*context.norms, *self.behavior))]
        safety = [data(text) for text in self.safety or prompt.data["safety"]]
        rules = {"behavior": behavior, "safety": safety}
        run.trace.note("align3", prompt=prompt.id, behavior=len(behavior), safety=len(safety))
        # Norms are in the conversation already, by the step that looked them up.
        own = [data(text) for text in self.behavior]
        context = context.with_system(prompt.render("system", behavior=own, safety=safety))
        turns, planned = list(context.messages), False
        for stage in _STAGES:
            asked = _asked(turns, prompt.render(stage, **rules))
            said = await say(run.engine, asked, context.hidden_params(), self.max_reasoning_tokens)
            if not (text := said.text or said.thoughts):
                # An empty turn would say nothing to the model, and some APIs refuse it.
                told = f"the model wrote none in max_reasoning_tokens={self.max_reasoning_tokens}; left out"
                run.trace.note("align3", stage=stage, reasoning="", no_reasoning=told)
                continue
            run.trace.note("align3", stage=stage, reasoning=text, cut=said.cut)
            turns, planned = [*asked, {"role": "assistant", "content": text}], True
        return context.with_messages(_asked(turns, prompt.render("answer")) if planned else turns)


def _asked(turns: Sequence[Message], text: str) -> list[Message]:
    """The conversation that asks this too: in the user's turn where that is the last.

    Many chat templates refuse two of them in a row.
    """
    *before, last = turns
    if last.get("role") != "user":
        return [*turns, {"role": "user", "content": text}]
    content = last.get("content")
    if isinstance(content, list):
        return [*before, {**last, "content": [*content, {"type": "text", "text": text}]}]
    return [*before, {**last, "content": f"{text_of(last)}\n\n{text}"}]
