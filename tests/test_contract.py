"""What every registered strategy promises, whatever it does."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from waiting import HANG

from heedful.server.alignments import Alignments
from heedful.server.config import Config
from heedful.strategies import (
    Call,
    Capability,
    ChatRequest,
    Chunk,
    Event,
    Extension,
    Finish,
    Plan,
    Resources,
    Run,
)
from heedful.strategies.registry import describe_options, names
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You work for a library."},
    {"role": "user", "content": "Which book shall I read?"},
]


def _request(stream: bool = True) -> ChatRequest:
    params = {"temperature": 0.5, "stream_options": {"include_usage": True}}
    return ChatRequest("scripted", tuple(copy.deepcopy(MESSAGES)), params, stream)


def _writes(text: str) -> ScriptedModel:
    """At the token level: writes a text, and finds it good when asked."""

    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        before = bytes(tokens).decode()
        if before.endswith("answer is: ("):
            return {ord("A" if "(A) harmless" in before[-120:] else "B"): 1.0}
        written = before.rpartition("<assistant>")[2]
        return {(text.encode() + b"\0")[len(written.encode())]: 1.0}

    return ScriptedModel(step)


def _engine() -> ScriptedEngine:
    return ScriptedEngine(extend=_writes("ok"))


async def _events(plan: Plan, engine: ScriptedEngine, resources: Resources) -> list[Event]:
    return [event async for event in plan.stream(_request(), Run(engine, resources))]


@pytest.mark.parametrize("name", names())
async def test_ends_with_one_finish(name: str, resources: Resources) -> None:
    events = await _events(Plan.of(name, [(name, {})], resources), _engine(), resources)
    assert [isinstance(e, Finish) for e in events] == [False] * (len(events) - 1) + [True]
    text = "".join(e.text() for e in events if isinstance(e, Chunk))
    assert text == "ok"


@pytest.mark.parametrize("name", names())
async def test_leaves_the_clients_request_alone(name: str, resources: Resources) -> None:
    request = _request()
    plan = Plan.of(name, [(name, {})], resources)
    async for _ in plan.stream(request, Run(_engine(), resources)):
        pass
    assert request == _request()


@pytest.mark.parametrize("name", names())
async def test_cancellation_reaches_the_engine(name: str, resources: Resources) -> None:
    asked = asyncio.Event()

    async def never(call: Call | Extension) -> Any:
        asked.set()
        await asyncio.get_running_loop().create_future()

    engine = ScriptedEngine(never, extend=never)
    plan = Plan.of(name, [(name, {})], resources)
    task = asyncio.create_task(_events(plan, engine, resources))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.running, engine.aborted) == (0, 1)


STEPS: dict[str, list[Any]] = {
    "direct": ["direct"],
    "thinks first": [{"principles": {"mode": "cot"}}],
    "corrects": [{"refine": {"verifiers": [{"policy": {"deny": ["bad"]}}, "self"]}}],
    "corrects sentences": [{"refine": {"mode": "sentence", "verifiers": [{"policy": {"deny": ["bad"]}}]}}],
    "rejects": [{"best_of_n": {"verifiers": ["toxicity"], "reject": 0.5, "reject_after": 1}}],
    "chooses": [{"best_of_n": {"verifiers": ["toxicity", "self"]}}],
    "revises": [{"tpo": {"n": 2, "max_rounds": 1, "verifiers": ["self"]}}],
    "deliberates": ["align3"],
}


def _says(call: Call) -> list[str]:
    if call.params.get("max_tokens") is not None:
        return ["No"]
    return ["A good one."] if len(call.messages) > 3 else ["A good one.", " A bad", " one. ", "The last."]


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
async def test_a_cancel_at_any_step_ends_all_of_it(steps: list[Any], resources: Resources) -> None:
    """Each turn of the event loop in which the request is alive is tried as the one in which its client leaves."""
    plan = Alignments(Config(), resources).resolve(steps)
    turns, finished = 0, False
    while not finished:
        engine = ScriptedEngine(_says, capabilities=Capability.CHAT | Capability.LOGPROBS)
        task = asyncio.create_task(_events(plan, engine, resources))
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        ended, _ = await asyncio.wait({task}, timeout=HANG)
        assert ended and task.cancelled() is not finished, f"runs on after a cancel in turn {turns}"
        asked = len(engine.calls)
        assert engine.running == 0, f"the engine is at work after a cancel in turn {turns}"
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(engine.calls) == asked, f"the engine is asked after a cancel in turn {turns}"
        assert asyncio.all_tasks() == {asyncio.current_task()}, f"tasks are left over from turn {turns}"
        turns += 1


@pytest.mark.parametrize("name", names())
async def test_closing_the_stream_early_stops_the_engine(name: str, resources: Resources) -> None:
    engine = ScriptedEngine(lambda call: ["one", " two", " three"], extend=_writes("one two three"))
    stream = Plan.of(name, [(name, {})], resources).stream(_request(), Run(engine, resources))
    await anext(stream)
    await stream.aclose()
    assert engine.running == 0


@pytest.mark.parametrize("name", names())
async def test_counts_every_call_of_the_engine(name: str, resources: Resources) -> None:
    engine = _engine()
    run = Run(engine, resources)
    events = [e async for e in Plan.of(name, [(name, {})], resources).stream(_request(), run)]
    assert run.ledger.calls == len(engine.calls) + len(engine.extensions)
    finish = events[-1]
    assert isinstance(finish, Finish)
    stages = run.ledger.stages.values()
    assert finish.usage.prompt_tokens == sum(s.prompt_tokens for s in stages)
    assert finish.usage.completion_tokens == sum(s.completion_tokens for s in stages)


def test_describes_its_options() -> None:
    for name, about in describe_options().items():
        assert about["kind"] in ("context", "decoding"), name
        assert about["about"], f"{name} has no docstring"
        for option, schema in about["options"].items():
            assert "default" in schema, f"{name}.{option} has no default"
