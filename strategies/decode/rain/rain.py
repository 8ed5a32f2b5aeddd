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
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import Field

from heedful.prompts import Prompt, Use
from heedful.strategies.decode.rain.choice import RainChoice, merged
from heedful.strategies.decode.rain.judge import Pair, conversation, prepare
from heedful.strategies.decode.rain.limits import Budget
from heedful.strategies.decode.rain.notes import Counts
from heedful.strategies.decode.rain.request import fitting, read
from heedful.strategies.decode.rain.search import StopRule
from heedful.strategies.decode.rain.tree import Constants, Share
from heedful.strategies.decode.rain.value import ByVerifiers, LeafJudge
from heedful.strategies.engine import Capability
from heedful.strategies.errors import RequestError
from heedful.strategies.run import DecodingStrategy, Resources, Run, Strategy, Streaming
from heedful.strategies.trace import MOST_NODES
from heedful.strategies.types import Context, Event
from heedful.strategies.verifiers.grading import Grader, Grading
from heedful.strategies.verifiers.panel import OnError, VerifierSpec

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
class Rain(Constants, Strategy):
    """Searches over continuations, judges them by the model itself or by verifiers, and rewinds from bad ones (RAIN).

    What the model judges: `task` names a prompt set in prompts/rain/ (harmlessness, truthfulness, or your own);
    `rule` is a norm of your own; `pair` two options of your own, the good one first. With none of them, the norms
    that context strategies bring (`norms+rain`), else harmlessness. `soft`: values p(good) instead of the published
    0 or 1. With `value`, verifiers judge in its place. `on_error` and `verifier_timeout` are those of `refine`.
    """

    task: str | None = None
    rule: str | None = None
    pair: tuple[str, str] | None = None
    soft: bool = False
    value: Annotated[tuple[VerifierSpec, ...], Field(max_length=32)] = ()
    """Verifiers whose verdicts are the value: the lowest counts, or, with a weight for each, their mean."""
    value_weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    self_evaluation: Share = 0.0
    """The share of the model's own judgement in the value, beside verifiers."""
    on_error: OnError = "fail"
    verifier_timeout: Annotated[float, Field(gt=0, le=600)] = 30.0
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

    kind: ClassVar[Literal["context", "decoding"]] = "decoding"

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

    @property
    def judges_itself(self) -> bool:
        """Whether the model's own judgement counts."""
        return not self.value or self.self_evaluation > 0

    def ready(self, resources: Resources) -> DecodingStrategy:
        given = [name for name in ("task", "rule", "pair") if getattr(self, name) is not None]
        if len(given) > 1:
            raise _invalid(f"{' and '.join(given)} both say what to judge; give one", given[1])
        if given and not self.judges_itself:
            raise _invalid(
                f"{given[0]} says what the model judges, and verifiers judge in its place; leave out either, or "
                "give the model's judgement a share by `self_evaluation`",
                given[0],
            )
        if not self.value and (self.value_weights or self.self_evaluation):
            name = "value_weights" if self.value_weights else "self_evaluation"
            raise _invalid(f"{name} is of verifiers; name some in `value`", name)
        if self.judges_itself:
            self.judging_prompt(resources, ())
            if not given:
                self.judging_prompt(resources, ("a norm that `norms+rain` brings",))
        if self.similarity and resources.embedder is None:
            raise RequestError(
                "rain: the similarity update needs an embedder, and this server has none; "
                "install the extra 'retrieval', or set similarity: false",
                param="alignment.rain.similarity",
                code="no_embedder",
            )
        if not self.value:
            return Searching(self)
        grading = Grading.of(
            self.value,
            self.value_weights,
            resources,
            on_error=self.on_error,
            timeout=self.verifier_timeout,
            param="alignment.rain.value",
        )
        return Searching(self, grading)

    def judging_prompt(self, resources: Resources, norms: tuple[str, ...]) -> tuple[Prompt, dict[str, Any]]:
        """The prompt set that the model judges by, and what it is rendered with."""
        param = "alignment.rain.task"
        rules = list(norms) if self.rule is None else [self.rule]
        if self.rule is not None or (rules and self.pair is None and self.task is None):
            return resources.prompt("rain/rule", param=param, use=_RULE), {"rules": rules}
        if self.pair is not None:
            return resources.prompt("rain/pair", param=param, use=_PAIR), {}
        return resources.prompt(f"rain/{self.task or 'harmlessness'}", param=param, use=_TASK), {}


@dataclass(frozen=True)
class Searching(DecodingStrategy):
    """`Rain` with its verifiers, where it has any."""

    options: Rain
    grading: Grading | None = None
    streaming: ClassVar[Streaming] = "stream"

    @property
    def needs(self) -> Capability:
        return Capability.TOKENS | (self.grading.panel.needs if self.grading else Capability.NONE)

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        options = self.options
        request = await read(context, run.engine, options.max_tokens)
        counts, told = Counts(), dict[str, Any]()
        judge = await self._judge(context, run, counts, told)
        request = fitting(request, run.engine.context_length, judge.overhead)
        seed = next((s for s in (request.seed, options.seed) if s is not None), None)
        seed = secrets.randbits(31) if seed is None else seed
        budget = Budget.starting(counts, options.max_drafted_tokens, options.max_seconds, run.deadline)
        choices = [RainChoice(options, request, run, judge, budget, seed + i, i) for i in range(request.n)]
        async with aclosing(merged(choices)) as events:
            async for event in events:
                yield event
        run.trace.note("rain", **told, **msgspec.structs.asdict(counts))

    async def _judge(self, context: Context, run: Run, counts: Counts, told: dict[str, Any]) -> LeafJudge:
        """Who says what a leaf is worth; `told` is what the trace tells of it."""
        options, own = self.options, None
        _, begun = conversation(context)
        if options.judges_itself:
            prompt, variables = options.judging_prompt(run.resources, context.norms)
            told["prompt"] = prompt.id
            own = await prepare(
                run.engine,
                context,
                prompt,
                counts,
                variables=variables,
                pair=Pair(*options.pair) if options.pair else None,
                soft=options.soft,
                batched=options.fast,
            )
        if self.grading is None:
            assert own is not None
            return own
        told["value"] = [name for name, _ in self.grading.panel.members]
        grader = Grader(self.grading, context, run, begun)
        return ByVerifiers(grader, counts, own, options.self_evaluation, batched=options.fast)


def _invalid(message: str, option: str) -> RequestError:
    return RequestError(f"rain: {message}", param=f"alignment.rain.{option}", code="invalid_option")
