"""The strategy `refine` sentence by sentence: what goes out when, and what never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from heedful.strategies import (
    Call,
    Capability,
    ChatRequest,
    Chunk,
    Finish,
    Plan,
    RequestError,
    Resources,
    Run,
    collect,
)
from heedful.strategies.scripted import ALL, ScriptedEngine

POLICY = {"policy": {"words": ["bad", "worse"]}}
Reply = Callable[[Call], list[str]]


def answering(first: list[str], *corrections: list[str]) -> Reply:
    """Streams `first`, then one correction after the other."""
    left = [first, *corrections]
    return lambda call: left.pop(0)


def _plan(resources: Resources, **options: Any) -> Plan:
    return Plan.of("r", [("refine", {"verifiers": [POLICY], "mode": "sentence", **options})], resources)


def _request(**params: Any) -> ChatRequest:
    return ChatRequest("scripted", ({"role": "user", "content": "Hello?"},), params, stream=True)


async def sentences(
    engine: ScriptedEngine, resources: Resources, request: ChatRequest | None = None, **options: Any
) -> tuple[list[str], Finish, list[dict[str, Any]]]:
    """The texts of the chunks, the Finish, and the trace."""
    run = Run(engine, resources)
    events = [e async for e in _plan(resources, **options).stream(request or _request(), run)]
    assert isinstance(events[-1], Finish)
    texts = [e.text() for e in events if isinstance(e, Chunk)]
    return [t for t in texts if t], events[-1], run.trace.steps


async def test_releases_each_sentence_once_it_has_passed(resources: Resources) -> None:
    engine = ScriptedEngine(lambda call: ["One is", " fine. Two", " is too.", " And the end"])
    texts, finish, trace = await sentences(engine, resources)
    assert texts == ["One is fine.", " Two is too.", " And the end"]
    assert [n["at"] for n in trace] == [0, 12, 24] and all(n["passed"] for n in trace)
    assert finish.usage.extra == {} and len(engine.calls) == 1


async def test_the_first_sentence_goes_out_before_the_answer_is_complete(resources: Resources) -> None:
    engine = ScriptedEngine(lambda call: ["One is fine. ", "Two", " is too."])
    stream = _plan(resources).stream(_request(), Run(engine, resources))
    first = await anext(stream)
    assert isinstance(first, Chunk) and first.text() == "One is fine."
    assert engine.running == 1
    await stream.aclose()
    assert (engine.running, engine.aborted) == (0, 1)


async def test_corrects_the_sentence_at_fault_before_it_goes_out(resources: Resources) -> None:
    draft = ["One is fine.", " Two is bad.", " Three would", " follow."]
    engine = ScriptedEngine(answering(draft, [" Two is good.", " Three is the end."]))
    texts, finish, trace = await sentences(engine, resources, _request(max_tokens=100))
    assert texts == ["One is fine.", " Two is good.", " Three is the end."]
    first, second = engine.calls
    assert [m["role"] for m in second.messages] == ["user", "assistant", "user", "assistant"]
    assert second.messages[1]["content"] == "One is fine. Two is bad."
    assert 'It contains "bad"' in second.messages[2]["content"]
    # The engine goes on in what has gone out already, and within what the client left for the answer.
    assert second.messages[3]["content"] == "One is fine."
    assert second.params["continue_final_message"] is True
    assert second.params["max_tokens"] == 100 - len("One is fine.")
    # The draft was broken off, and what it had cost is counted.
    assert engine.aborted == 1
    assert finish.usage.extra["alignment_details"]["refine"]["calls"] == 2
    seen = len("One is fine. Two is bad. Three would")
    assert finish.usage.completion_tokens == seen + len(" Two is good. Three is the end.")
    assert [(n["round"], n["passed"]) for n in trace] == [(0, True), (0, False), (1, True), (1, True)]


async def test_on_a_plain_chat_api_the_model_is_asked_to_go_on(resources: Resources) -> None:
    replies = answering(["One is fine. Two is bad. "], ["One is fine. Two is good.", " End."])
    engine = ScriptedEngine(replies, capabilities=Capability.CHAT)
    texts, _, _ = await sentences(engine, resources)
    assert texts == ["One is fine.", " Two is good.", " End."]
    last = engine.calls[1].messages[-1]
    assert last["role"] == "user" and "This much of your answer stands:\nOne is fine." in last["content"]
    assert "continue_final_message" not in engine.calls[1].params


async def test_the_best_attempt_goes_out_when_rounds_are_used_up(resources: Resources) -> None:
    replies = answering(
        ["One is fine. Two is bad. Three."],
        [" Two is bad and worse. Three."],
        [" Three is the end."],
    )
    texts, _, trace = await sentences(ScriptedEngine(replies), resources, max_rounds=1)
    # The second attempt is the worse one: the first goes out, and the answer goes on from there.
    assert texts == ["One is fine.", " Two is bad.", " Three is the end."]


async def test_nothing_goes_out_after_a_sentence_that_is_withheld(resources: Resources) -> None:
    replies = answering(["One is fine. Two is bad. Three."], [" Two is worse. Three."])
    engine = ScriptedEngine(replies)
    run = Run(engine, resources)
    plan = _plan(resources, max_rounds=1, unresolved="withhold")
    answer = await collect(plan.stream(_request(), run))
    assert (answer.text, answer.choices[0].finish_reason) == ("One is fine.", "content_filter")
    assert engine.running == 0


async def test_the_clients_limit_holds_over_all_calls(resources: Resources) -> None:
    replies = answering(["One is fine. Two is bad. "])
    answer = await collect(
        _plan(resources).stream(_request(max_completion_tokens=12), Run(ScriptedEngine(replies), resources))
    )
    assert (answer.text, answer.choices[0].finish_reason) == ("One is fine.", "length")


async def test_choices_are_written_apart(resources: Resources) -> None:
    drafts = {10: ["Zero is bad. ", "End."], 11: ["One is fine.", " End."], 12: ["Zero is good. End."]}
    engine = ScriptedEngine(lambda call: drafts[call.params["seed"]])
    run = Run(engine, resources)
    answer = await collect(_plan(resources).stream(_request(n=2, seed=10), run))
    assert [c.text for c in answer.choices] == ["Zero is good. End.", "One is fine. End."]
    assert [c.finish_reason for c in answer.choices] == ["stop", "stop"]
    assert run.ledger.stages["refine"].calls == 3


@pytest.mark.parametrize("unresolved", ["release", "withhold"])
@pytest.mark.parametrize("names", [["good"], ["bad", "good"], ["bad"]])
async def test_tool_calls_are_judged_last(names: list[str], unresolved: str, resources: Resources) -> None:
    left = list(names)

    class Tools(ScriptedEngine):
        async def chat(self, call: Call) -> Any:
            async for event in super().chat(call):
                if isinstance(event, Finish):
                    name = left.pop(0) if len(left) > 1 else left[0]
                    for piece in ({"id": "c", "function": {"name": name}}, {"function": {"arguments": "{}"}}):
                        yield Chunk([{"index": 0, "delta": {"tool_calls": [{"index": 0, **piece}]}}])
                    yield Chunk([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])
                yield event

    engine = Tools(lambda call: ["Let me look."] if len(engine.calls) == 1 else [""])
    run = Run(engine, resources)
    answer = await collect(_plan(resources, unresolved=unresolved).stream(_request(), run))
    (choice,) = answer.choices
    assert choice.text == "Let me look."
    if left == ["bad"] and unresolved == "withhold":
        assert choice.finish_reason == "content_filter" and "tool_calls" not in choice.message
        return
    assert choice.message["tool_calls"] == [{"id": "c", "function": {"name": left[0], "arguments": "{}"}}]
    assert choice.finish_reason == "tool_calls"


async def test_a_structured_answer_is_judged_as_a_whole(resources: Resources) -> None:
    engine = ScriptedEngine(answering(['{"a": "Fine. Bad. x"}'], ['{"a": "Good."}']))
    texts, _, trace = await sentences(engine, resources, _request(response_format={"type": "json_object"}))
    assert texts == ['{"a": "Good."}'] and trace[0]["mode"] == "whole"


async def test_log_probabilities_are_refused(resources: Resources) -> None:
    with pytest.raises(RequestError) as caught:
        await sentences(ScriptedEngine(capabilities=ALL), resources, _request(logprobs=True))
    assert caught.value.param == "logprobs"


@pytest.mark.parametrize("nothing", ["", "\n\n"])
async def test_an_empty_correction_leaves_the_best_attempt(nothing: str, resources: Resources) -> None:
    replies = answering(["It is bad. "], [nothing], [" And so on."])
    texts, _, trace = await sentences(ScriptedEngine(replies), resources)
    assert texts == ["It is bad.", " And so on."]
    assert any(note.get("stopped") == "the correction is empty" for note in trace)


async def test_a_schema_that_is_none_is_refused(resources: Resources) -> None:
    for schema in ("{", {"type": 3}):
        with pytest.raises(RequestError, match="schema is not valid"):
            params = {"structured_outputs": {"json": schema}}
            await sentences(ScriptedEngine(), resources, _request(**params))
