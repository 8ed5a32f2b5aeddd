"""OpenAI's Responses API over the same pipeline, through the official client; and embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI, RateLimitError
from upstream_fixtures import DONE, LIMIT, Gate, Reply, ScriptedUpstream, chunk, completion

from heedful.retrieval.scripted import word_embedder
from heedful.retrieval.stores import Stores
from heedful.strategies.scripted import ScriptedEngine

Client = Callable[[str], OpenAI]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sea"}'}}
TOOLS: Any = [
    {"type": "function", "name": "look", "description": "d", "parameters": {"type": "object"}, "strict": True}
]


def test_a_plain_answer(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    answer = client(proxied).responses.create(
        model="ours",
        instructions="Be brief.",
        input="Hi",
        max_output_tokens=50,
        temperature=0.5,
        metadata={"a": "b"},
        reasoning={"effort": "low"},
        text={
            "format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}},
            "verbosity": "low",
        },
    )
    assert answer.output_text == "Hello" and answer.status == "completed"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (5, 7, 12)
    sent = upstream.last.body
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert (sent["max_completion_tokens"], sent["temperature"]) == (50, 0.5)
    assert (sent["reasoning_effort"], sent["verbosity"], sent["metadata"]) == ("low", "low", {"a": "b"})
    schema = {"name": "s", "schema": {"type": "object"}}
    assert sent["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_a_conversation(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    items: Any = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "See"},
                {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "low"},
            ],
        },
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Looking.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at":"sea"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "blue"},
        {"role": "developer", "content": "Hurry."},
    ]
    client(proxied).responses.create(
        model="ours@principles",
        input=items,
        tools=TOOLS,
        tool_choice={"type": "function", "name": "look"},
        parallel_tool_calls=False,
    )
    sent = upstream.last.body
    image = {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}}
    assert sent["messages"][1:] == [
        {"role": "user", "content": [{"type": "text", "text": "See"}, image]},
        {"role": "assistant", "content": "Looking.", "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "blue"},
        {"role": "developer", "content": "Hurry."},
    ]
    function = {k: v for k, v in TOOLS[0].items() if k != "type"}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert sent["parallel_tool_calls"] is False


def test_tool_calls_and_an_early_end_come_back(
    proxied: str, upstream: ScriptedUpstream, client: Client
) -> None:
    answer = completion(None)  # type: ignore[arg-type]
    answer["choices"][0] |= {"finish_reason": "tool_calls"}
    answer["choices"][0]["message"] |= {"tool_calls": [CALL], "reasoning_content": "hm"}
    upstream.answers(Reply.json(answer))
    thought, call = client(proxied).responses.create(model="ours", input="Hi").output
    assert thought.type == "reasoning" and thought.content and thought.content[0].text == "hm"
    assert call.type == "function_call" and (call.call_id, call.arguments) == ("c1", '{"at":"sea"}')
    short = completion("Hel")
    short["choices"][0]["finish_reason"] = "length"
    upstream.answers(Reply.json(short))
    got = client(proxied).responses.create(model="ours", input="Hi")
    assert got.status == "incomplete" and got.incomplete_details
    assert got.incomplete_details.reason == "max_output_tokens"


def test_a_stream(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    """The client's own accumulator agrees with what was sent, and has text while the upstream is held."""
    gate = Gate()
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9}}\n\n'
    pieces: list[bytes | Gate] = [
        chunk(role="assistant", reasoning_content="hm"),
        chunk("Hel"),
        gate,
        chunk("lo"),
        chunk(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"at":'}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '"sea"}'}}]),
        chunk(finish="tool_calls"),
        usage,
        DONE,
    ]
    upstream.answers(Reply.sse(*pieces))
    with client(proxied).responses.stream(model="ours", input="Hi") as stream:
        events = []
        for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                assert gate.reached.wait(LIMIT)
                gate.open.set()
        final = stream.get_final_response()
    kinds = [e.type for e in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert [e.delta for e in events if e.type == "response.output_text.delta"] == ["Hel", "lo"]
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 3
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "Hello"
    assert final.output[2].arguments == '{"at":"sea"}'  # type: ignore[union-attr]
    assert final.usage is not None and final.usage.output_tokens == 9


def test_errors(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    upstream.answers(
        Reply.json({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "3"})
    )
    with pytest.raises(RateLimitError, match="slow down"):
        client(proxied).responses.create(model="ours", input="Hi")
    upstream.answers(Reply.sse(chunk("begun"), cut=True))
    *_, error, failed = client(proxied).responses.create(model="ours", input="Hi", stream=True)
    assert error.type == "error" and "broke off" in error.message
    assert failed.type == "response.failed" and failed.response.status == "failed"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"role": "bot", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input.0.content.0"),
        ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "Hi", "background": True}, "background"),
        ({"input": "Hi", "tools": [{"type": "web_search"}]}, "tools.0"),
        ({"input": "Hi", "tools": TOOLS, "tool_choice": 3}, "tool_choice"),
        ({"input": "Hi", "text": "plain"}, "text"),
        ({"input": "Hi", "instructions": 3}, "instructions"),
    ],
)
def test_a_bad_field_is_named(proxied: str, body: dict[str, Any], param: str) -> None:
    response = httpx.post(f"{proxied}/v1/responses", json={"model": "ours", **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_embeddings_go_through(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]
    whole = {
        "object": "list",
        "data": data,
        "model": "theirs",
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
    upstream.answers(Reply.json({**whole, "extra": 1}))
    got = client(proxied).embeddings.create(model="ours", input=["a"], dimensions=2, encoding_format="float")
    assert got.data[0].embedding == [0.5, -1.0]
    assert upstream.last.path == "/v1/embeddings"
    assert upstream.last.body == {
        "model": "theirs",
        "input": ["a"],
        "dimensions": 2,
        "encoding_format": "float",
    }


def test_an_engine_of_our_own_does_not_embed(scripted_server: str) -> None:
    response = httpx.post(f"{scripted_server}/v1/embeddings", json={"model": "scripted", "input": "a"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")


@pytest.mark.parametrize("given", ["a few words", ["a few words", "others"]])
def test_the_stores_embedder_is_there_for_all(
    serving: Callable[..., Any], client: Client, tmp_path: Path, given: Any
) -> None:
    """The official client asks for base64 by itself, and for plain numbers when told to."""
    stores = Stores(tmp_path, word_embedder())
    with serving(ScriptedEngine(), stores=stores) as url:
        api = client(url)
        assert "words" in [m.id for m in api.models.list()]
        packed = api.embeddings.create(model="words", input=given).data
        plain = api.embeddings.create(model="words", input=given, encoding_format="float").data
        assert [d.embedding for d in packed] == [d.embedding for d in plain]
        assert len(packed) == (1 if isinstance(given, str) else 2)
        assert sum(x * x for x in packed[0].embedding) == pytest.approx(1, abs=1e-5)
        for field, value in (("input", []), ("input", [1, 2]), ("dimensions", 3), ("encoding_format", "x")):
            body = {"model": "words", "input": given, field: value}
            refused = httpx.post(f"{url}/v1/embeddings", json=body)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
