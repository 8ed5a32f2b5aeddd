"""Generate, then refine: a draft, verdicts of tools on it, corrections in the light of their words.

Gou et al. 2023, "CRITIC: Large Language Models Can Self-Correct with Tool-Interactive Critiquing" (arXiv 2305.11738,
algorithm 1). As there, a correction that does not score higher is rejected and the answer before it kept.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from heedful.prompts import Use
from heedful.strategies.answer import settled
from heedful.strategies.decode.refine.correct import check_turns
from heedful.strategies.decode.refine.sentence import by_sentence
from heedful.strategies.decode.refine.structure import check_of
from heedful.strategies.decode.refine.whole import settle
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.run import DecodingStrategy, Resources, Run, Streaming
from heedful.strategies.types import Context, Event
from heedful.strategies.verifiers.panel import Panel, Verified

_GIVEN = {"critique": "It is unkind.", "released": "So far."}
_WHOLE = ("correct", "structured")
_USES = {
    "whole": Use(dict.fromkeys(_WHOLE, _GIVEN)),
    "sentence": Use(dict.fromkeys((*_WHOLE, "sentence", "sentence_after"), _GIVEN) | {"go_on": {}}),
}


@dataclass(frozen=True)
class Refine(Verified):
    """Lets verifiers find fault with the draft and the model correct it, until they pass it; the best answer wins.

    `verifiers`: names, or names with their options; all must pass. `max_rounds`: corrections per choice at most (the
    paper: 4). `mode`: "whole" judges whole answers; "sentence" judges and releases sentence by sentence, and corrects
    the one at fault before it goes out. `unresolved`: what happens to an answer that no round could mend: "release"
    the best, or "withhold" it (finish_reason "content_filter"). `on_error`: a verifier that fails makes the request
    "fail", or is taken to "pass" the answer. `verifier_timeout` and `keep_alive` (between comments in a stream) are
    seconds. `temperature`: of corrections; default the client's (the paper's toxicity runs: 0.9). `prompt`: the
    wording.
    """

    max_rounds: Annotated[int, Field(ge=0, le=16)] = 4
    mode: Literal["whole", "sentence"] = "whole"
    unresolved: Literal["release", "withhold"] = "release"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    prompt: str = "refine/default"
    step: ClassVar[str] = "refine"

    def ready(self, resources: Resources) -> DecodingStrategy:
        panel = self.assemble(resources)
        if not self.verifiers:
            raise RequestError("refine: give at least one verifier", param="alignment.refine.verifiers")
        resources.prompt(self.prompt, param="alignment.refine.prompt", use=_USES[self.mode])
        return Refining(self, panel)


@dataclass(frozen=True)
class Refining(DecodingStrategy):
    """`Refine` with its panel of verifiers."""

    options: Refine
    panel: Panel

    @property
    def needs(self) -> Capability:
        return Capability.CHAT | self.panel.needs

    @property
    def streaming(self) -> Streaming:
        return "sentence" if self.options.mode == "sentence" else "buffer"

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        check_turns(context, "refine")
        if self.options.mode == "sentence":
            if check_of(context.params) is None:
                async with aclosing(by_sentence(self, context, run)) as sentences:
                    async for event in sentences:
                        yield event
                return
            run.trace.note("refine", mode="whole", because="a structured answer is judged as a whole")
        async with aclosing(settled(settle(self, context, run), self.options.keep_alive)) as events:
            async for event in events:
                yield event
