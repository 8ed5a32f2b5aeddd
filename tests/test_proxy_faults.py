"""What goes wrong upstream is told as it is, and never becomes something else."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from openai import APIError, OpenAI, RateLimitError
from upstream_fixtures import (
    DONE,
    LIMIT,
    Asked,
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
ALIGNED = pytest.mark.parametrize("alignment", ["direct", "principles", [{"principles": {"mode": "cot"}}]])
READ = {"name": "principles", "trace": True}
"""An alignment under which every event is read here, and none passed through."""


def ask(url: str, path: str = "chat/completions", **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{path}", json={"model": "ours", "messages": HI, "prompt": "Hi", **more})


# -- refusals


@ALIGNED
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429, 500, 502, 503, 529])
def test_a_refusal_keeps_its_status_words_and_headers(
    proxied: str, upstream: ScriptedUpstream, status: int, stream: bool, alignment: Any
) -> None:
    error = {"message": "their words", "type": "their_type", "param": "p", "code": "their_code", "more": [1]}
    headers = {"retry-after": "7", "x-ratelimit-remaining-requests": "0", "x-request-id": "r1"}
    upstream.answers(Reply.json({"error": error}, status=status, headers=headers))
    response = ask(proxied, stream=stream, alignment=alignment)
    assert response.status_code == status
    assert response.json() == {"error": error}
    assert {name: response.headers[name] for name in headers} == headers
    assert len(upstream.asked) == 1


def test_the_official_client_sees_a_rate_limit_as_one(
    proxied: str, upstream: ScriptedUpstream, client: Client
) -> None:
    error = {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}
    upstream.answers(Reply.json({"error": error}, status=429, headers={"retry-after": "2"}))
    with pytest.raises(RateLimitError, match="slow down") as caught:
        client(proxied).chat.completions.create(model="ours", messages=HI)
    assert caught.value.response.headers["retry-after"] == "2" and caught.value.code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"loc":["body"],"msg":"bad"}]}', '"msg":"bad"'),
        (b'{"object":"error","message":"flat","type":"x"}', "flat"),
        (b'{"error":"just text"}', "just text"),
        (b'{"error":{"code":3}}', '"code":3'),
        (b"plain words", "plain words"),
        (b"", "HTTP 503"),
        (b"[1]", "HTTP 503"),
        (b"\xff\xfe", "HTTP 503"),
    ],
)
def test_errors_of_other_shapes_are_told_in_openais(
    proxied: str, upstream: ScriptedUpstream, body: bytes, words: str
) -> None:
    upstream.answers(Reply([body], 503, {"content-type": "application/json"}))
    response = ask(proxied)
    assert response.status_code == 503
    assert words in response.json()["error"]["message"]
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


PAGE = (
    b"<!DOCTYPE html><html><head><title>x</title><style>b{}</style></head>"
    b"<body><h1>502 Bad&nbsp;Gateway</h1><script>alert(1)</script></body></html>"
)


@ALIGNED
@pytest.mark.parametrize("stream", [False, True])
def test_html_pages_become_errors(
    proxied: str, upstream: ScriptedUpstream, stream: bool, alignment: Any
) -> None:
    """With an error status, and with a cheerful 200."""
    for status, told in ((502, 502), (200, 502)):
        upstream.answers(Reply([PAGE], status, {"content-type": "text/html"}))
        response = ask(proxied, stream=stream, alignment=alignment)
        assert response.status_code == told
        assert response.headers["content-type"] == "application/json"
        message = response.json()["error"]["message"]
        assert "<" not in message and "alert" not in message


@pytest.mark.parametrize("alignment", ["direct", READ])
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"3",
        b"",
        b'{"choices": "none"}',
        b'{"choices": [3]}',
        b'{"choices":[{"message":3}]}',
        b'{"id":"x"}',
    ],
)
def test_nonsense_is_the_upstreams_fault_and_blocks_nobody(
    proxied: str, upstream: ScriptedUpstream, alignment: Any, body: bytes
) -> None:
    upstream.answers(Reply([body], 200, {"content-type": "application/json"}, length=True))
    response = ask(proxied, alignment=alignment)
    if alignment == "direct" and body.startswith(b'{"'):
        assert response.content == body  # an object goes through as it is
    else:
        assert response.status_code == 502
        assert response.json()["error"]["code"] == "upstream_invalid"
    upstream.answers(Reply.json(completion("fine")))
    for _ in range(3):
        assert ask(proxied, alignment=alignment).json()["choices"][0]["message"]["content"] == "fine"


@pytest.mark.parametrize("alignment", ["direct", READ])
def test_an_error_in_the_clothes_of_a_success(
    proxied: str, upstream: ScriptedUpstream, alignment: Any
) -> None:
    upstream.answers(Reply.json({"error": {"message": "no credits", "code": 402}}))
    response = ask(proxied, alignment=alignment)
    assert response.status_code == 402 and response.json()["error"]["message"] == "no credits"


def test_redirects_are_not_followed(proxied: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply([b""], 307, {"location": "http://127.0.0.1:9/elsewhere"}))
    response = ask(proxied)
    assert response.status_code == 502 and "final URL" in response.json()["error"]["message"]


# -- streams that break


@pytest.mark.parametrize("alignment", ["direct", READ])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("half", [b"", b'data: {"choices":[{"ind', b"data", chunk("x")[:-1]])
def test_a_broken_stream_ends_in_an_error(
    proxied: str, upstream: ScriptedUpstream, client: Client, alignment: Any, cut: bool, half: bytes
) -> None:
    """Reset in the middle, or ended as if all were well but without [DONE]."""
    upstream.answers(Reply.sse(chunk("begun"), *([half] if half else []), cut=cut))
    stream = client(proxied).chat.completions.create(
        model="ours", messages=HI, stream=True, extra_body={"alignment": alignment}
    )
    pieces = []
    with pytest.raises(APIError, match="broke off"):
        for piece in stream:
            pieces.append(piece.choices[0].delta.content)
    assert pieces == ["begun"]
    response = ask(proxied, stream=True, alignment=alignment)
    assert response.status_code == 200 and "[DONE]" not in response.text
    last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "upstream_broken"


@pytest.mark.parametrize("alignment", ["direct", READ])
def test_an_error_event_inside_a_stream_reaches_the_client(
    proxied: str, upstream: ScriptedUpstream, client: Client, alignment: Any
) -> None:
    error = b'data: {"error":{"message":"overloaded inside","type":"server_error","code":500}}\n\n'
    upstream.answers(Reply.sse(chunk("begun"), error))
    stream = client(proxied).chat.completions.create(
        model="ours", messages=HI, stream=True, extra_body={"alignment": alignment}
    )
    with pytest.raises(APIError, match="overloaded inside"):
        list(stream)


@pytest.mark.parametrize("alignment", ["direct", READ])
def test_a_stream_that_breaks_before_its_first_byte_is_a_plain_error(
    proxied: str, upstream: ScriptedUpstream, alignment: Any
) -> None:
    for cut in (False, True):
        upstream.answers(Reply.sse(cut=cut))
        response = ask(proxied, stream=True, alignment=alignment)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_broken")


def test_a_body_that_breaks_off(proxied: str, upstream: ScriptedUpstream) -> None:
    whole = json.dumps(completion()).encode()
    upstream.answers(Reply([whole[:40]], 200, {"content-type": "application/json"}, cut=True))
    for alignment in ("direct", "principles", READ):
        response = ask(proxied, alignment=alignment)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_broken")


def test_done_without_its_blank_line_is_done(
    proxied: str, upstream: ScriptedUpstream, client: Client
) -> None:
    upstream.answers(Reply.sse(*streamed("ok")[:-1], b"data: [DONE]"))
    for alignment in ("direct", READ):
        stream = client(proxied).chat.completions.create(
            model="ours", messages=HI, stream=True, extra_body={"alignment": alignment}
        )
        assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "ok"


def test_an_upstream_that_does_not_stream(proxied: str, upstream: ScriptedUpstream) -> None:
    """Its whole answer goes out whole: a stream is never acted out."""
    upstream.answers(Reply.json(completion("whole")))
    assert ask(proxied, stream=True).json() == completion("whole")


# -- time

# Deadlines to try one after another: on a busy machine the first passes before the request is where a test wants it.
PATIENCE = (0.3, 3.0, 30.0, 300.0)


@pytest.mark.parametrize("alignment", ["direct", "principles", READ])
@pytest.mark.parametrize("stream", [False, True])
def test_a_silent_upstream(upstream: ScriptedUpstream, proxy: Proxy, alignment: Any, stream: bool) -> None:
    gate = Gate()
    upstream.answers(Reply.sse(gate))
    with proxy(Config(upstreams=[before(upstream, read_timeout=0.1)])) as url:
        response = ask(url, stream=stream, alignment=alignment)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
    gate.open.set()


@pytest.mark.parametrize("alignment", ["direct", READ])
def test_a_drip_without_end_meets_the_deadline(
    upstream: ScriptedUpstream, proxy: Proxy, alignment: Any
) -> None:
    def drip() -> Iterator[bytes]:
        yield from [b": still here\n\n"] * 3
        yield chunk("x")
        while True:
            yield b": still here\n\n"

    upstream.answers(lambda asked: Reply(drip(), 200, {"content-type": "text/event-stream"}))
    for seconds in PATIENCE:
        with proxy(Config(upstreams=[before(upstream)], request_timeout=seconds)) as url:
            text = ask(url, stream=True, alignment=alignment).text
            assert '"deadline_exceeded"' in text and "[DONE]" not in text
        if upstream.asked:
            break
    assert upstream.hung_up.acquire(timeout=LIMIT)


def test_the_deadline_covers_hidden_calls(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    for seconds in PATIENCE:
        gate = Gate()

        async def second_hangs(asked: Asked, gate: Gate = gate) -> Reply:
            if len(upstream.asked) > 1:
                await gate.wait()
            return Reply.json(completion("thought"))

        upstream.reset()
        upstream.answers(second_hangs)
        with proxy(Config(upstreams=[before(upstream)], request_timeout=seconds)) as url:
            response = ask(url, alignment=[{"principles": {"mode": "cot"}}])
            assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        if len(upstream.asked) == 2:
            break
    assert gate.reached.is_set() and upstream.hung_up.acquire(timeout=LIMIT)
    gate.open.set()


def test_nobody_listens(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    dead: Any = {
        "url": f"http://127.0.0.1:{port}/v1",
        "models": ["ours"],
        "capabilities": ["chat"],
        "retries": 1,
    }
    with proxy(Config(upstreams=[dead])) as url:
        response = ask(url)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    assert "can't be reached" in response.json()["error"]["message"]


# -- the client leaves


@pytest.mark.parametrize("alignment", ["direct", "principles", READ, [{"principles": {"mode": "cot"}}]])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_ends_the_call_upstream(
    proxied: str, upstream: ScriptedUpstream, alignment: Any, stream: bool, begun: bool
) -> None:
    gate = Gate()
    first = [chunk("x")] if stream else [b'{"id":']
    kind = "text/event-stream" if stream else "application/json"
    upstream.answers(Reply([*(first if begun else []), gate], 200, {"content-type": kind}))
    host, port = proxied.removeprefix("http://").split(":")
    body = json.dumps({"model": "ours", "messages": HI, "stream": stream, "alignment": alignment}).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert gate.reached.wait(LIMIT)
    assert upstream.hung_up.acquire(timeout=LIMIT), "the upstream was left running"
    gate.open.set()


# -- size


def test_a_huge_answer_goes_through_whole(proxied: str, upstream: ScriptedUpstream) -> None:
    text = "ü" * 3_000_000
    upstream.answers(Reply.json(completion(text)))
    for alignment in ("direct", READ):
        assert ask(proxied, alignment=alignment).json()["choices"][0]["message"]["content"] == text
    upstream.answers(Reply.sse(chunk(text), DONE))
    for alignment in ("direct", READ):
        assert text in ask(proxied, stream=True, alignment=alignment).content.decode()


def test_an_answer_beyond_all_measure_is_refused(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    upstream.answers(Reply.json(completion("x" * 10_000)))
    with proxy(Config(upstreams=[before(upstream, max_response_bytes=5000)])) as url:
        response = ask(url, alignment=READ)
        assert response.status_code == 502 and "more than 5000 bytes" in response.json()["error"]["message"]
        upstream.answers(Reply.sse(b"data: " + b"x" * 10_000, b"\n\n", DONE))
        assert ask(url, stream=True, alignment=READ).status_code == 502


# -- secrets

KEY, OWN = "sk-client-0123456789", "sk-server-9876543210"


def test_the_clients_key_goes_upstream(proxied: str, upstream: ScriptedUpstream) -> None:
    for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        httpx.post(
            f"{proxied}/v1/chat/completions",
            json={"model": "ours", "messages": HI, "alignment": [{"principles": {"mode": "cot"}}]},
            headers={**headers, "cookie": "a=b", "x-secret": "s", "x-request-id": "r7"},
        )
        for asked in upstream.asked:
            assert asked.headers["authorization"] == f"Bearer {KEY}"
            assert asked.headers["x-request-id"] == "r7"
            assert not {"cookie", "x-secret", "x-api-key"} & set(asked.headers)
        upstream.asked.clear()


def test_or_the_servers_own(
    upstream: ScriptedUpstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", OWN)
    monkeypatch.setenv("ORG", "org-1")
    (tmp_path / "key").write_text(f"{OWN}\n")
    for source in ({"api_key_env": "UPSTREAM_KEY"}, {"api_key_file": tmp_path / "key"}):
        with proxy(Config(upstreams=[before(upstream, headers={"x-org": "${ORG}"}, **source)])) as url:
            httpx.post(
                f"{url}/v1/chat/completions",
                json={"model": "ours", "messages": HI},
                headers={"authorization": f"Bearer {KEY}"},
            )
        assert upstream.last.headers["authorization"] == f"Bearer {OWN}"
        assert upstream.last.headers["x-org"] == "org-1"


def test_a_key_for_this_server_stays_here(
    upstream: ScriptedUpstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", KEY)
    with proxy(Config(upstreams=[before(upstream)], api_key_env="HERE")) as url:
        for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            body = {"model": "ours", "messages": HI}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200 and "authorization" not in upstream.last.headers


@pytest.mark.parametrize("stream", [False, True])
def test_secrets_are_in_no_error_trace_or_log(
    upstream: ScriptedUpstream,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stream: bool,
) -> None:
    """An upstream that repeats the key it was given, wherever it can."""
    monkeypatch.setenv("UPSTREAM_KEY", OWN)
    caplog.set_level(logging.DEBUG)
    told = f"bad key {OWN} or {KEY}"
    ways = [
        Reply.json({"error": {"message": told, "code": "x", "echo": told}}, status=500),
        Reply([told.encode()], 500),
        Reply.json({"error": {"message": told}}),
        Reply.sse(b'data: {"error":{"message":"%s"}}\n\n' % told.encode()),
    ]
    for forwards in (False, True):
        key = {} if forwards else {"api_key_env": "UPSTREAM_KEY"}
        with proxy(Config(upstreams=[before(upstream, **key)])) as url:
            for way in ways:
                caplog.clear()
                upstream.answers(way)
                response = httpx.post(
                    f"{url}/v1/chat/completions",
                    json={"model": "ours", "messages": HI, "stream": stream, "alignment": READ},
                    headers={"authorization": f"Bearer {KEY}"},
                )
                assert (KEY if forwards else OWN) not in response.text + caplog.text
