"""Plans: how strategies compose, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from heedful.strategies import (
    Capability,
    ChatRequest,
    Chunk,
    Context,
    Event,
    Finish,
    MissingCapability,
    NotFound,
    Plan,
    RequestError,
    Resources,
    Run,
    StrategyError,
    Usage,
    collect,
)
from heedful.strategies.decode.direct import Direct
from heedful.strategies.engine import StageUsage
from heedful.strategies.plan import Step
from heedful.strategies.run import ContextStrategy, DecodingStrategy, Streaming
from heedful.strategies.scripted import ALL, ScriptedEngine
from heedful.strategies.shown import describe

REQUEST = ChatRequest("scripted", ({"role": "user", "content": "Hi"},))


@dataclass(frozen=True)
class Says(ContextStrategy):
    """Adds a line to the system message."""

    line: str
    needs: ClassVar[Capability] = Capability.NONE

    async def prepare(self, context: Context, run: Run) -> Context:
        run.trace.note("says", line=self.line)
        return context.with_system(self.line)


@dataclass(frozen=True)
class Broken(DecodingStrategy):
    """Decodes in a way that breaks the contract."""

    how: str
    needs: ClassVar[Capability] = Capability.NONE
    streaming: ClassVar[Streaming] = "stream"

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        yield Chunk.of("a")
        if self.how == "raises":
            raise KeyError("oops")
        if self.how == "goes on":
            yield Finish(Usage(1, 1))
            yield Chunk.of("b")


@dataclass(frozen=True)
class Twice(DecodingStrategy):
    """Asks twice, and gives the second answer."""

    needs: ClassVar[Capability] = Capability.NONE
    streaming: ClassVar[Streaming] = "stream"

    async def stream(self, context: Context, run: Run) -> AsyncGenerator[Event, None]:
        await collect(run.engine.chat(context.call()))
        async with aclosing(run.engine.chat(context.call())) as events:
            async for event in events:
                yield event


async def test_contexts_apply_in_order_and_the_original_stays() -> None:
    engine = ScriptedEngine()
    seen: list[Context] = []

    @dataclass(frozen=True)
    class Looks(ContextStrategy):
        needs: ClassVar[Capability] = Capability.NONE

        async def prepare(self, context: Context, run: Run) -> Context:
            seen.append(context)
            return context

    plan = Plan("x", (("a", Says("first")), ("b", Says("second")), ("c", Looks())), ("direct", Direct()))
    run = Run(engine, Resources(prompts=None))  # type: ignore[arg-type]
    answer = await collect(plan.stream(REQUEST, run))
    assert answer.text == "ok"
    # The later strategy's text stands in front: each puts its own first.
    assert engine.calls[0].messages[0] == {"role": "system", "content": "second\n\nfirst"}
    assert seen[0].original is REQUEST
    assert [s["line"] for s in describe(run, plan)["trace"]] == ["first", "second"]


@pytest.mark.parametrize(
    ("how", "told"), [("raises", "KeyError"), ("goes on", "went on"), ("stops", "without a Finish")]
)
async def test_a_strategy_that_breaks_its_contract_is_named(how: str, told: str) -> None:
    plan = Plan("x", (), ("broken", Broken(how)))
    run = Run(ScriptedEngine(), Resources(prompts=None))  # type: ignore[arg-type]
    with pytest.raises(StrategyError, match=f"'broken'.*{told}"):
        await collect(plan.stream(REQUEST, run))


@pytest.mark.parametrize(
    ("steps", "param", "told"),
    [
        ([("direct", {}), ("direct", {})], "alignment", "both decode"),
        ([("principles", {"colour": "red"})], "alignment.principles.colour", "unknown option 'colour'"),
        ([("principles", {"mode": "loud"})], "alignment.principles.mode", "'instruction' or 'cot'"),
        (
            [("principles", {"max_reasoning_tokens": 0})],
            "alignment.principles.max_reasoning_tokens",
            "greater",
        ),
        ([("principles", {"set": "none"})], "alignment.principles.set", "unknown prompt"),
        ([("urial", {"examples": 9})], "alignment.urial.examples", "has 3 examples, not 9"),
        ([("urial", {"temperature": "warm"})], "alignment.urial.temperature", "number"),
    ],
)
def test_a_bad_step_is_refused_by_name(
    steps: list[Step], param: str, told: str, resources: Resources
) -> None:
    with pytest.raises(RequestError, match=told) as refused:
        Plan.of("x", steps, resources)
    assert refused.value.param == param
    assert refused.value.status == 400


def test_an_unknown_strategy_lists_the_known_ones(resources: Resources) -> None:
    with pytest.raises(NotFound, match="unknown strategy 'magic'.*direct, .*principles.*urial"):
        Plan.of("x", [("magic", {})], resources)


@pytest.mark.parametrize(
    ("options", "has", "missing"),
    [
        ({"form": "raw"}, Capability.CHAT, "completion"),
        ({"form": "chat"}, Capability.COMPLETION, "chat"),
    ],
)
def test_a_missing_capability_is_named(
    options: dict[str, Any], has: Capability, missing: str, resources: Resources
) -> None:
    plan = Plan.of("x", [("urial", options)], resources)
    plan.check(ALL, model="m")
    with pytest.raises(MissingCapability, match=f"'urial' needs {missing} .*model 'm' offers") as refused:
        plan.check(has, model="m")
    assert refused.value.code == "missing_capability"


async def test_a_prepared_context_is_not_prepared_again() -> None:
    engine = ScriptedEngine()
    run = Run(engine, Resources(prompts=None))  # type: ignore[arg-type]
    plan = Plan("x", (("a", Says("once")),), ("direct", Direct()))
    answer = await collect(plan.stream(await plan.prepare(REQUEST, run), run))
    assert answer.text == "ok"
    assert engine.calls[0].messages[0]["content"] == "once"


@pytest.mark.parametrize(("decoder", "calls"), [(Direct(), 1), (Twice(), 2)])
async def test_every_call_is_booked_once(decoder: DecodingStrategy, calls: int) -> None:
    """That of `direct` by the plan, those of others by the engine that they are given."""
    run = Run(ScriptedEngine("four"), Resources(prompts=None))  # type: ignore[arg-type]
    answer = await collect(Plan("x", (), ("decoder", decoder)).stream(REQUEST, run))
    assert run.ledger.stages == {"decoder": StageUsage(calls, 2 * calls, 4 * calls)}
    assert answer.usage.completion_tokens == 4 * calls


async def test_usage_splits_by_stage_when_there_are_hidden_calls(resources: Resources) -> None:
    engine = ScriptedEngine(lambda call: "four")
    plan = Plan.of("x", [("principles", {"mode": "cot"})], resources)
    run = Run(engine, resources)
    answer = await collect(plan.stream(REQUEST, run))
    stages = answer.usage.extra["alignment_details"]
    assert {name: stage["calls"] for name, stage in stages.items()} == {"principles": 1, "direct": 1}
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens == sum(s["prompt_tokens"] for s in stages.values())


async def test_a_hidden_call_inherits_sampling_and_not_the_shape_of_the_answer(resources: Resources) -> None:
    engine = ScriptedEngine()
    params = {"temperature": 0.3, "user": "u", "n": 3, "stop": ["x"], "max_tokens": 7, "tools": [{}]}
    request = ChatRequest("scripted", REQUEST.messages, params)
    plan = Plan.of("x", [("principles", {"mode": "cot"})], resources)
    await collect(plan.stream(request, Run(engine, resources)))
    hidden, shown = engine.calls
    assert hidden.params == {
        "temperature": 0.3,
        "user": "u",
        "max_tokens": 256,
        "continue_final_message": True,
        "add_generation_prompt": False,
    }
    assert shown.params == params
