"""The strategy `urial`: the raw transcript for base models, and the chat form."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.strategies import Capability, ChatRequest, Plan, RequestError, Resources, Run, collect
from heedful.strategies.scripted import ALL, ScriptedEngine

BASE = ALL & ~(Capability.CHAT | Capability.PREFILL)
QUESTION = {"role": "user", "content": "What is a fjord?"}


async def _ask(
    resources: Resources,
    *messages: dict[str, Any],
    options: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    capabilities: Capability = BASE,
) -> ScriptedEngine:
    engine = ScriptedEngine(capabilities=capabilities)
    plan = Plan.of("urial", [("urial", options or {})], resources)
    await collect(plan.stream(ChatRequest("scripted", messages, params or {}), Run(engine, resources)))
    return engine


async def test_a_base_model_gets_the_raw_form(resources: Resources) -> None:
    (call,) = (await _ask(resources, QUESTION)).calls
    assert call.prompt is not None
    assert call.prompt.startswith("# Instruction\n\nBelow is a list of conversations")
    assert call.prompt.endswith("# Query:\n```\nWhat is a fjord?\n```\n\n# Answer:\n```\n")
    assert call.prompt.count("# Answer:\n```\n") == 4
    assert "# Query" in call.params["stop"]


async def test_all_requests_share_everything_but_their_conversation(resources: Resources) -> None:
    prompts = [(await _ask(resources, {"role": "user", "content": text})).calls[0].prompt for text in "ab"]
    first, second = (p or "" for p in prompts)
    shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    assert first[shared:] == "a\n```\n\n# Answer:\n```\n"


async def test_turns_and_system_go_on_in_the_same_format(resources: Resources) -> None:
    history: list[dict[str, Any]] = [
        {"role": "system", "content": "Answer in one line."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "Hi!"},
    ]
    (call,) = (await _ask(resources, *history, QUESTION)).calls
    assert (call.prompt or "").endswith(
        "# Instruction\n\nAnswer in one line.\n\n# Query:\n```\nHello\n```\n\n# Answer:\n```\nHi!\n```\n\n"
        "# Query:\n```\nWhat is a fjord?\n```\n\n# Answer:\n```\n"
    )


async def test_the_clients_parameters_win(resources: Resources) -> None:
    (call,) = (await _ask(resources, QUESTION)).calls
    assert {k: call.params[k] for k in ("temperature", "repetition_penalty", "max_tokens")} == {
        "temperature": 0.0,
        "repetition_penalty": 1.1,
        "max_tokens": 2048,
    }
    params = {"temperature": 0.9, "max_completion_tokens": 5, "stop": "!"}
    (call,) = (await _ask(resources, QUESTION, params=params)).calls
    assert call.params["temperature"] == 0.9
    assert "max_tokens" not in call.params
    assert call.params["stop"][0] == "!"


async def test_a_chat_model_gets_the_examples_as_turns(resources: Resources) -> None:
    system = {"role": "system", "content": "Answer in one line."}
    options = {"examples": 2}
    (call,) = (await _ask(resources, system, QUESTION, options=options, capabilities=ALL)).calls
    assert call.prompt is None
    assert [m["role"] for m in call.messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert call.messages[0]["content"].endswith("Answer in one line.")
    assert call.messages[-1] == QUESTION


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "content": "Hi"}, "messages"),
        ({"role": "tool", "content": "42", "tool_call_id": "x"}, "messages.0"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages.0.content",
        ),
    ],
)
async def test_what_a_transcript_can_not_hold(
    resources: Resources, message: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestError) as refused:
        await _ask(resources, message)
    assert refused.value.param == param
