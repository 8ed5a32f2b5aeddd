"""Anthropic's Messages API over the same pipeline, through the official client."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import pytest
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

HI: Any = [{"role": "user", "content": "Hi"}]
MODEL = "ours"
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sea"}'}}
TOOLS: Any = [
    {"name": "look", "description": "d", "input_schema": {"type": "object", "properties": {"at": {}}}}
]


def api(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="sk-ant-0123456789", max_retries=0)


def test_a_plain_answer(proxied: str, upstream: ScriptedUpstream) -> None:
    answer = api(proxied).messages.create(
        model=MODEL,
        max_tokens=50,
        system="Be brief.",
        messages=HI,
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        extra_body={"temperature": 0.5, "top_k": 3},
    )
    assert answer.content[0].type == "text" and answer.content[0].text == "Hello"
    assert (answer.stop_reason, answer.role, answer.model) == ("end_turn", "assistant", "ours")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, 7)
    sent = upstream.last.body
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, *HI]
    assert (sent["max_tokens"], sent["stop"], sent["temperature"], sent["top_k"]) == (50, ["END"], 0.5, 3)
    assert sent["user"] == "u1"
    assert upstream.last.headers["authorization"] == "Bearer sk-ant-0123456789"


def test_a_conversation_with_images_tools_and_thoughts(proxied: str, upstream: ScriptedUpstream) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
    link = {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "See"}, image]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "sea"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [{"type": "text", "text": "blue"}, link],
                },
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    api(proxied).messages.create(
        model=f"{MODEL}@principles",
        max_tokens=9,
        messages=messages,
        tools=TOOLS,
        tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 4096},
    )
    sent = upstream.last.body
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
    assert sent["messages"][0]["role"] == "system"
    assert sent["messages"][1:] == [
        {"role": "user", "content": [{"type": "text", "text": "See"}, picture]},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "blue"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    schema = TOOLS[0]["input_schema"]
    function = {"name": "look", "description": "d", "parameters": schema}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert sent["parallel_tool_calls"] is False and sent["reasoning_effort"] == "medium"


def test_tool_calls_come_back(proxied: str, upstream: ScriptedUpstream) -> None:
    answer = completion(None)  # type: ignore[arg-type]
    answer["choices"][0] |= {"finish_reason": "tool_calls"}
    answer["choices"][0]["message"] |= {"tool_calls": [CALL], "reasoning_content": "hm"}
    upstream.answers(Reply.json(answer))
    got = api(proxied).messages.create(model=MODEL, max_tokens=9, messages=HI, tools=TOOLS)
    thought, call = got.content
    assert thought.type == "thinking" and thought.thinking == "hm"
    assert call.type == "tool_use" and (call.id, call.name, call.input) == ("c1", "look", {"at": "sea"})
    assert got.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("choice", "reason", "sequence"),
    [
        ({"finish_reason": "length"}, "max_tokens", None),
        ({"finish_reason": "stop", "stop_reason": "END"}, "stop_sequence", "END"),
        ({"finish_reason": "stop", "stop_reason": 7}, "end_turn", None),
        ({"finish_reason": "content_filter"}, "refusal", None),
    ],
)
def test_stop_reasons(
    proxied: str, upstream: ScriptedUpstream, choice: dict[str, Any], reason: str, sequence: str | None
) -> None:
    answer = completion()
    answer["choices"][0] |= choice
    upstream.answers(Reply.json(answer))
    got = api(proxied).messages.create(model=MODEL, max_tokens=9, messages=HI)
    assert (got.stop_reason, got.stop_sequence) == (reason, sequence)


def test_a_stream(proxied: str, upstream: ScriptedUpstream) -> None:
    """Thought, text and two calls, each a block that opens and closes; the client puts them together."""
    gate = Gate()
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9}}\n\n'
    calls = [
        chunk(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "look", "arguments": ""}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"at":'}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '"sea"}'}}]),
        chunk(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "look", "arguments": "{}"}}]),
    ]
    words = [chunk(role="assistant", reasoning_content="h"), chunk(reasoning_content="m"), chunk("Hel")]
    upstream.answers(Reply.sse(*words, gate, chunk("lo"), *calls, chunk(finish="tool_calls"), usage, DONE))
    with api(proxied).messages.stream(model=MODEL, max_tokens=9, messages=HI) as stream:
        kinds, texts = [], []
        for event in stream:
            kinds.append(event.type)
            if event.type == "text":
                texts.append(event.text)
                assert gate.reached.wait(LIMIT)
                gate.open.set()
        final = stream.get_final_message()
    assert texts == ["Hel", "lo"]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4
    assert [b.type for b in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert final.content[2].input == {"at": "sea"} and final.content[3].id == "c2"  # type: ignore[union-attr]
    assert final.stop_reason == "tool_use"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (5, 9)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (503, anthropic.APIStatusError, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_anthropics_shape(
    proxied: str, upstream: ScriptedUpstream, status: int, error: Any, kind: str, stream: bool
) -> None:
    upstream.answers(Reply.json({"error": {"message": "why"}}, status=status, headers={"retry-after": "3"}))
    with pytest.raises(error) as caught:
        api(proxied).messages.create(model=MODEL, max_tokens=9, messages=HI, stream=stream)
    assert caught.value.response.json() == {"type": "error", "error": {"type": kind, "message": "why"}}
    assert caught.value.response.headers["retry-after"] == "3"


def test_a_broken_stream_is_an_error_to_the_client(proxied: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply.sse(chunk("begun"), cut=True))
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        for _ in api(proxied).messages.create(model=MODEL, max_tokens=9, messages=HI, stream=True):
            pass


def test_a_begun_answer_is_continued_or_refused(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    turns: Any = [*HI, {"role": "assistant", "content": "I think"}]
    models = {"ours": {}, "fills": {"capabilities": ["chat", "prefill"]}}
    with proxy(Config(upstreams=[before(upstream, models=models)])) as url:
        with pytest.raises(anthropic.BadRequestError, match="lacks prefill"):
            api(url).messages.create(model="ours", max_tokens=9, messages=turns)
        api(url).messages.create(model="fills", max_tokens=9, messages=turns)
    sent = upstream.last.body
    assert sent["continue_final_message"] is True and sent["add_generation_prompt"] is False


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": 5}, "messages"),
        ({"max_tokens": 5, "messages": []}, "at least 1 "),
        ({"max_tokens": 5, "messages": [{"role": "user", "content": []}]}, "nothing in them"),
        ({"messages": HI}, "max_tokens"),
        ({"max_tokens": 0, "messages": HI}, "max_tokens"),
        ({"max_tokens": 5, "messages": [{"role": "bot", "content": "x"}]}, "messages.0.role"),
        ({"max_tokens": 5, "messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        (
            {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "x"}]}]},
            "messages.0.content.0",
        ),
        (
            {"max_tokens": 5, "messages": HI, "tools": [{"type": "web_search_20250305", "name": "s"}]},
            "tools.0",
        ),
        ({"max_tokens": 5, "messages": HI, "tools": TOOLS, "tool_choice": "auto"}, "tool_choice"),
        ({"max_tokens": 5, "messages": HI, "stop_sequences": [3]}, "stop_sequences"),
        ({"max_tokens": 5, "messages": HI, "mcp_servers": [{}]}, "mcp_servers"),
        ({"max_tokens": 5, "messages": HI, "system": [{"type": "text"}]}, "system"),
        (
            {
                "max_tokens": 5,
                "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}],
            },
            "messages.0.content.0.source.url",
        ),
        ({"max_tokens": 5, "messages": HI, "model": "other"}, "unknown model"),
    ],
)
def test_a_bad_field_is_named(proxied: str, body: dict[str, Any], param: str) -> None:
    response = httpx.post(f"{proxied}/v1/messages", json={"model": MODEL, **body})
    assert response.status_code in (400, 404) and response.json()["type"] == "error"
    assert param in response.json()["error"]["message"]


def test_the_trace(proxied: str, upstream: ScriptedUpstream) -> None:
    body = {
        "model": MODEL,
        "max_tokens": 9,
        "messages": HI,
        "alignment": {"name": "principles", "trace": True},
    }
    got = httpx.post(f"{proxied}/v1/messages", json=body).json()
    assert got["alignment"]["pipeline"] == ["principles", "direct"]
    upstream.answers(Reply.sse(*streamed("x")))
    text = httpx.post(f"{proxied}/v1/messages", json={**body, "stream": True}).text
    assert '"pipeline":["principles","direct"]' in text.split("message_stop")[-1]


def test_a_wrong_key_is_told_in_anthropics_shape(
    upstream: ScriptedUpstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", "sk-ant-other")
    with proxy(Config(upstreams=[before(upstream)], api_key_env="HERE")) as url:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            api(url).messages.create(model=MODEL, max_tokens=9, messages=HI)
    assert caught.value.response.json()["type"] == "error"


def test_usage_that_makes_no_sense_harms_nobody(proxied: str, upstream: ScriptedUpstream) -> None:
    usage = {"prompt_tokens": "5", "completion_tokens": None, "prompt_tokens_details": 3}
    upstream.answers(Reply.json(completion(usage=usage)))
    got = api(proxied).messages.create(model=MODEL, max_tokens=9, messages=HI)
    assert (got.usage.input_tokens, got.usage.output_tokens) == (0, 0)
