"""Untuned models with restyled in-context alignment: a fixed instruction and fixed stylistic examples.

Lin et al. 2023, "The Unlocking Spell on Base LLMs" (arXiv 2312.01552). The raw form is for base models; all requests
share everything but their own conversation, so its prompt is one cached prefix for all users.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from heedful.prompts import Prompt, UnknownPrompt
from heedful.strategies.engine import Capability
from heedful.strategies.errors import MissingCapability, RequestError
from heedful.strategies.run import Resources, Run
from heedful.strategies.types import Context, Message, text_of


@dataclass(frozen=True)
class Urial:
    """Puts K fixed examples of good answers before the conversation.

    `form`: "raw" continues a transcript (base models), "chat" gives the examples as earlier turns, "auto" is raw
    exactly where the model has no chat template. `examples`: how many (the paper: 1, 3, 8; this prompt has 3).
    `temperature`, `repetition_penalty` and `max_tokens` are the raw form's defaults where the client sends none
    (the paper decodes greedily).
    """

    form: Literal["auto", "raw", "chat"] = "auto"
    examples: Annotated[int, Field(ge=0, le=64)] = 3
    prompt: str = "urial/default"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.1
    max_tokens: Annotated[int, Field(ge=1)] = 2048

    @property
    def needs(self) -> Capability:
        return {"auto": Capability.NONE, "raw": Capability.COMPLETION, "chat": Capability.CHAT}[self.form]

    def ready(self, resources: Resources) -> None:
        try:
            there = len(resources.prompts.get(self.prompt).data["demonstrations"])
        except (UnknownPrompt, KeyError) as error:
            raise RequestError(str(error), param="alignment.urial.prompt", code="prompt_not_found") from error
        if self.examples > there:
            raise RequestError(
                f"urial: prompt {self.prompt!r} has {there} examples, not {self.examples}",
                param="alignment.urial.examples",
            )

    async def prepare(self, context: Context, run: Run) -> Context:
        prompt = run.prompts.get(self.prompt)
        form = self.form
        if form == "auto":
            form = "chat" if Capability.CHAT in run.engine.capabilities else "raw"
            if form == "raw" and Capability.COMPLETION not in run.engine.capabilities:
                raise MissingCapability(
                    f"strategy 'urial' needs chat or completion from model {run.engine.model!r}",
                    param="alignment",
                )
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
        params = dict(context.params)
        own = params.get("stop") or []
        if not isinstance(own, str | list):
            raise RequestError("stop: must be a string or a list of strings", param="stop")
        params["stop"] = [*([own] if isinstance(own, str) else own), *prompt.data["stops"]]
        if params.get("max_tokens") is None and params.get("max_completion_tokens") is None:
            params["max_tokens"] = min(self.max_tokens, run.engine.context_length or self.max_tokens)
        defaults = {"temperature": self.temperature, "repetition_penalty": self.repetition_penalty}
        # The model writes from the line after the opening fence, as in the examples.
        return replace(context, params={**defaults, **params}, prompt=text + "\n")


def transcript(messages: tuple[Message, ...]) -> tuple[str, list[dict[str, str]]]:
    """A conversation as plain text for a raw prompt: the system text, and the turns as role and text.

    Raises RequestError for what a transcript can't hold: images, audio, tool calls.
    """
    system: list[str] = []
    turns: list[dict[str, str]] = []
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        parts = content if isinstance(content, list) else []
        if message.get("tool_calls") or role not in ("system", "developer", "user", "assistant"):
            raise RequestError(f"messages.{i}: a raw prompt can't hold tool calls", param=f"messages.{i}")
        if any(not isinstance(p, dict) or p.get("type") != "text" for p in parts):
            raise RequestError(
                f"messages.{i}.content: a raw prompt holds text only", param=f"messages.{i}.content"
            )
        if role in ("system", "developer"):
            system.append(text_of(message))
        else:
            turns.append({"role": str(role), "text": text_of(message)})
    if not turns or turns[-1]["role"] != "user":
        raise RequestError("messages: the last message must be the user's", param="messages")
    return "\n\n".join(system), turns
