"""A search that is broken off stops at once: at whatever moment its client leaves or its time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from waiting import HANG

from heedful.strategies import ChatRequest, Chunk, Plan, Resources, Run, collect
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

MODES: dict[str, dict[str, Any]] = {
    "fast": {},
    "reference": {"parallel_leaves": 1},
    "gated": {"gate": True, "threshold": 0.99, "max_iterations": 8},
    "plain after the budget": {"max_drafted_tokens": 60, "when_spent": "decode"},
}


def engine() -> ScriptedEngine:
    """Writes two words, the first of which ends a clause, and likes what it has written."""

    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        text = bytes(tokens).decode(errors="replace")
        if text.endswith("answer is: ("):
            return {ord("A" if "(A) harmless" in text[-120:] else "B"): 1.0}
        written = text.rpartition("<assistant>")[2]
        return {b"ab, c\0"[len(written)]: 0.9, ord("x"): 0.1} if len(written) < 6 else {0: 1.0}

    return ScriptedEngine(extend=ScriptedModel(step))


def answering(scripted: ScriptedEngine, mode: str, resources: Resources, *, stream: bool) -> Any:
    plan = Plan.of("rain", [("rain", {"min_visits": 1} | MODES[mode])], resources)
    request = ChatRequest("scripted", ({"role": "user", "content": "Hi"},), {"seed": 1, "n": 2}, stream)
    return plan.stream(request, Run(scripted, resources))


async def whole(events: Any) -> None:
    await collect(events)


async def streamed(events: Any) -> None:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Chunk):
                await asyncio.sleep(0)  # a client that takes a piece now and then


@pytest.mark.parametrize("reader", [whole, streamed])
@pytest.mark.parametrize("mode", MODES)
async def test_a_cancel_at_any_step_ends_all_of_it(mode: str, reader: Any, lab: Any) -> None:
    """Each turn of the event loop in which the request is alive is tried as the one in which its client leaves."""
    turns, finished = 0, False
    while not finished:
        scripted = engine()
        events = answering(scripted, mode, lab.resources, stream=reader is streamed)
        task = asyncio.create_task(reader(events))
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        ended = await asyncio.wait({task}, timeout=HANG)
        assert ended[0] and task.cancelled() is not finished, f"runs on after a cancel in turn {turns}"
        asked = len(scripted.extensions)
        assert scripted.running == 0, f"the engine is at work after a cancel in turn {turns}"
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(scripted.extensions) == asked, f"the engine is asked after a cancel in turn {turns}"
        assert asyncio.all_tasks() == {asyncio.current_task()}, f"tasks are left over from turn {turns}"
        turns += 1
    assert turns > 10


@pytest.mark.parametrize("mode", MODES)
async def test_closing_after_any_event_ends_all_of_it(mode: str, lab: Any) -> None:
    taken, finished = 0, False
    while not finished:
        scripted = engine()
        events = answering(scripted, mode, lab.resources, stream=True)
        async with aclosing(events):
            for _ in range(taken):
                finished = await anext(events, None) is None
        assert scripted.running == 0 and asyncio.all_tasks() == {asyncio.current_task()}
        taken += 1


async def test_work_that_is_cancelled_from_below_is_not_waited_for(lab: Any) -> None:
    """An engine whose own task was cancelled: the answer fails, and does not wait for ever."""

    def gone(_: Any) -> Any:
        raise asyncio.CancelledError

    events = answering(ScriptedEngine(extend=gone), "fast", lab.resources, stream=False)
    task = asyncio.create_task(whole(events))
    ended, _ = await asyncio.wait({task}, timeout=HANG)
    assert ended and (task.cancelled() or task.exception() is not None)
