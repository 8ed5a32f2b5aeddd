"""OpenAI's Responses API over the same pipeline, through the official client; and embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI, RateLimitError
from upstream_fixtures import DONE, LIMIT, Gate, Reply, ScriptedUpstream, chunk, completion

from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
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


def test_images_and_files_of_a_tools_output_follow_as_the_users(
    proxied: str, upstream: ScriptedUpstream, client: Client
) -> None:
    """After all outputs, which must come right after their calls."""
    text = {"type": "input_text", "text": "see"}
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBO", "detail": "low"}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}
    items: Any = [
        {"role": "user", "content": "Hi"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [text, image]},
        {"type": "function_call_output", "call_id": "c2", "output": [file]},
        {"role": "user", "content": "Well?"},
    ]
    client(proxied).responses.create(model="ours", input=items)
    sent = upstream.last.body["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool", "user", "user"]
    assert [m["content"] for m in sent[2:4]] == ["see", ""]
    shown = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
    ]
    assert sent[4]["content"] == shown
    client(proxied).responses.create(model="ours", input=items[:5])
    assert upstream.last.body["messages"][-1] == {"role": "user", "content": shown}
    bad = {"model": "ours", "input": [{**items[3], "output": [{"type": "input_image", "file_id": "f"}]}]}
    refused = httpx.post(f"{proxied}/v1/responses", json=bad).json()["error"]
    assert refused["param"] == "input.0.output.0.file_id" and "keeps no files" in refused["message"]


def _logprob(token: str) -> dict[str, Any]:
    top = [{"token": token, "logprob": -0.5, "bytes": None}, {"token": "x", "logprob": -2.0}]
    return {"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": top}


@pytest.mark.parametrize(
    "asked",
    [{"top_logprobs": 2}, {"include": ["message.output_text.logprobs"]}, {}],
    ids=["top", "include", "neither"],
)
def test_log_probabilities(
    proxied: str, upstream: ScriptedUpstream, client: Client, asked: dict[str, Any]
) -> None:
    steps = {"content": [_logprob("Hel"), _logprob("lo")]}
    whole = completion()
    whole["choices"][0]["logprobs"] = steps
    upstream.answers(Reply.json(whole))
    answer = client(proxied).responses.create(model="ours", input="Hi", **asked)
    assert bool(upstream.last.body.get("logprobs")) == bool(asked)
    part = answer.output[0].content[0]
    told = [(p.token, p.logprob, p.bytes, [t.token for t in p.top_logprobs]) for p in part.logprobs]
    expected = [("Hel", -0.5, [72, 101, 108], ["Hel", "x"]), ("lo", -0.5, [108, 111], ["lo", "x"])]
    assert told == (expected if asked else [])

    def event(step: dict[str, Any]) -> bytes:
        choice = {"index": 0, "delta": {"content": step["token"]}, "logprobs": {"content": [step]}}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

    upstream.answers(Reply.sse(*map(event, steps["content"]), chunk(finish="stop"), DONE))
    deltas, done = [], []
    with client(proxied).responses.stream(model="ours", input="Hi", **asked) as stream:
        for each in stream:
            if each.type == "response.output_text.delta":
                deltas.append([p.token for p in each.logprobs])
            elif each.type == "response.output_text.done":
                done += [p.token for p in each.logprobs]
        final = stream.get_final_response()
    assert (deltas, done) == (([["Hel"], ["lo"]], ["Hel", "lo"]) if asked else ([[], []], []))
    assert len(final.output[0].content[0].logprobs) == len(done)  # type: ignore[union-attr,arg-type,index]


def test_a_custom_tool_takes_and_gives_text(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    """The model sees a function with one text; the client sees its own kind of call, streamed too."""
    tools: Any = [{"type": "custom", "name": "run", "description": "Runs code."}]
    arguments = json.dumps({"input": 'print("hi")'})
    call = {"id": "c1", "type": "function", "function": {"name": "run", "arguments": arguments}}
    answer = completion(None)  # type: ignore[arg-type]
    answer["choices"][0]["message"]["tool_calls"] = [call]
    upstream.answers(Reply.json(answer))
    asked: Any = {"model": "ours", "tools": tools, "tool_choice": {"type": "custom", "name": "run"}}
    (got,) = client(proxied).responses.create(input="Hi", **asked).output
    assert got.type == "custom_tool_call" and (got.call_id, got.name, got.input) == (
        "c1",
        "run",
        'print("hi")',
    )
    sent = upstream.last.body
    assert sent["tools"][0]["function"]["parameters"]["required"] == ["input"]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "run"}}
    halves = [{"name": "run", "arguments": arguments[:7]}, {"arguments": arguments[7:]}]
    pieces = [chunk(tool_calls=[{"index": 0, "id": "c1", "function": half}]) for half in halves]
    upstream.answers(Reply.sse(*pieces, chunk(finish="tool_calls"), DONE))
    with client(proxied).responses.stream(input="Hi", **asked) as stream:
        events = list(stream)
        (final,) = stream.get_final_response().output
    assert "".join(e.delta for e in events if e.type == "response.custom_tool_call_input.delta") == got.input
    assert not any("function_call_arguments" in e.type for e in events)
    assert final.type == "custom_tool_call" and final.input == got.input
    upstream.answers(Reply.json(completion()))
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "hi"}
    client(proxied).responses.create(input=[got.to_dict(), output], **asked)  # type: ignore[list-item]
    assert upstream.last.body["messages"] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**call, "function": {"name": "run", "arguments": '{"input":"print(\\"hi\\")"}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "hi"},
    ]


@pytest.mark.parametrize(
    ("tool", "param", "words"),
    [
        ({"type": "local_shell"}, "tools.0", "a tool of the client's"),
        ({"type": "apply_patch"}, "tools.0", "a tool of the client's"),
        ({"type": "web_search"}, "tools.0", "is not one that a client runs"),
        ({"type": "mcp"}, "tools.0", "is not one that a client runs"),
        ({"type": "custom", "name": "x", "format": {"type": "grammar"}}, "tools.0.format", "free text"),
    ],
)
def test_tools_that_cant_be_functions(proxied: str, tool: dict[str, Any], param: str, words: str) -> None:
    body = {"model": "ours", "input": "Hi", "tools": [tool]}
    refused = httpx.post(f"{proxied}/v1/responses", json=body).json()["error"]
    assert refused["param"] == param and words in refused["message"] and "OpenAI" not in refused["message"]


def test_only_the_allowed_tools_are_there(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    tools: Any = [TOOLS[0], {**TOOLS[0], "name": "other"}]
    allowed: Any = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "look"}],
    }
    client(proxied).responses.create(model="ours", input="Hi", tools=tools, tool_choice=allowed)
    sent = upstream.last.body
    assert [t["function"]["name"] for t in sent["tools"]] == ["look"] and sent["tool_choice"] == "required"
    allowed["tools"] = [{"type": "function", "name": "nobody"}]
    body = {"model": "ours", "input": "Hi", "tools": tools, "tool_choice": allowed}
    assert httpx.post(f"{proxied}/v1/responses", json=body).json()["error"]["param"] == "tool_choice.tools"


def test_only_the_last_item_is_cut_short(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    upstream.answers(Reply.sse(chunk(reasoning_content="hm"), chunk("Hel"), chunk(finish="length"), DONE))
    events = list(client(proxied).responses.create(model="ours", input="Hi", stream=True))
    done = [e.item.status for e in events if e.type == "response.output_item.done"]  # type: ignore[union-attr]
    final = events[-1]
    assert final.type == "response.incomplete"
    assert done == [item.status for item in final.response.output] == ["completed", "incomplete"]  # type: ignore[union-attr]
