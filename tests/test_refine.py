"""The strategy `refine` on whole answers: when it corrects, what it keeps, what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from heedful.strategies import (
    Answer,
    Call,
    Capability,
    ChatRequest,
    Chunk,
    Event,
    Finish,
    KeepAlive,
    Plan,
    RequestError,
    Resources,
    Run,
    VerifierError,
    collect,
)
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
POLICY = {"policy": {"words": ["bad", "worse"]}}
CRITIQUE = 'It contains "bad", which is not allowed.'


def replies(*texts: str) -> ScriptedEngine:
    """An engine that says one text after the other, and the last one for ever."""
    left = list(texts)
    return ScriptedEngine(lambda call: left.pop(0) if len(left) > 1 else left[0])


async def refined(
    engine: ScriptedEngine, resources: Resources, params: dict[str, Any] | None = None, **options: Any
) -> tuple[Answer, list[dict[str, Any]]]:
    """The answer, and the trace."""
    run = Run(engine, resources)
    plan = Plan.of("refine", [("refine", {"verifiers": [POLICY], **options})], resources)
    request = ChatRequest("scripted", ({"role": "user", "content": "Hello?"},), params or {})
    return await collect(plan.stream(request, run)), run.trace.steps


async def test_a_draft_that_passes_costs_one_call(resources: Resources) -> None:
    engine = replies("fine")
    answer, trace = await refined(engine, resources)
    assert (answer.text, len(engine.calls)) == ("fine", 1)
    assert answer.usage.extra == {}  # the engine's own figures
    (note,) = trace
    assert (note["round"], note["passed"], note["score"]) == (0, True, 1.0)


async def test_corrects_in_the_verifiers_words_until_it_passes(resources: Resources) -> None:
    engine = replies("bad worse", "bad", "fine", "never asked for")
    answer, trace = await refined(engine, resources, {"max_tokens": 9, "seed": 5, "stop": ["x"]})
    assert answer.text == "fine"
    assert [n["accepted"] for n in trace[1:]] == [True, True]
    assert [n["score"] for n in trace] == [round(1 / 3, 4), 0.5, 1.0]
    assert trace[1]["verdicts"]["policy"]["critique"] == CRITIQUE
    first, second, third = engine.calls
    assert [m["role"] for m in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1]["content"] == "bad worse" and third.messages[1]["content"] == "bad"
    assert CRITIQUE in third.messages[2]["content"] and '"worse"' not in third.messages[2]["content"]
    # What shapes the answer holds for corrections too, and each is another draw.
    assert [c.params["max_tokens"] for c in engine.calls] == [9, 9, 9]
    assert [c.params["seed"] for c in engine.calls] == [5, 6, 7]
    assert second.params["stop"] == ["x"]
    details = answer.usage.extra["alignment_details"]
    assert details["refine"]["calls"] == 3
    assert answer.usage.completion_tokens == len("bad worse") + len("bad") + len("fine")


async def test_a_worse_correction_is_rejected_and_the_best_answer_kept(resources: Resources) -> None:
    engine = replies("bad", "bad worse", "also bad", "bad, truly bad")
    answer, trace = await refined(engine, resources, max_rounds=3)
    # An equal score is no better one.
    assert answer.text == "bad"
    assert [n.get("accepted") for n in trace] == [None, False, False, False]
    assert {c.messages[1]["content"] for c in engine.calls[1:]} == {"bad"}
    assert len(engine.calls) == 4


async def test_a_model_that_repeats_itself_is_not_asked_for_ever(resources: Resources) -> None:
    engine = replies("bad", "bad worse", "bad worse", "fine")
    answer, trace = await refined(engine, resources)
    assert (answer.text, len(engine.calls)) == ("bad", 3)
    assert trace[-1]["stopped"] == "the correction repeats a text"


async def test_what_no_round_mends_can_be_withheld(resources: Resources) -> None:
    engine = replies("bad", "bad worse")
    answer, trace = await refined(engine, resources, max_rounds=1, unresolved="withhold")
    assert (answer.text, answer.choices[0].finish_reason) == ("", "content_filter")
    assert trace[-1]["withheld"] is True


async def test_each_choice_is_refined_on_its_own(resources: Resources) -> None:
    class Two(ScriptedEngine):
        async def chat(self, call: Call) -> Any:
            async for event in super().chat(call):
                if isinstance(event, Chunk) and call.params.get("n") == 2:
                    texts = ["bad", "good"]
                    deltas = [{"index": i, "delta": {"content": texts[i]}} for i in (0, 1)]
                    yield Chunk(deltas) if event.text() else event
                else:
                    yield event

    engine = Two("fine")
    answer, trace = await refined(engine, resources, {"n": 2})
    assert [(c.index, c.text, c.finish_reason) for c in answer.choices] == [
        (0, "fine", "stop"),
        (1, "good", "stop"),
    ]
    assert len(engine.calls) == 2 and "n" not in engine.calls[1].params


class Tools(ScriptedEngine):
    """Calls a tool, each time with the next argument."""

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self.arguments = arguments

    async def chat(self, call: Call) -> Any:
        argument = self.arguments[min(len(self.calls), len(self.arguments) - 1)]
        self.calls.append(call)
        function = {"name": "mail", "arguments": f'{{"text": "{argument}"}}'}
        calls = [{"id": "c1", "type": "function", "function": function}]
        yield Chunk([{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}])
        yield Finish(usage=(await collect(ScriptedEngine().chat(call))).usage)


async def test_tool_calls_are_judged_and_corrected(resources: Resources) -> None:
    engine = Tools("b\\u0061d", "fine")
    answer, trace = await refined(engine, resources, {"tools": [{"type": "function"}]})
    (called,) = answer.choices[0].message["tool_calls"]
    assert called["function"]["arguments"] == '{"text": "fine"}'
    assert answer.choices[0].finish_reason == "tool_calls" and [t["passed"] for t in trace] == [False, True]
    # What takes a call's place may call tools again; the call stands there as text.
    assert engine.calls[1].params["tools"] and "text: bad" in engine.calls[1].messages[-2]["content"]


async def test_a_tool_call_that_no_round_mends_can_be_withheld(resources: Resources) -> None:
    answer, trace = await refined(Tools("bad"), resources, {"tools": [{}]}, unresolved="withhold")
    (choice,) = answer.choices
    assert choice.finish_reason == "content_filter" and "tool_calls" not in choice.message
    assert trace[-1]["withheld"]
    answer, _ = await refined(Tools("bad"), resources, {"tools": [{}]})
    assert answer.choices[0].message["tool_calls"]


SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "pattern": "^[a-z]+$"}},
    "required": ["word"],
    "patternProperties": {"^n_": {"type": "integer"}},
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA}}


async def test_structured_answers_stay_valid(resources: Resources) -> None:
    engine = replies('{"word": "bad"}', "fine, without JSON", '{"word": 3}', '{"word": "fine", "n_1": 2}')
    answer, trace = await refined(engine, resources, {"response_format": FORMAT})
    assert json.loads(answer.text) == {"word": "fine", "n_1": 2}
    assert [n.get("accepted") for n in trace] == [None, False, False, True]
    assert "not JSON" in trace[1]["malformed"] and "schema" in trace[2]["malformed"]
    assert all(c.params["response_format"] == FORMAT for c in engine.calls)
    assert "same format" in engine.calls[1].messages[-1]["content"]


async def test_the_last_valid_answer_is_kept_when_no_correction_is(resources: Resources) -> None:
    engine = replies('{"word": "bad"}', '{"word": "Fine!"}', '{"n_1": "x", "word": "fine"}', "[]")
    answer, _ = await refined(engine, resources, {"response_format": FORMAT}, max_rounds=3)
    assert answer.text == '{"word": "bad"}'


async def test_an_invalid_draft_is_mended(resources: Resources) -> None:
    engine = replies("fine", '{"word": "fine"}')
    answer, _ = await refined(engine, resources, {"structured_outputs": {"json": json.dumps(SCHEMA)}})
    assert answer.text == '{"word": "fine"}'


@pytest.mark.parametrize(
    ("options", "param", "told"),
    [
        ({"verifiers": []}, "alignment.refine.verifiers", "at least one"),
        ({"verifiers": ["magic"]}, "alignment.refine.verifiers", "unknown verifier 'magic'; known: "),
        ({"verifiers": [{"policy": {"deny": ["("]}}]}, "alignment.verifiers.policy.deny", "refused"),
        ({"verifiers": [{"policy": {"x": 1}}]}, "alignment.refine.verifiers.policy.x", "unknown option"),
        ({"verifiers": [{"command": {"argv": ["true"]}}]}, "alignment.refine.verifiers.command", "configur"),
        ({"verifiers": [{"http": {"url": "http://x"}}]}, "alignment.refine.verifiers.http", "configuration"),
        ({"verifiers": [{"evidence": {"store": "nope"}}]}, "alignment.verifiers.evidence.store", "unknown"),
        ({"verifiers": ["toxicity"], "prompt": "nope"}, "alignment.refine.prompt", "unknown prompt"),
        ({"max_rounds": 99}, "alignment.refine.max_rounds", "less than or equal to 16"),
    ],
)
def test_what_can_not_be_configured(
    options: dict[str, Any], param: str, told: str, resources: Resources
) -> None:
    with pytest.raises(RequestError, match=told) as caught:
        Plan.of("refine", [("refine", options)], resources)
    assert caught.value.param == param


@pytest.mark.parametrize("field", [{"continue_final_message": True}])
async def test_what_it_can_not_refine_is_refused(field: dict[str, Any], resources: Resources) -> None:
    with pytest.raises(RequestError) as caught:
        await refined(replies("fine"), resources, field)
    assert caught.value.param in field


async def test_keeps_the_connection_alive_while_rounds_run(resources: Resources) -> None:
    going = asyncio.Event()

    async def slow(call: Call) -> str:
        await going.wait()
        return "fine"

    plan = Plan.of("r", [("refine", {"verifiers": [POLICY], "keep_alive": 0.01})], resources)
    request = ChatRequest("scripted", ({"role": "user", "content": "Hi"},), stream=True)
    events: list[Event] = []
    async for event in plan.stream(request, Run(ScriptedEngine(slow), resources)):
        events.append(event)
        if len(events) == 3:
            going.set()
    kinds = [type(e) for e in events]
    assert kinds[:3] == [KeepAlive] * 3 and kinds[-2:] == [Chunk, Finish]


async def test_works_on_a_plain_chat_api(resources: Resources) -> None:
    engine = ScriptedEngine(
        lambda call: "fine" if len(call.messages) > 1 else "bad", capabilities=Capability.CHAT
    )
    answer, _ = await refined(engine, resources)
    assert answer.text == "fine"


def test_over_http(serving: Serving) -> None:
    engine = replies("bad", "fine")
    with serving(engine) as url:
        wish = {"pipeline": [{"refine": {"verifiers": [POLICY]}}], "trace": True}
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "alignment": wish}
        told = httpx.post(f"{url}/v1/chat/completions", json=body).json()
        assert told["choices"][0]["message"]["content"] == "fine"
        assert [step["round"] for step in told["alignment"]["trace"]] == [0, 1]
        listed = httpx.get(f"{url}/v1/alignment").json()["verifiers"]
        assert "threshold" in listed["toxicity"]["options"] and "argv" in listed["command"]["options"]


def test_comments_keep_a_stream_alive_until_the_answer_is_settled(serving: Serving) -> None:
    seen = threading.Event()

    async def slow(call: Call) -> str:
        assert await asyncio.to_thread(seen.wait, 20)
        return "fine"

    with serving(ScriptedEngine(slow)) as url:
        wish = {"pipeline": [{"refine": {"verifiers": [POLICY], "keep_alive": 0.05}}]}
        body: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
        body |= {"stream": True, "alignment": wish}
        lines: list[str] = []
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                lines.append(line)
                if line.startswith(":"):
                    seen.set()
        assert lines[0] == ": keep-alive" and lines[-2] == "data: [DONE]"
        assert sum('"content":"fine"' in line for line in lines) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_failing_verifier_is_an_error_that_names_it(serving: Serving, stream: bool) -> None:
    def answer(call: Call) -> str | Exception:
        return "bad" if len(call.messages) == 1 else VerifierError("no")

    with serving(ScriptedEngine(answer, capabilities=Capability.CHAT)) as url:
        options: dict[str, Any] = {"verifiers": ["self"]}
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        body["alignment"] = {"pipeline": [{"refine": options}]}
        told = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert told.status_code == 503
        error = told.json()["error"]
        assert error["code"] == "verifier_failed" and "verifier 'self' failed" in error["message"]
        options["on_error"] = "pass"
        body["alignment"] = {"pipeline": [{"refine": options}], "trace": True}
        body["stream"] = False
        passed = httpx.post(f"{url}/v1/chat/completions", json=body).json()
        assert passed["choices"][0]["message"]["content"] == "bad"
        (note,) = passed["alignment"]["trace"]
        assert note["verdicts"]["self"]["passed_over"] is True and note["verdicts"]["self"]["error"] == "no"


@pytest.mark.parametrize("mode", ["whole", "sentence"])
async def test_a_correction_that_can_not_be_asked_for_leaves_the_best(
    mode: str, resources: Resources
) -> None:
    def reply(call: Call) -> str | Exception:
        if any("found fault" in str(m["content"]) for m in call.messages):
            return RequestError("too long", code="context_length_exceeded")
        return "One is fine. Two is bad. Three." if len(call.messages) == 1 else " Three."

    answer, trace = await refined(ScriptedEngine(reply), resources, mode=mode)
    assert answer.text == "One is fine. Two is bad. Three."
    assert any(note.get("stopped") == "too long" for note in trace)


@pytest.mark.parametrize("n", [0, "2", True, 10**6])
async def test_a_number_of_choices_that_is_none(n: Any, resources: Resources) -> None:
    with pytest.raises(RequestError) as caught:
        await refined(replies("fine"), resources, {"n": n}, mode="sentence")
    assert caught.value.param == "n"
