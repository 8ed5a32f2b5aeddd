"""The strategy `principles`: the instruction, where it stands, and reasoning first."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.strategies import Answer, Capability, ChatRequest, Plan, RequestError, Resources, Run, collect
from heedful.strategies.scripted import ALL, ScriptedEngine

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


async def _ask(
    resources: Resources, options: dict[str, Any], *messages: dict[str, Any], **engine: Any
) -> tuple[Answer, ScriptedEngine, Run]:
    scripted = ScriptedEngine(engine.pop("chat", "ok"), **engine)
    run = Run(scripted, resources)
    plan = Plan.of("principles", [("principles", options)], resources)
    answer = await collect(plan.stream(ChatRequest("scripted", messages), run))
    return answer, scripted, run


async def test_our_instruction_comes_first_and_the_clients_is_kept(resources: Resources) -> None:
    client = {"role": "system", "content": "Speak like a pirate."}
    _, engine, _ = await _ask(resources, {}, client, {"role": "user", "content": "Hi"})
    system, user = engine.calls[0].messages
    assert system["content"].startswith("=== Principles for every answer ===")
    assert system["content"].endswith("Speak like a pirate.")
    assert user == {"role": "user", "content": "Hi"}


async def test_system_parts_stay_parts(resources: Resources) -> None:
    client = {"role": "system", "content": [{"type": "text", "text": "Be kind."}]}
    _, engine, _ = await _ask(resources, {}, client, {"role": "user", "content": "Hi"})
    ours, theirs = engine.calls[0].messages[0]["content"]
    assert ours["text"].startswith("=== Principles")
    assert theirs == {"type": "text", "text": "Be kind."}


async def test_at_the_question_as_in_the_paper(resources: Resources) -> None:
    question = {"role": "user", "content": [{"type": "text", "text": "Who is it?"}, IMAGE]}
    _, engine, _ = await _ask(resources, {"place": "question", "set": "fairness"}, question)
    text, image, ours = engine.calls[0].messages[0]["content"]
    assert (text, image) == (question["content"][0], IMAGE)
    assert "does not rely on stereotypes" in ours["text"]


async def test_reasoning_comes_first_and_stays_in_the_trace(resources: Resources) -> None:
    replies = iter(["it could hurt them.", "A careful answer."])
    answer, engine, run = await _ask(
        resources, {"mode": "cot"}, {"role": "user", "content": "Hi"}, chat=lambda call: next(replies)
    )
    assert answer.text == "A careful answer."
    thinking, answering = engine.calls
    assert thinking.messages[-1]["role"] == "assistant"
    assert thinking.messages[-1]["content"].startswith("Let's think about how to answer")
    reasoning = run.trace.steps[0]["reasoning"]
    assert reasoning.startswith("Let's think") and reasoning.endswith("it could hurt them.")
    assert [m["role"] for m in answering.messages] == ["system", "user", "assistant", "user"]
    assert answering.messages[2]["content"] == reasoning


async def test_an_engine_without_prefill_is_asked_to_think(resources: Resources) -> None:
    _, engine, _ = await _ask(
        resources,
        {"mode": "cot"},
        {"role": "user", "content": "Hi"},
        capabilities=ALL & ~Capability.PREFILL,
    )
    thinking = engine.calls[0]
    assert thinking.messages[-1]["role"] == "user"
    assert "Write down only these" in thinking.messages[-1]["content"]
    assert "continue_final_message" not in thinking.params


async def test_what_can_not_be_done_is_refused(resources: Resources) -> None:
    with pytest.raises(RequestError, match="need a user message"):
        await _ask(resources, {"place": "question"}, {"role": "assistant", "content": "Hi"})
    plan = Plan.of("principles", [("principles", {"mode": "cot"})], resources)
    request = ChatRequest("scripted", ({"role": "user", "content": "Hi"},), {"continue_final_message": True})
    with pytest.raises(RequestError, match="leaves no turn to continue") as refused:
        await collect(plan.stream(request, Run(ScriptedEngine(), resources)))
    assert refused.value.param == "continue_final_message"
