"""What goes through the proxy arrives as it was sent, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai import OpenAI
from upstream_fixtures import (
    DONE,
    LIMIT,
    Gate,
    Proxy,
    Reply,
    ScriptedUpstream,
    before,
    chunk,
    completion,
    streamed,
)

from heedful.server.config import Config

Client = Callable[[str], OpenAI]
HI: Any = [{"role": "user", "content": "Hi"}]

PIXEL = "data:image/png;base64,iVBORw0KGgo="
RICH: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one", "name": "ann"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "and this?"},
            {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        ],
    },
]
PARAMS: dict[str, Any] = {
    "temperature": 0.25,
    "n": 3,
    "user": "u-1",
    "metadata": {"team": "x"},
    "top_k": 7,
    "repetition_penalty": 1.05,
    "min_p": 0.01,
    "guided_choice": ["a", "b"],
    "chat_template_kwargs": {"enable_thinking": False},
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "some_future_field": {"deep": [1, 2.5, None, "ü"]},
}


@pytest.mark.parametrize("alignment", ["direct", "principles"])
@pytest.mark.parametrize("stream", [False, True])
def test_every_request_field_survives(
    proxied: str, upstream: ScriptedUpstream, alignment: str, stream: bool
) -> None:
    upstream.answers(Reply.sse(*streamed("x")) if stream else Reply.json(completion()))
    body = {"model": f"ours@{alignment}", "messages": RICH, "stream": stream, **PARAMS}
    assert httpx.post(f"{proxied}/v1/chat/completions", json=body).status_code == 200
    sent = upstream.last.body
    assert sent.pop("model") == "theirs"
    assert sent.pop("stream") is stream
    messages = sent.pop("messages")
    assert sent == PARAMS
    if alignment == "direct":
        assert messages == RICH
    else:  # one step of context, and the conversation as it was
        assert messages[1:] == RICH[1:]
        assert messages[0]["role"] == "system" and messages[0]["content"].endswith("\n\nBe brief.")
        assert len(messages[0]["content"]) > 100


def test_the_bytes_of_a_body_are_the_clients_where_names_agree(
    upstream: ScriptedUpstream, proxy: Proxy
) -> None:
    odd = (
        b'{ "model":"theirs","messages":[{"role":"user","content":"\\u00fc"}], '
        b'"seed":1.0, "big":12345678901234567890123 }'
    )
    with proxy(Config(upstreams=[before(upstream, models=["theirs"])])) as url:
        httpx.post(f"{url}/v1/chat/completions", content=odd)
    assert upstream.last.raw == odd


def test_response_fields_and_headers_survive(proxied: str, upstream: ScriptedUpstream) -> None:
    answer = completion(system_fingerprint="fp", service_tier="default", citations=["a"], prompt_filter=[{}])
    answer["choices"][0]["message"] |= {"reasoning_content": "hm", "refusal": None, "audio": {"id": "a"}}
    answer["choices"][0] |= {"stop_reason": 7, "content_filter_results": {"hate": {"filtered": False}}}
    answer["usage"]["prompt_tokens_details"] = {"cached_tokens": 3}
    headers = {"x-request-id": "req-9", "x-ratelimit-remaining-tokens": "12", "openai-processing-ms": "3"}
    upstream.answers(Reply.json(answer, headers=headers))
    response = httpx.post(f"{proxied}/v1/chat/completions", json={"model": "ours", "messages": HI})
    assert response.json() == answer
    assert {name: response.headers[name] for name in headers} == headers
    assert "set-cookie" not in response.headers


def test_the_answer_itself_survives_an_alignment(proxied: str, upstream: ScriptedUpstream) -> None:
    answer = completion(None, system_fingerprint="fp")  # type: ignore[arg-type]
    call = {"id": "c9", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    answer["choices"][0] |= {"finish_reason": "tool_calls"}
    answer["choices"][0]["message"]["tool_calls"] = [call]
    upstream.answers(Reply.json(answer))
    for alignment in ("principles", {"name": "principles", "trace": True}):
        body = {"model": "ours", "messages": HI, "alignment": alignment}
        got = httpx.post(f"{proxied}/v1/chat/completions", json=body).json()
        assert got.pop("alignment", {}).get("pipeline") == (
            None if alignment == "principles" else ["principles", "direct"]
        )
        assert got["choices"] == answer["choices"]
        assert got["system_fingerprint"] == "fp" and got["id"] == "chatcmpl-up"


@pytest.mark.parametrize("alignment", ["direct", "principles"])
def test_chunks_go_out_as_they_come(
    proxied: str, upstream: ScriptedUpstream, client: Client, alignment: str
) -> None:
    """The client has the first piece while the upstream is still held before the second."""
    gate = Gate()
    upstream.answers(Reply.sse(chunk("one"), gate, chunk("two"), DONE))
    stream = iter(
        client(proxied).chat.completions.create(model=f"ours@{alignment}", messages=HI, stream=True)
    )
    assert next(stream).choices[0].delta.content == "one"
    assert gate.reached.wait(LIMIT) and not gate.open.is_set()
    gate.open.set()
    assert next(stream).choices[0].delta.content == "two"


def test_a_stream_is_the_upstreams_to_the_byte(proxied: str, upstream: ScriptedUpstream) -> None:
    events = [
        b": comment\n\n",
        chunk(role="assistant", reasoning_content="hm"),
        chunk(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]),
        b'event: extra\r\ndata: {"choices":[],"x_unknown":1}\r\n\r\n',
        chunk("😀", finish="stop"),
        DONE,
    ]
    upstream.answers(Reply.sse(*events, headers={"x-request-id": "req-1"}))
    body = {"model": "ours", "messages": HI, "stream": True}
    response = httpx.post(f"{proxied}/v1/chat/completions", json=body)
    assert response.content == b"".join(events)
    assert response.headers["x-request-id"] == "req-1"
    assert response.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_stream_may_be_cut_at_every_byte(
    proxied: str, upstream: ScriptedUpstream, client: Client, newline: str, trace: bool
) -> None:
    """With a trace the events are read here, without one they are passed through."""
    whole = b"".join([b": ping\n\n", *streamed("naïve ", "😀", " data: x")]).replace(b"\n", newline.encode())
    upstream.answers(Reply.sse(*(whole[i : i + 1] for i in range(len(whole)))))
    wish = {"alignment": {"name": "principles", "trace": trace}}
    stream = client(proxied).chat.completions.create(model="ours", messages=HI, stream=True, extra_body=wish)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "naïve 😀 data: x"


def test_legacy_completions(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    answer = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "theirs", "extra": 1}
    choice = {"index": 0, "text": "ok", "finish_reason": "length", "logprobs": None}
    upstream.answers(Reply.json({**answer, "choices": [choice]}))
    body = {"model": "ours", "prompt": [1, 2, 3], "echo": True, "best_of": 2, "suffix": "s"}
    got = httpx.post(f"{proxied}/v1/completions", json=body).json()
    assert got == {**answer, "choices": [choice]}
    assert upstream.last.path == "/v1/completions"
    assert upstream.last.body == {**body, "model": "theirs"}


def test_a_raw_prompt_reaches_a_model_that_only_completes(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    choice = {"index": 0, "text": "Hello", "finish_reason": "stop", "logprobs": None}
    upstream.answers(Reply.json({"id": "cmpl-1", "choices": [choice], "usage": {"prompt_tokens": 3}}))
    with proxy(Config(upstreams=[before(upstream, capabilities=["completion"])])) as url:
        body = {"model": "ours@urial", "messages": HI}
        got = httpx.post(f"{url}/v1/chat/completions", json=body).json()
        refused = httpx.post(f"{url}/v1/chat/completions", json={"model": "ours@principles", "messages": HI})
    assert got["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}
    assert upstream.last.path == "/v1/completions" and "Hi" in upstream.last.body["prompt"]
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["code"] == "missing_capability" and "'principles' needs chat" in error["message"]


def test_hidden_calls_are_counted(proxied: str, upstream: ScriptedUpstream) -> None:
    """Thinking first is a second call with its own cost, and the client sees the sum."""
    upstream.answers(Reply.json(completion("thought")))
    body = {"model": "ours", "messages": HI, "alignment": [{"principles": {"mode": "cot"}}], "user": "u"}
    got = httpx.post(f"{proxied}/v1/chat/completions", json=body).json()
    assert [a.body["user"] for a in upstream.asked] == ["u", "u"]
    assert got["usage"]["completion_tokens"] == 14
    assert set(got["usage"]["alignment_details"]) == {"principles", "direct"}


def test_a_second_strategy_still_sees_the_question(proxied: str, upstream: ScriptedUpstream) -> None:
    """Two strategies compose over the conversation; none is given another's answer in its place."""
    turns = [*HI, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Why?"}]
    body = {"model": "ours@principles+urial", "messages": turns}
    httpx.post(f"{proxied}/v1/chat/completions", json=body)
    assert upstream.last.body["messages"][-3:] == turns
    assert len(upstream.asked) == 1


def test_text_never_chooses_an_alignment(proxied: str, upstream: ScriptedUpstream) -> None:
    tag = (
        '<optillm_approach>principles</optillm_approach> x-alignment: urial {"alignment": "urial"} ours@urial'
    )
    messages = [{"role": "system", "content": tag}, {"role": "user", "content": tag}]
    httpx.post(f"{proxied}/v1/chat/completions", json={"model": "ours", "messages": messages})
    assert upstream.last.body["messages"] == messages


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_an_unknown_model_is_answered_by_nobody(proxied: str, upstream: ScriptedUpstream, path: str) -> None:
    body = {"model": "gpt-9", "messages": HI, "prompt": "Hi"}
    response = httpx.post(f"{proxied}/v1/{path}", json=body)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found" and not upstream.asked


@pytest.mark.parametrize("content", [b"[]", b"3", b'"x"', b"null", b"{", b""])
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_body_that_is_no_object(proxied: str, content: bytes, path: str) -> None:
    response = httpx.post(f"{proxied}/v1/{path}", content=content)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


def test_models_are_listed_with_their_alignments(proxied: str, client: Client) -> None:
    listed = {m.id: m.model_dump() for m in client(proxied).models.list().data}
    assert {"ours", "ours@direct", "ours@principles", "ours@urial"} <= set(listed)
    assert listed["ours"]["capabilities"] == ["chat", "completion"]


def test_several_upstreams_beside_an_engine_of_our_own(
    upstream: ScriptedUpstream, proxy: Proxy, client: Client
) -> None:
    from heedful.strategies.scripted import ScriptedEngine

    more = [before(upstream, models={"a": "a"}), before(upstream, models={"b": {"name": "bee"}})]
    with proxy(Config(upstreams=more), ScriptedEngine("own")) as url:
        api = client(url)
        assert api.chat.completions.create(model="scripted", messages=HI).choices[0].message.content == "own"
        for name, theirs in (("a", "a"), ("b", "bee")):
            api.chat.completions.create(model=name, messages=HI)
            assert upstream.last.body["model"] == theirs
