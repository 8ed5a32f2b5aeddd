"""Untuned models with restyled in-context alignment: a fixed instruction and fixed stylistic examples.

Lin et al. 2023, "The Unlocking Spell on Base LLMs" (arXiv 2312.01552). The raw form is for base models; all requests
share everything but their own conversation, so its prompt is one cached prefix for all users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self, TypedDict

from pydantic import Field

from heedful.prompts import Prompt, Use
from heedful.strategies.context.raw import FORM_NEEDS, TURNS, PromptForm, chosen_form, raw_context, transcript
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.run import ContextStrategy, Resources, Run
from heedful.strategies.types import Context, Message


class _Demonstration(TypedDict):
    query: str
    answer: str


_CHAT: dict[str, dict[str, Any]] = {"system": {}}
_RAW = {"raw": {"examples": [{"query": "?", "answer": "!"}], "system": "Be kind.", "turns": TURNS}}
_RAW_DATA = {"demonstrations": list[_Demonstration], "stops": list[str]}
_USES = {
    "auto": Use(_CHAT | _RAW, _RAW_DATA),
    "raw": Use(_RAW, _RAW_DATA),
    "chat": Use(_CHAT, {"demonstrations": list[_Demonstration]}),
}


@dataclass(frozen=True)
class Urial(ContextStrategy):
    """Puts K fixed examples of good answers before the conversation.

    `form`: "raw" continues a transcript (base models), "chat" gives the examples as earlier turns, "auto" is raw
    exactly where the model has no chat template. `examples`: how many (the paper: 1, 3, 8; this prompt has 3).
    `temperature`, `repetition_penalty` and `max_tokens` are the raw form's defaults where the client sends none
    (the paper decodes greedily).
    """

    form: PromptForm = "auto"
    examples: Annotated[int, Field(ge=0, le=64)] = 3
    prompt: str = "urial/default"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.1
    max_tokens: Annotated[int, Field(ge=1)] = 2048

    @property
    def needs(self) -> Capability:
        return FORM_NEEDS[self.form]

    def ready(self, resources: Resources) -> Self:
        prompt = resources.prompt(self.prompt, param="alignment.urial.prompt", use=_USES[self.form])
        there = len(prompt.data["demonstrations"])
        if self.examples > there:
            raise RequestError(
                f"urial: prompt {self.prompt!r} has {there} examples, not {self.examples}",
                param="alignment.urial.examples",
            )
        return self

    async def prepare(self, context: Context, run: Run) -> Context:
        prompt = run.prompts.get(self.prompt)
        form = chosen_form(self.form, run.engine, "urial")
        run.trace.note("urial", prompt=prompt.id, form=form, examples=self.examples)
        return self._chat(context, prompt) if form == "chat" else self._raw(context, prompt, run)

    def _chat(self, context: Context, prompt: Prompt) -> Context:
        context = context.with_system(prompt.render("system"))
        system, *rest = context.messages
        demonstrations: list[Message] = []
        for demo in prompt.data["demonstrations"][: self.examples]:
            demonstrations.append({"role": "user", "content": demo["query"]})
            demonstrations.append({"role": "assistant", "content": demo["answer"]})
        return context.with_messages([system, *demonstrations, *rest])

    def _raw(self, context: Context, prompt: Prompt, run: Run) -> Context:
        system, turns = transcript(context.messages)
        text = prompt.render(
            "raw", examples=prompt.data["demonstrations"][: self.examples], system=system, turns=turns
        )
        defaults = {"temperature": self.temperature, "repetition_penalty": self.repetition_penalty}
        longest = min(self.max_tokens, run.engine.context_length or self.max_tokens)
        # The model writes from the line after the opening fence, as in the examples.
        return raw_context(context, text + "\n", prompt.data["stops"], longest, defaults)
