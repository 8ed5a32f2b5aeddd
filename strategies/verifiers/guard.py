"""A guard model's verdict: Llama Guard and its kin, which answer "safe", or "unsafe" and the categories.

Inan et al. 2023, "Llama Guard" (arXiv 2312.06674). Such a model has its own chat template for whole conversations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from heedful.prompts import Use
from heedful.strategies.engine import Capability
from heedful.strategies.errors import NoVerdict
from heedful.strategies.run import Resources, Run
from heedful.strategies.thinking import say
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier

_ANSWER = re.compile(r"\s*(?P<word>safe|unsafe)\b(?P<codes>[\s,A-Z0-9]*)")

_USE = Use({"critique": {"categories": ["hate"]}}, {"categories": dict[str, str]})


@dataclass(frozen=True)
class Guard(Verifier):
    """Asks a guard model about the conversation with its answer.

    `model`: one of this server's models by name (an upstream's, say); default the one that wrote the answer.
    `max_tokens`: of its verdict, beside thoughts. The names of its categories are data of the prompt.
    """

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1, le=256)] = 32
    prompt: str = "verifiers/guard"

    @property
    def needs(self) -> Capability:
        return Capability.NONE if self.model else Capability.CHAT

    def ready(self, resources: Resources) -> Self:
        resources.prompt(self.prompt, param="alignment.verifiers.guard.prompt", use=_USE)
        return self

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        engine = run.other(self.model) if self.model else run.engine
        turns = [*context.original.messages, {"role": "assistant", "content": answer}]
        said = await say(engine, turns, {"temperature": 0}, self.max_tokens)
        match = _ANSWER.match(said.text)
        if match is None:
            raise NoVerdict(f"model {engine.model!r} answers neither safe nor unsafe; it {said.told()}")
        if match["word"] == "safe":
            return Verdict(1.0, True)
        codes = re.findall(r"[A-Z]+[0-9]+", match["codes"])
        prompt = run.prompts.get(self.prompt)
        names = [prompt.data["categories"].get(code, code) for code in codes]
        return Verdict(0.0, False, prompt.render("critique", categories=names), {"categories": codes})
