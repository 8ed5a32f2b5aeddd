"""The step `gate` over HTTP: what is refused asks no model, in every API; what passes goes on as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI
from upstream_fixtures import Proxy, Reply, ScriptedUpstream, before, completion, streamed
from waiting import HANG

from heedful.server.alignments import Alignments
from heedful.server.config import Config, ConfigError
from heedful.strategies import Call, Capability, Resources
from heedful.strategies.context.gate import gates
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
POLICY = {"policy": {"words": ["bomb"]}}
REFUSAL = "Not here."
GATE: dict[str, Any] = {"gate": {"verifiers": [POLICY], "message": REFUSAL}}
CONFIG = Config(alignments={"gated": [GATE]}, default_alignment="gated")
BAD = "How do I build a bomb?"


def _ask(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/v1/{path}", json={"model": "scripted", **body}, timeout=HANG)


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_in_every_api_asks_no_model(
    stream: bool, serving: Serving, client: Callable[[str], OpenAI]
) -> None:
    engine = ScriptedEngine("Here is how.")
    messages: Any = [{"role": "user", "content": BAD}]
    with serving(engine, config=CONFIG) as url:
        openai, anthropic = client(url), Anthropic(base_url=url, api_key="x", max_retries=0, timeout=HANG)
        if stream:
            options: Any = {"stream_options": {"include_usage": True}}
            chunks = list(
                openai.chat.completions.create(
                    model="scripted", messages=messages, n=2, stream=True, **options
                )
            )
            texts = {i: "" for i in range(2)}
            for chunk in chunks:
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
                    assert choice.finish_reason in (None, "content_filter")
            assert texts == {0: REFUSAL, 1: REFUSAL}
            usage: Any = chunks[-1].usage
            pieces = list(openai.completions.create(model="scripted", prompt=BAD, stream=True))
            assert "".join(p.choices[0].text for p in pieces) == REFUSAL
            assert pieces[-1].choices[0].finish_reason == "content_filter"
            last: Any = list(openai.responses.create(model="scripted", input=BAD, stream=True))[-1]
            assert last.type == "response.incomplete"
            response = last.response
            with anthropic.messages.stream(model="scripted", messages=messages, max_tokens=9) as events:
                message: Any = events.get_final_message()
        else:
            answer = openai.chat.completions.create(model="scripted", messages=messages, n=2)
            assert [c.message.content for c in answer.choices] == [REFUSAL] * 2
            assert {c.finish_reason for c in answer.choices} == {"content_filter"}
            usage = answer.usage
            text = openai.completions.create(model="scripted", prompt=BAD).choices[0]
            assert (text.text, text.finish_reason) == (REFUSAL, "content_filter")
            response = openai.responses.create(model="scripted", input=BAD)
            message = anthropic.messages.create(model="scripted", messages=messages, max_tokens=9)
        assert usage.total_tokens == usage.prompt_tokens == 0
        assert response.output_text == REFUSAL and response.status == "incomplete"
        assert response.incomplete_details.reason == "content_filter" and response.usage.total_tokens == 0
        assert message.content[0].text == REFUSAL and message.stop_reason == "refusal"
        assert message.usage.input_tokens == message.usage.output_tokens == 0
        assert _ask(url, "messages/count_tokens", {"messages": messages}).json()["input_tokens"] == 0
        refused = _ask(url, "alignment/score", {"messages": messages, "answers": ["a"]})
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "content_filter"
        assert not engine.calls
        assert openai.responses.create(model="scripted", input="Hello?").output_text == "Here is how."


def _read(read: list[str], messages: list[dict[str, Any]], serving: Serving) -> bool:
    """Whether a gate that reads these refuses."""
    gate = {"gate": {**GATE["gate"], "read": read}}
    with serving(ScriptedEngine()) as url:
        answer = _ask(url, "chat/completions", {"messages": messages, "alignment": [gate]}).json()
    return bool(answer["choices"][0]["finish_reason"] == "content_filter")


def test_which_messages_are_read(serving: Serving) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "x\\nbomb"}'}}
    bad: dict[str, dict[str, Any]] = {
        "system": {"role": "developer", "content": "bomb"},
        "assistant": {"role": "assistant", "content": None, "tool_calls": [call]},
        "tool": {"role": "tool", "tool_call_id": "1", "content": "bomb"},
        "user": {"role": "user", "content": [{"type": "text", "text": "bomb"}]},
    }
    ok = [{"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Go on."}]
    for part, message in bad.items():
        assert _read([part], [message, *ok], serving)
        assert not _read(["last"], [message, *ok], serving), part
    # The last turn is all that the user has said since the last answer; without any the conversation is read whole.
    assert _read(["last"], [bad["user"], {"role": "user", "content": "Do it."}], serving)
    assert _read(["last"], [bad["system"]], serving)
    assert _read(["last"], [{"role": "customer", "content": "bomb"}], serving)


def test_a_guard_is_booked_and_told_and_nothing_else_is(serving: Serving) -> None:
    writer = ScriptedEngine("Fine.", model="w")
    guard = ScriptedEngine(lambda call: "unsafe\nS1" if BAD in str(call.messages) else "safe", model="g")
    gate = {"verifiers": [{"guard": {"model": "g"}}], "action": "annotate"}
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    with serving(writer, guard) as url:
        for action in ("annotate", "refuse"):
            body = {"messages": [*earlier, {"role": "user", "content": BAD}], "model": "w"}
            asked = {**body, "alignment": {"pipeline": [{"gate": {**gate, "action": action}}], "trace": True}}
            answer = _ask(url, "chat/completions", asked).json()
            (note,) = answer["alignment"]["trace"]
            assert note["verdicts"]["guard"]["categories"] == ["S1"] and note["passed"] is False
            assert answer["alignment"]["usage"]["gate"]["calls"] == 1
            assert answer["usage"]["alignment_details"]["gate"]["prompt_tokens"] > 0
            assert len(writer.calls) == 1  # by the first, which only notes
            assert [m["role"] for m in guard.calls[-1].messages] == ["user", "assistant", "user"]
    assert len(guard.calls) == 2


def test_the_verdict_chooses_the_alignment(serving: Serving) -> None:
    def reply(call: Call) -> str:
        return "careful" if call.messages[0]["role"] == "system" else "quick"

    careful: Any = ["principles", {"best_of_n": {"n": 2, "verifiers": [POLICY]}}]
    routed: Any = [
        {"gate": {"verifiers": [POLICY], "on": {"flagged": "careful", "passed": "direct"}}},
        "urial",
    ]
    engine = ScriptedEngine(reply)
    with serving(engine, config=Config(alignments={"routed": routed, "careful": careful})) as url:
        for question, answer, calls in ((BAD, "careful", 2), ("Hello?", "quick", 1)):
            body: dict[str, Any] = {"messages": [{"role": "user", "content": question}]}
            body["alignment"] = {"name": "routed", "trace": True}
            told = _ask(url, "chat/completions", body).json()
            assert told["choices"][0]["message"]["content"] == answer
            assert told["alignment"]["trace"][0]["action"] == ("careful" if calls == 2 else "direct")
            assert engine.calls[-1].params.get("n", 1) == calls


def test_branches_are_checked_when_the_plan_is_built(resources: Resources, serving: Serving) -> None:
    def alignments(**named: Any) -> Alignments:
        return Alignments(Config(alignments=named), resources)

    def to(name: str) -> list[Any]:
        return [{"gate": {"on": {"flagged": name}}}]

    for named, told in (
        ({"a": to("b"), "b": to("a")}, "circle: a → b → a"),
        ({"a": to("a+direct")}, "circle"),
        ({"a": to("nowhere")}, "unknown alignment 'nowhere'"),
        ({"a": [{"gate": {"verifiers": []}}]}, "give `verifiers` or `redact`"),
    ):
        with pytest.raises(ConfigError, match=told):
            alignments(**named)
    assert alignments(b=to("c"), c="direct", a=to("b")).names()
    chat = ScriptedEngine(capabilities=Capability.COMPLETION)
    with serving(chat) as url:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
        for name, told in (("nowhere", "unknown alignment 'nowhere'"), ("principles", "'gate' needs chat")):
            refused = _ask(url, "chat/completions", {**body, "alignment": to(name)})
            assert refused.status_code in (400, 404) and told in refused.json()["error"]["message"]
    assert not chat.calls


def test_a_verifier_that_fails(serving: Serving) -> None:
    guard = ScriptedEngine("Perhaps.", model="g")
    writer = ScriptedEngine("Fine.", model="w")
    with serving(writer, guard) as url:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "model": "w"}
        for on_error, status in (("fail", 502), ("pass", 200)):
            gate = {"verifiers": [{"guard": {"model": "g"}}], "on_error": on_error}
            assert (
                _ask(url, "chat/completions", {**body, "alignment": [{"gate": gate}]}).status_code == status
            )
            assert len(writer.calls) == (status == 200)


@pytest.mark.parametrize("stream", [False, True])
def test_what_passes_is_forwarded_byte_by_byte(
    stream: bool, upstream: ScriptedUpstream, proxy: Proxy
) -> None:
    whole = Reply.json(completion("Hello"))
    upstream.answers(lambda asked: Reply.sse(*streamed("He", "llo")) if stream else whole)
    gated: Any = {"alignments": {"gated": [GATE]}, "default_alignment": "gated"}
    with proxy(Config(upstreams=[before(upstream, models={"theirs": "theirs"})], **gated)) as url:
        body = {
            "model": "theirs",
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": stream,
            "own": 1,
        }
        raw = json.dumps(body, indent=3).encode()
        for content, calls in ((raw, 1), (raw.replace(b"Hi", b"bomb"), 1)):
            answer = httpx.post(f"{url}/v1/chat/completions", content=content, timeout=HANG)
            assert answer.status_code == 200 and len(upstream.asked) == calls
            if content is raw:
                expected = (
                    b"".join(streamed("He", "llo")) if stream else json.dumps(completion("Hello")).encode()
                )
                assert answer.content == expected and upstream.asked[0].raw == raw
            else:
                assert REFUSAL in answer.text


@pytest.mark.parametrize("size", [1, 4, 100])
def test_redaction_over_an_upstream(size: int, upstream: ScriptedUpstream, proxy: Proxy) -> None:
    mail = "ann@example.org"
    said = "I wrote to [EMAIL_1], as [EMAIL_2] said."
    upstream.answers(
        lambda asked: (
            Reply.sse(*streamed(*(said[i : i + size] for i in range(0, len(said), size))))
            if asked.body["stream"]
            else Reply.json(completion(said))
        )
    )
    private: Any = {"private": [{"gate": {"redact": ["email"]}}]}
    with proxy(Config(upstreams=[before(upstream)], alignments=private)) as url:
        openai = OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=HANG)
        messages: Any = [{"role": "user", "content": f"Write to {mail}. And [EMAIL_2]"}]
        expected = f"I wrote to {mail}, as [EMAIL_2] said."
        model = "ours@private"
        answer = openai.chat.completions.create(model=model, messages=messages, stream=False)
        assert answer.choices[0].message.content == expected
        chunks = list(openai.chat.completions.create(model=model, messages=messages, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
        assert len({c.id for c in chunks}) == 1
        assert openai.responses.create(model=model, input=messages).output_text == expected
        anthropic = Anthropic(base_url=url, api_key="x", max_retries=0, timeout=HANG)
        with anthropic.messages.stream(model=model, messages=messages, max_tokens=9) as events:
            assert events.get_final_text() == expected
    assert not any(mail.encode() in asked.raw for asked in upstream.asked)
    assert all(b"[EMAIL_1]" in asked.raw for asked in upstream.asked)


def test_gates_of_the_floor(resources: Resources) -> None:
    config = Config.model_validate({"floor": {"gate": [{"verifiers": [POLICY], "message": REFUSAL}]}})
    ((name, step),) = gates(config.floor.gate, resources)
    assert name == "gate" and not step.needs
    for options, told in (
        ({"verifiers": ["norms"]}, "put this gate after `norms`"),
        ({"x": 1}, "unknown option 'x'"),
    ):
        with pytest.raises(Exception, match=told):
            gates([options], resources)


@pytest.mark.parametrize(
    "odd", [{"function": "bomb"}, {"function": None}, {"function": {"arguments": {"a": ["bomb"]}}}]
)
def test_odd_calls_are_read_and_break_nothing(odd: dict[str, Any], serving: Serving) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [odd]}
    messages: list[dict[str, Any]] = [message, {"role": "user", "content": "Go on."}]
    assert _read(["assistant"], messages, serving) is (odd["function"] is not None)
    gate = {"redact": ["email"], "verifiers": []}
    with serving(ScriptedEngine()) as url:
        answer = _ask(url, "chat/completions", {"messages": messages, "alignment": [{"gate": gate}]})
    assert answer.status_code == 200


def test_the_name_of_who_speaks_is_read(serving: Serving) -> None:
    engine = ScriptedEngine("Here is how.")
    named = [{"role": "user", "name": BAD, "content": "Well?"}]
    with serving(engine, config=CONFIG) as url:
        answer = _ask(url, "chat/completions", {"messages": named}).json()
    assert answer["choices"][0]["finish_reason"] == "content_filter" and not engine.calls
