"""Alignment by instruction: the model is told the principles, and may first reason about them.

Ganguli et al. 2023, "The Capacity for Moral Self-Correction in Large Language Models" (arXiv 2302.07459):
Q+IF is `mode="instruction"`, Q+IF+CoT is `mode="cot"`. The paper appends the instruction to the question
(`place="question"`); the default puts it into the system message, ahead of the client's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from heedful.prompts import Prompt, Use
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.run import ContextStrategy, Resources, Run
from heedful.strategies.thinking import say
from heedful.strategies.types import Context, Message, text_of

_USES = {
    ("instruction", "system"): Use({"system": {}}),
    ("instruction", "question"): Use({"question": {"question": "?"}}),
    ("cot", "system"): Use({"system": {}, "prefill": {}, "think": {}, "answer": {}}),
    ("cot", "question"): Use({"question": {"question": "?"}, "prefill": {}, "think": {}, "answer": {}}),
}


@dataclass(frozen=True)
class Principles(ContextStrategy):
    """Tells the model a set of principles, and in mode "cot" lets it think about them first.

    `set` names a prompt in prompts/principles/; `max_reasoning_tokens` bounds the thoughts (the paper: 256), which
    appear in the trace and never in the answer.
    """

    set: str = "hhh"
    mode: Literal["instruction", "cot"] = "instruction"
    place: Literal["system", "question"] = "system"
    max_reasoning_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    needs: ClassVar[Capability] = Capability.CHAT

    def ready(self, resources: Resources) -> Self:
        use = _USES[self.mode, self.place]
        resources.prompt(f"principles/{self.set}", param="alignment.principles.set", use=use)
        return self

    async def prepare(self, context: Context, run: Run) -> Context:
        prompt = run.prompts.get(f"principles/{self.set}")
        context = self._instruct(context, prompt)
        if self.mode == "instruction":
            run.trace.note("principles", prompt=prompt.id, place=self.place)
            return context
        if context.params.get("continue_final_message"):
            raise RequestError(
                "continue_final_message: thinking first (principles, mode 'cot') leaves no turn to continue",
                param="continue_final_message",
            )
        thoughts = await self._think(context, run, prompt)
        if not thoughts:
            # An empty turn would say nothing to the model, and some APIs refuse it.
            told = (
                f"the model wrote none in max_reasoning_tokens={self.max_reasoning_tokens}; instruction alone"
            )
            run.trace.note("principles", prompt=prompt.id, place=self.place, reasoning="", no_reasoning=told)
            return context
        run.trace.note("principles", prompt=prompt.id, place=self.place, reasoning=thoughts)
        return context.with_messages(
            [
                *context.messages,
                {"role": "assistant", "content": thoughts},
                {"role": "user", "content": prompt.render("answer")},
            ]
        )

    def _instruct(self, context: Context, prompt: Prompt) -> Context:
        if self.place == "system":
            return context.with_system(prompt.render("system"))
        messages = list(context.messages)
        for i in range(len(messages) - 1, -1, -1):
            if messages[i].get("role") == "user":
                messages[i] = _append(messages[i], prompt)
                return context.with_messages(messages)
        raise RequestError("messages: principles at the question need a user message", param="messages")

    async def _think(self, context: Context, run: Run, prompt: Prompt) -> str:
        """The first of the two calls: begins with the prefill, as the paper's does, or is "" where nothing was said.

        Of a model that thinks by itself its own thoughts count, where it shows them and says nothing beside.
        """
        prefix, messages = "", list(context.messages)
        extra: dict[str, Any] = {}
        if Capability.PREFILL in run.engine.capabilities:
            prefix = prompt.render("prefill")
            messages.append({"role": "assistant", "content": prefix})
            extra = {"continue_final_message": True, "add_generation_prompt": False}
        else:
            messages.append({"role": "user", "content": prompt.render("think")})
        said = await say(run.engine, messages, context.hidden_params(**extra), self.max_reasoning_tokens)
        text = said.text or said.thoughts
        return f"{prefix} {text}".strip() if text else ""


def _append(message: Message, prompt: Prompt) -> Message:
    """The user's turn with the instruction after it; parts that are no text stay as they are."""
    content = message.get("content")
    if isinstance(content, list):
        return {
            **message,
            "content": [*content, {"type": "text", "text": prompt.render("question", question="")}],
        }
    return {**message, "content": prompt.render("question", question=text_of(message))}
