"""RAIN, rewindable auto-regressive inference: a frozen model searches over its own continuations and judges them.

Li et al. 2023, "RAIN: Your Language Models Can Align Themselves without Finetuning" (arXiv 2309.07124). The reference
mode (`parallel_leaves: 1`) does the published search step by step; the default does the same search with its work
batched and begun ahead (speculate.py).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from pydantic import Field

from heedful.prompts import Prompt, Use
from heedful.strategies.decode.rain.choice import RainChoice, merged
from heedful.strategies.decode.rain.judge import Pair, prepare
from heedful.strategies.decode.rain.limits import Budget
from heedful.strategies.decode.rain.notes import Counts
from heedful.strategies.decode.rain.request import fitting, read
from heedful.strategies.decode.rain.search import StopRule
from heedful.strategies.decode.rain.tree import Constants
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.run import DecodingStrategy, Resources, Run, Streaming
from heedful.strategies.trace import MOST_NODES
from heedful.strategies.types import Context, Event

Count = Annotated[int, Field(ge=1)]

_EFFORT = {
    "low": {"min_visits": 2, "max_iterations": 16, "extra_iterations": 5},
    "medium": {"min_visits": 6, "max_iterations": 50, "extra_iterations": 15},  # as published
    "high": {"min_visits": 16, "max_iterations": 100, "extra_iterations": 30},
}

_TURNS = [
    {"speaker": "Human", "text": "?"},
    {"speaker": "Assistant", "text": "!"},
    {"speaker": "Human", "text": "?"},
]
_TAIL: dict[str, dict[str, Any]] = {"tail": {"a": "kind", "b": "unkind"}}
_OPTIONS = {"good": str, "bad": str}
_TASK = Use({"head": {"turns": _TURNS}, **_TAIL}, _OPTIONS)
_RULE = Use({"head": {"turns": _TURNS, "rules": ["Be kind."]}, **_TAIL}, _OPTIONS)
_PAIR = Use({"head": {"turns": _TURNS}, **_TAIL})


@dataclass(frozen=True)
class Rain(Constants, DecodingStrategy):
    """Searches over continuations, judges them by the model itself and rewinds from bad ones (RAIN).

    What is judged: `task` names a prompt set in prompts/rain/ (harmlessness, truthfulness, or your own); `rule` is a
    norm of your own; `pair` two options of your own, the good one first. With none of them, the norms that context
    strategies bring (`norms+rain`), else harmlessness. `soft`: values p(good) instead of the published 0 or 1.
    """

    task: str | None = None
    rule: str | None = None
    pair: tuple[str, str] | None = None
    soft: bool = False
    effort: Literal["low", "medium", "high"] = "medium"
    """Sets the next four where they are not given. Medium is the published search."""
    min_visits: Annotated[int, Field(ge=0)] | None = None
    """Commit when the most visited child has more true visits than this, and a value above `threshold`."""
    max_iterations: Count | None = None
    extra_iterations: Count | None = None
    """Commit in any case after max(max_iterations - carried visits, extra_iterations) searches."""
    gate: bool | None = None
    """Judge a full plain draft first and return it if it passes `threshold`; low effort does."""
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.8
    parallel_leaves: Annotated[int, Field(ge=1, le=64)] = 8
    """Leaves under evaluation at once; 1 is the reference mode. The answer is the same."""
    no_opinion: Literal["error", "decode", "continue"] = "error"
    """What to do where the first `opinion_after` judgements all cancel between the two orders (not if `soft`)."""
    opinion_after: Count = 8
    max_tokens: Count = 2048
    """Length of an answer in tokens, where the client sets none."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    max_drafted_tokens: Count | None = None
    """Budgets of a request: seconds of wall time; tokens that the model writes in all, drafts included."""
    when_spent: Literal["end", "decode"] = "end"
    """At the end of a budget: end with the best sequence so far, or go on from it by plain decoding."""
    seed: int | None = None
    """Where the client sends none; unset: drawn anew, and told in the trace."""
    trace_nodes: Annotated[int, Field(ge=0, le=MOST_NODES)] = 200
    """Nodes of the tree that a trace shows at most."""

    needs: ClassVar[Capability] = Capability.TOKENS
    streaming: ClassVar[Streaming] = "stream"

    @property
    def rule_to_stop(self) -> StopRule:
        given = {name: getattr(self, name) for name in _EFFORT["medium"] if getattr(self, name) is not None}
        return StopRule(**(_EFFORT[self.effort] | given), threshold=self.threshold)

    @property
    def fast(self) -> bool:
        """Whether the search's work is batched and begun ahead; otherwise it goes step by step, as published."""
        return self.parallel_leaves > 1

    @property
    def gated(self) -> bool:
        return self.effort == "low" if self.gate is None else self.gate

    def ready(self, resources: Resources) -> Self:
        given = [name for name in ("task", "rule", "pair") if getattr(self, name) is not None]
        if len(given) > 1:
            raise RequestError(
                f"rain: {' and '.join(given)} both say what to judge; give one",
                param=f"alignment.rain.{given[1]}",
                code="invalid_option",
            )
        self._prompt(resources, ())
        if not given:
            self._prompt(resources, ("a norm that `norms+rain` brings",))
        if self.similarity and resources.embedder is None:
            raise RequestError(
                "rain: the similarity update needs an embedder, and this server has none; "
                "install the extra 'retrieval', or set similarity: false",
                param="alignment.rain.similarity",
                code="no_embedder",
            )
        return self

    def _prompt(self, resources: Resources, norms: tuple[str, ...]) -> tuple[Prompt, dict[str, Any]]:
        """The prompt set to judge by, and what it is rendered with."""
        param = "alignment.rain.task"
        rules = list(norms) if self.rule is None else [self.rule]
        if self.rule is not None or (rules and self.pair is None and self.task is None):
            return resources.prompt("rain/rule", param=param, use=_RULE), {"rules": rules}
        if self.pair is not None:
            return resources.prompt("rain/pair", param=param, use=_PAIR), {}
        return resources.prompt(f"rain/{self.task or 'harmlessness'}", param=param, use=_TASK), {}

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        request = await read(context, run.engine, self.max_tokens)
        prompt, variables = self._prompt(run.resources, context.norms)
        counts = Counts()
        judge = await prepare(
            run.engine,
            context,
            prompt,
            counts,
            variables=variables,
            pair=Pair(*self.pair) if self.pair else None,
            soft=self.soft,
            batched=self.fast,
        )
        request = fitting(request, run.engine.context_length, judge.overhead)
        seed = next((s for s in (request.seed, self.seed) if s is not None), None)
        seed = secrets.randbits(31) if seed is None else seed
        budget = Budget.starting(counts, self.max_drafted_tokens, self.max_seconds, run.deadline)
        choices = [RainChoice(self, request, run, judge, budget, seed + i, i) for i in range(request.n)]
        async with aclosing(merged(choices)) as events:
            async for event in events:
                yield event
        run.trace.note("rain", prompt=prompt.id, **msgspec.structs.asdict(counts))
