"""The HTTP edge, over scripted engines: streams, errors, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from openai import APIError, APIStatusError, OpenAI
from waiting import HANG

from heedful.server.config import Config
from heedful.strategies import Call, EngineError, EngineUnavailable, RequestError
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
Client = Callable[[str], OpenAI]

HI: Any = [{"role": "user", "content": "Hi"}]


class Gate:
    """Holds a scripted answer back until the test opens it; knows whether the answer was given up."""

    def __init__(self) -> None:
        self.entered, self.left = threading.Event(), threading.Event()

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    async def wait(self) -> None:
        self._loop, self._open = asyncio.get_running_loop(), asyncio.Event()
        self.entered.set()
        try:
            await self._open.wait()
        finally:
            self.left.set()

    async def reply(self, call: Call) -> str:
        await self.wait()
        return "done"


def test_a_plain_answer(scripted_server: str, client: Client) -> None:
    answer = client(scripted_server).chat.completions.create(model="scripted", messages=HI)
    assert answer.choices[0].message.content == "Hello, world."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens == 15


@pytest.mark.parametrize("alignment", ["direct", "principles", "urial"])
def test_a_stream(scripted_server: str, client: Client, alignment: str) -> None:
    stream = client(scripted_server).chat.completions.create(
        model=f"scripted@{alignment}", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert pieces == ["Hello", ", ", "world", "."]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None and not chunks[-1].choices
    assert len({c.id for c in chunks}) == 1


def test_a_stream_without_usage_ends_plainly(scripted_server: str) -> None:
    body = {"model": "scripted", "messages": HI, "stream": True}
    response = httpx.post(f"{scripted_server}/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all("usage" not in event for event in events)


def test_tokens_leave_as_they_come(serving: Serving, client: Client) -> None:
    """The client holds the first piece while the engine is still held at the second."""
    gate = Gate()

    class Slow(ScriptedEngine):
        async def chat(self, call: Call) -> Any:
            first = True
            async for event in super().chat(call):
                if not first:
                    await gate.wait()
                yield event
                first = False

    with serving(Slow(lambda call: ["one", "two"])) as url:
        with client(url).chat.completions.create(model="scripted", messages=HI, stream=True) as stream:
            assert next(stream).choices[0].delta.content == "one"
            assert gate.entered.wait(HANG)
            gate.open()
            assert next(stream).choices[0].delta.content == "two"


def test_n_choices_are_kept_apart(scripted_server: str, client: Client) -> None:
    answer = client(scripted_server).chat.completions.create(model="scripted", messages=HI, n=2)
    assert [(c.index, c.message.content) for c in answer.choices] == [
        (0, "Hello, world."),
        (1, "Hello, world."),
    ]


def test_completions_under_an_alignment(scripted_server: str, client: Client) -> None:
    api = client(scripted_server)
    answer = api.completions.create(model="scripted@principles", prompt="Hi")
    assert answer.choices[0].text == "Hello, world."
    stream = api.completions.create(model="scripted@principles", prompt="Hi", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == "Hello, world."
    with pytest.raises(APIStatusError, match="echo: only for raw completions"):
        api.completions.create(model="scripted@principles", prompt="Hi", echo=True)


def test_the_trace_is_there_when_asked_for(scripted_server: str) -> None:
    body = {"model": "scripted", "messages": HI, "alignment": {"name": "principles", "trace": True}}
    url = f"{scripted_server}/v1/chat/completions"
    whole = httpx.post(url, json=body).json()["alignment"]
    assert whole["pipeline"] == ["principles", "direct"]
    assert whole["trace"][0]["prompt"] == "principles/hhh@1"
    lines = httpx.post(url, json={**body, "stream": True}).text.strip().split("\n\n")
    last = json.loads(lines[-2].removeprefix("data: "))
    assert last["alignment"]["pipeline"] == ["principles", "direct"] and last["choices"] == []
    assert "alignment" not in httpx.post(url, json={**body, "alignment": "principles"}).json()


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[1]", 400, "invalid_json"),
        (b'"x"', 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"x": "' + b"y" * 3000 + b'"}', 413, "body_too_large"),
    ],
)
def test_bodies_that_are_no_request(serving: Serving, content: bytes, status: int, code: str) -> None:
    with serving(
        ScriptedEngine(), config=Config(max_body_bytes=200_000 if len(content) > 4000 else 2000)
    ) as url:
        for path in ("chat/completions", "completions"):
            response = httpx.post(f"{url}/v1/{path}", content=content)
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages.0"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": HI, "stream": "yes"}, "stream"),
        ({"messages": HI, "stream_options": 3}, "stream_options"),
        ({"messages": HI, "model": 3}, "model"),
    ],
)
def test_a_bad_field_is_named(scripted_server: str, body: dict[str, Any], param: str) -> None:
    response = httpx.post(f"{scripted_server}/v1/chat/completions", json={"model": "scripted", **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_unknown_paths_and_methods(scripted_server: str) -> None:
    assert httpx.get(f"{scripted_server}/v2/x").status_code == 404
    refused = httpx.get(f"{scripted_server}/v1/chat/completions")
    assert (refused.status_code, refused.json()["error"]["type"]) == (405, "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (EngineUnavailable("full", headers={"retry-after": "7"}), 503, "engine_unavailable"),
        (EngineError("broke"), 500, "engine_error"),
        (RequestError("no", param="top_p"), 400, None),
        (KeyError("secret"), 500, "strategy_failed"),
    ],
)
def test_a_failure_before_the_first_token_is_a_plain_error(
    serving: Serving, error: Exception, status: int, code: str | None, stream: bool
) -> None:
    with serving(ScriptedEngine(lambda call: error)) as url:
        body = {"model": "scripted", "messages": HI, "stream": stream}
        response = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert response.headers.get("retry-after") == ("7" if status == 503 else None)
        assert "secret" not in response.text


def test_a_failure_after_it_ends_the_stream_in_an_error(serving: Serving, client: Client) -> None:
    class Breaking(ScriptedEngine):
        async def chat(self, call: Call) -> Any:
            async for event in super().chat(call):
                yield event
                raise EngineError("the engine broke")

    with serving(Breaking("begun")) as url:
        stream = client(url).chat.completions.create(model="scripted", messages=HI, stream=True)
        pieces = []
        with pytest.raises(APIError, match="the engine broke"):
            for chunk in stream:
                pieces.append(chunk.choices[0].delta.content)
        assert pieces == ["begun"]
        body = {"model": "scripted", "messages": HI, "stream": True}
        assert "[DONE]" not in httpx.post(f"{url}/v1/chat/completions", json=body).text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_engine(serving: Serving, stream: bool) -> None:
    gate = Gate()
    engine = ScriptedEngine(gate.reply)
    with serving(engine) as url:
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({"model": "scripted", "messages": HI, "stream": stream}).encode()
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            assert gate.entered.wait(HANG)
        assert gate.left.wait(HANG), "the engine went on after the client had gone"
        assert httpx.get(f"{url}/health").json()["running"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_ended(serving: Serving, stream: bool) -> None:
    gate = Gate()
    for seconds in (0.05, 0.5, 5.0, 50.0):  # on a busy machine the first passes before the engine is reached
        with serving(ScriptedEngine(gate.reply), config=Config(request_timeout=seconds)) as url:
            body = {"model": "scripted", "messages": HI, "stream": stream}
            response = httpx.post(f"{url}/v1/chat/completions", json=body)
            assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        if gate.entered.is_set():
            break
    assert gate.left.wait(HANG)


def test_a_key_is_wanted_where_one_is_set(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sesame")
    with serving(ScriptedEngine(), config=Config(api_key_env="TEST_KEY")) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        refused = httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer wrong"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        given = {"authorization": "Bearer sesame"}
        assert httpx.get(f"{url}/v1/models", headers=given).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "bearer sesame"}, 200),
        ({"authorization": "BEARER   sesame"}, 200),
        ({"x-api-key": "sesame"}, 200),
        ({"authorization": "Bearer of another server", "x-api-key": "sesame"}, 200),
        ({"authorization": "sesame"}, 401),
        ({"authorization": "Basic sesame"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer sesame2", "x-api-key": ""}, 401),
        ({}, 401),
    ],
)
def test_how_a_key_is_given(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], status: int
) -> None:
    monkeypatch.setenv("TEST_KEY", "sesame")
    with serving(ScriptedEngine(), config=Config(api_key_env="TEST_KEY")) as url:
        answer = httpx.get(f"{url}/v1/models", headers=headers)
        assert answer.status_code == status
        assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/v1/models", "/v1/models"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/messages", "/v1/messages"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/api/v1/embeddings", "/v1/embeddings"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/v1/chat/completions", "/v1/chat/completions"),
        ("/alignment/stores/norms/items", "/v1/alignment/stores/norms/items"),
        ("/v1/nothing", None),
        ("/v2/x", None),
        ("/", None),
    ],
)
def test_a_wrong_base_url_is_answered_with_a_hint(scripted_server: str, path: str, meant: str | None) -> None:
    answer = httpx.post(f"{scripted_server}{path}", json={})
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    if meant is None:
        assert "did you mean" not in message
    else:
        assert f"did you mean {meant}?" in message and f"{scripted_server}/v1 " in message


@pytest.mark.parametrize("path", ["/v1", "/v1/"])
def test_the_base_url_itself_is_nothing_to_ask(scripted_server: str, path: str) -> None:
    answer = httpx.get(f"{scripted_server}{path}")
    message = answer.json()["error"]["message"]
    assert (
        answer.status_code == 404
        and f"the base URL itself; OpenAI's clients take {scripted_server}/v1 " in message
    )


def test_metrics_and_version(scripted_server: str) -> None:
    assert "python_info" in httpx.get(f"{scripted_server}/metrics").text
    assert httpx.get(f"{scripted_server}/version").json()["version"]
