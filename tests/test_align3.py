"""The strategy `align3`: three hidden steps, each by its own rules, and an answer that is an ordinary one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI

from heedful.strategies import (
    Answer,
    Call,
    Capability,
    ChatRequest,
    Chunk,
    KeepAlive,
    Plan,
    RequestError,
    Resources,
    Run,
    collect,
)
from heedful.strategies.scripted import ALL, ScriptedEngine
from heedful.strategies.types import text_of

ASKED: Any = {"role": "user", "content": "Hello?"}
BEGINS = {
    "behavior": "Before you answer, plan",
    "safety": "Now safety",
    "audit": "Go through all rules",
    "answer": "Now answer my message",
}
NORMS: Any = ("norms", {"k": 0, "extra": [{"text": "Be <b>brief</b>.", "mandatory": True}]})
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def stage(call: Call) -> str:
    """Which of the four calls it is; "alone" is an answer without a plan."""
    told = text_of(call.messages[-1])
    return next((name for name, words in BEGINS.items() if words in told), "alone")


def last(call: Call) -> str:
    return text_of(call.messages[-1])


async def answered(
    engine: ScriptedEngine,
    resources: Resources,
    *before: tuple[str, dict[str, Any]],
    params: dict[str, Any] | None = None,
    question: Any = ASKED,
    **options: Any,
) -> tuple[Answer, Run]:
    run = Run(engine, resources)
    plan = Plan.of("t", [*before, ("align3", options)], resources)
    plan.check(engine.capabilities, model="m")
    return await collect(plan.stream(ChatRequest("scripted", (question,), params or {}), run)), run


def notes(run: Run) -> dict[str, Any]:
    """What the trace has of each stage."""
    return {step["stage"]: step for step in run.trace.steps if "stage" in step}


async def test_each_step_sees_its_own_rules_and_what_was_said_before(resources: Resources) -> None:
    engine = ScriptedEngine(lambda call: f"the {stage(call)}")
    own: Any = {"behavior": ["Say please."], "safety": ["Name no doses."]}
    answer, run = await answered(engine, resources, NORMS, **own)
    behavior, safety, audit, final = engine.calls
    assert answer.text == "the answer"
    assert "- Be ‹b›brief‹/b›.\n- Say please.\n" in last(behavior) and "doses" not in last(behavior)
    assert "- Name no doses.\n" in last(safety) and "Say please." not in last(safety)
    assert all(f"- {rule}\n" in last(audit) for rule in ("Be ‹b›brief‹/b›.", "Say please.", "Name no doses."))
    roles = ["system", "user", "assistant", "user", "assistant", "user", "assistant", "user"]
    for call, turns in zip(engine.calls, (2, 4, 6, 8), strict=True):
        assert [m["role"] for m in call.messages] == roles[:turns]
        assert call.messages[: turns - 2] == final.messages[: turns - 2]  # one prefix
    assert [text_of(final.messages[i]) for i in (2, 4, 6)] == ["the behavior", "the safety", "the audit"]
    assert "Hello?" in text_of(behavior.messages[1]) and stage(final) == "answer"
    assert {name: note["reasoning"] for name, note in notes(run).items()} == {
        name: f"the {name}" for name in ("behavior", "safety", "audit")
    }
    assert run.ledger.calls == 4 and set(run.ledger.stages) == {"align3"}


async def test_the_prompts_rules_of_safety_hold_where_there_are_no_own(resources: Resources) -> None:
    engine = ScriptedEngine()
    _, run = await answered(engine, resources)
    rules = run.prompts.get("align3/default").data["safety"]
    for told in (text_of(engine.calls[0].messages[0]), last(engine.calls[1]), last(engine.calls[2])):
        assert rules and all(f"- {rule}\n" in told for rule in rules)
    assert "rules of behavior" not in last(engine.calls[0]).lower()  # there are none


async def test_the_clients_system_message_is_kept_after_the_rules(resources: Resources) -> None:
    engine = ScriptedEngine()
    plan = Plan.of("t", [("align3", {"behavior": ["Say please."]})], resources)
    request = ChatRequest("scripted", ({"role": "system", "content": "Be a pirate."}, ASKED))
    await collect(plan.stream(request, Run(engine, resources)))
    for call in engine.calls:
        system = text_of(call.messages[0])
        assert system.index("- Say please.\n") < system.index("Be a pirate.")


async def test_the_answer_is_the_clients_own_call_and_streams(resources: Resources) -> None:
    params = {"n": 2, "tools": [TOOL], "seed": 3, "max_tokens": 9, "response_format": {"type": "json_object"}}
    params["stream_options"] = {"include_usage": True}
    engine = ScriptedEngine(lambda call: ["one", " two"])
    plan = Plan.of("t", [("align3", {"max_reasoning_tokens": 77})], resources)
    request = ChatRequest("scripted", (ASKED,), params, stream=True)
    arrived = []
    async for event in plan.stream(request, Run(engine, resources)):
        if isinstance(event, Chunk):
            arrived.append((event.text(0), event.text(1), engine.running))
    assert arrived[:2] == [("one", "one", 1), (" two", " two", 1)]  # while the engine is at work
    *hidden, final = engine.calls
    assert final.params == params and final.stream
    for call in hidden:
        assert call.params == {"seed": 3, "max_tokens": 77} and not call.stream


async def test_a_question_of_parts_stays_what_it_is(resources: Resources) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts: Any = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}
    engine = ScriptedEngine()
    await answered(engine, resources, question=parts)
    content = engine.calls[0].messages[1]["content"]
    assert content[:2] == parts["content"] and BEGINS["behavior"] in content[2]["text"]


async def test_thoughts_are_no_part_of_a_plan_but_where_they_are_all_there_is(resources: Resources) -> None:
    said = {"behavior": "<think>hm</think>the plan", "safety": "<think>is it safe?</think>"}
    engine = ScriptedEngine(lambda call: said.get(stage(call), "fine"))
    _, run = await answered(engine, resources)
    assert [text_of(engine.calls[-1].messages[i]) for i in (2, 4, 6)] == ["the plan", "is it safe?", "fine"]
    assert notes(run)["behavior"]["reasoning"] == "the plan"


@pytest.mark.parametrize("empty", ["behavior", "safety", "audit"])
async def test_a_step_without_a_word_is_left_out_and_told(empty: str, resources: Resources) -> None:
    engine = ScriptedEngine(lambda call: "" if stage(call) == empty else f"the {stage(call)}")
    answer, run = await answered(engine, resources)
    assert answer.text == "the answer" and len(engine.calls) == 4
    final = engine.calls[-1].messages
    assert [m["role"] for m in final] == ["system", *["user", "assistant"] * 2, "user"]
    left = [f"the {name}" for name in BEGINS if name not in (empty, "answer")]
    assert [text_of(m) for m in final if m["role"] == "assistant"] == left
    assert "max_reasoning_tokens=512" in notes(run)[empty]["no_reasoning"]


async def test_without_any_plan_it_answers_by_the_system_message(resources: Resources) -> None:
    engine = ScriptedEngine(lambda call: "fine" if stage(call) == "alone" else " ")
    answer, _ = await answered(engine, resources, behavior=["Say please."])
    assert answer.text == "fine"
    system, question = engine.calls[-1].messages
    assert "- Say please.\n" in text_of(system) and question == ASKED


async def test_a_stream_is_kept_open_while_it_deliberates(resources: Resources) -> None:
    go_on = asyncio.Event()

    async def says(call: Call) -> str:
        await go_on.wait()
        return "fine"

    plan = Plan.of("t", [("align3", {"keep_alive": 0.01})], resources)
    events = plan.stream(ChatRequest("scripted", (ASKED,), stream=True), Run(ScriptedEngine(says), resources))
    assert isinstance(await anext(events), KeepAlive)
    go_on.set()
    assert (await collect(events)).text == "fine"


async def test_a_stream_closed_while_it_deliberates_stops_the_engine(resources: Resources) -> None:
    async def never(call: Call) -> str:
        await asyncio.Event().wait()
        return ""

    engine = ScriptedEngine(never)
    plan = Plan.of("t", [("align3", {"keep_alive": 0.01})], resources)
    events = plan.stream(ChatRequest("scripted", (ASKED,), stream=True), Run(engine, resources))
    await anext(events)
    await events.aclose()
    assert (engine.running, engine.aborted) == (0, 1)


@pytest.mark.parametrize("at", BEGINS)
async def test_leaving_ends_the_call_that_is_under_way(at: str, resources: Resources) -> None:
    reached = asyncio.Event()

    async def says(call: Call) -> str:
        if stage(call) == at:
            reached.set()
            await asyncio.Event().wait()
        return "fine"

    engine = ScriptedEngine(says)
    task = asyncio.ensure_future(answered(engine, resources))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.running, engine.aborted, stage(engine.calls[-1])) == (0, 1, at)


@pytest.mark.parametrize("at", BEGINS)
async def test_what_the_engine_refuses_is_the_clients_to_know(at: str, resources: Resources) -> None:
    engine = ScriptedEngine(lambda call: RequestError("too long") if stage(call) == at else "fine")
    with pytest.raises(RequestError, match="too long"):
        await answered(engine, resources)
    assert stage(engine.calls[-1]) == at


@pytest.mark.parametrize(
    ("options", "params", "param"),
    [
        ({"max_reasoning_tokens": 0}, {}, "alignment.align3.max_reasoning_tokens"),
        ({"keep_alive": 0}, {}, "alignment.align3.keep_alive"),
        ({"behavior": [" "]}, {}, "alignment.align3.behavior.0"),
        ({"safety": ["Be kind."] * 201}, {}, "alignment.align3.safety"),
        ({"safety": "Be kind."}, {}, "alignment.align3.safety"),
        ({"prompt": "tpo/default"}, {}, "alignment.align3.prompt"),
        ({}, {"continue_final_message": True}, "continue_final_message"),
    ],
)
async def test_what_is_refused(options: Any, params: Any, param: str, resources: Resources) -> None:
    with pytest.raises(RequestError) as caught:
        await answered(ScriptedEngine(), resources, params=params, **options)
    assert caught.value.param == param


async def test_a_raw_prompt_is_refused(resources: Resources) -> None:
    engine = ScriptedEngine(capabilities=ALL & ~Capability.PREFILL)
    with pytest.raises(RequestError, match="raw prompt"):
        await answered(engine, resources, ("urial", {"form": "raw"}))
    assert not engine.calls


@pytest.mark.parametrize("stream", [False, True])
def test_over_http(serving: Any, client: Callable[[str], OpenAI], stream: bool) -> None:
    engine = ScriptedEngine(lambda call: ["the ", stage(call)])
    alignment = {"pipeline": [{"align3": {"behavior": ["Say please."]}}], "trace": True}
    with serving(engine) as url:
        asked: Any = {"model": "scripted", "messages": [ASKED], "n": 2, "tools": [TOOL]}
        asked["extra_body"] = {"alignment": alignment}
        create = client(url).chat.completions.create
        if stream:
            texts = {0: "", 1: ""}
            for piece in create(**asked, stream=True):
                for choice in piece.choices:
                    texts[choice.index] += choice.delta.content or ""
            assert texts == {0: "the answer", 1: "the answer"}
        else:
            reply = create(**asked)
            assert [c.message.content for c in reply.choices] == ["the answer"] * 2
            usage: Any = (reply.usage.model_extra or {}) if reply.usage else {}
            assert usage["alignment_details"]["align3"]["calls"] == 4
            trace = (reply.model_extra or {})["alignment"]["trace"]
            assert [note.get("reasoning") for note in trace] == [
                None,
                "the behavior",
                "the safety",
                "the audit",
            ]
    assert [stage(call) for call in engine.calls] == list(BEGINS)
    assert [call.params.get("tools") for call in engine.calls] == [None, None, None, [TOOL]]
