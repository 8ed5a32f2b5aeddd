"""Paths of our own and ways around them; keys and faults on all others."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable

import httpx
import pytest
from openai import OpenAI
from upstream_fixtures import (
    LIMIT,
    Proxy,
    Reply,
    ScriptedUpstream,
    before,
    completion,
)

from heedful.server.config import Config

CLIENT = httpx.Client(timeout=LIMIT)
Client = Callable[[str], OpenAI]
KEY = "sk-client-0123456789"
BYTES = bytes(range(256)) * 4000
UNALIGNED = ("x-heedful-alignment", "none")


def unaligned(response: httpx.Response) -> bool:
    return (UNALIGNED[0], UNALIGNED[1]) in response.headers.multi_items()


# -- our own paths, and ways around them

OURS = ["chat/completions", "completions", "responses", "messages", "embeddings", "models/x", "moderations"]


def test_our_own_paths_are_never_the_upstreams(proxied: str, upstream: ScriptedUpstream) -> None:
    for path in OURS:
        wrong = CLIENT.request("DELETE", f"{proxied}/v1/{path}")
        assert wrong.status_code == 405, path
        for written in (f"//{path}", f"/{path}//", f"/{path.upper()}", f"/./{path}", f"/x/../{path}"):
            response = raw_get(proxied, f"/v1{written}")
            assert response.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), (written, response)
    for path in (
        "alignment/nothing",
        "alignment",
        "v1/chat/completions",
        "v1/files",
        "alignment/stores/x/y/z",
    ):
        assert CLIENT.post(f"{proxied}/v1/{path}", json={"model": "ours"}).status_code in (404, 405), path
    assert not upstream.asked
    moved = CLIENT.post(f"{proxied}/v1/chat/completions/?a=b", json={})
    assert moved.status_code == 307 and moved.headers["location"].endswith("/v1/chat/completions?a=b")
    assert CLIENT.options(f"{proxied}/v1/files").status_code == 405 and not upstream.asked


def raw_get(url: str, path: str) -> bytes:
    """The path as it is written: clients tidy them up."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as asking:
        asking.settimeout(LIMIT)
        asking.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = b""
        while piece := asking.recv(1 << 16):
            answer += piece
        return answer


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/v1/files/../../admin",
        "/v1/%2e%2e/admin",
        "/v1/..%2fadmin",
        "/v1/%252e%252e/admin",
        "/v1/%25252e%25252e%25252fadmin",
        "/v1/files/.%2E/x",
        "/v1/..;/admin",
        "/v1/..;x=1/admin",
        "/v1/files\\..\\x",
        "/v1/files/..%5cx",
        "/v1/files/%00",
        "/v1/files/a%0d%0aHost:%20evil",
        "/v1/files//x",
        "/v1/",
        "/v1/.",
        "/%761/files",
        "/v1/%2fetc",
        "/v1/%2525252525252e/x",
    ],
)
def test_paths_that_climb_are_refused(proxied: str, upstream: ScriptedUpstream, path: str) -> None:
    answer = raw_get(proxied, path)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")), answer
    assert b'"error"' in answer and not upstream.asked


def test_websockets_are_refused_in_words(proxied: str, upstream: ScriptedUpstream) -> None:
    host, port = proxied.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as asking:
        asking.settimeout(LIMIT)
        asking.sendall(
            b"GET /v1/realtime?model=ours HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        answer = b""
        while b"websockets" not in answer and (piece := asking.recv(1 << 16)):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400") and b"websockets" in answer and not upstream.asked


# -- keys, faults


def test_keys(upstream: ScriptedUpstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", KEY)
    monkeypatch.setenv("THERE", "sk-upstream-987654321")
    mine = {"authorization": f"Bearer {KEY}"}
    with proxy(Config(upstreams=[before(upstream)])) as url:
        for headers in (mine, {"x-api-key": KEY}):
            CLIENT.get(f"{url}/v1/files", headers={**headers, "cookie": "a=b", "x-secret": "s"})
            assert upstream.last.headers["authorization"] == f"Bearer {KEY}"
            assert not {"cookie", "x-secret", "x-api-key"} & set(upstream.last.headers)
    with proxy(Config(upstreams=[before(upstream, api_key_env="THERE")], api_key_env="HERE")) as url:
        upstream.asked.clear()
        assert CLIENT.get(f"{url}/v1/files").status_code == 401 and not upstream.asked
        assert CLIENT.get(f"{url}/v1/files", headers=mine).status_code == 200
        assert upstream.last.headers["authorization"] == "Bearer sk-upstream-987654321"
        told = {
            "error": {"message": "bad key sk-upstream-987654321", "type": "t", "code": "c", "param": None}
        }
        upstream.answers(Reply.json(told, status=403))
        refused = CLIENT.get(f"{url}/v1/files", headers=mine)
        assert refused.status_code == 403 and "bad key ***" in refused.text and unaligned(refused)


def test_faults(proxied: str, upstream: ScriptedUpstream) -> None:
    for status in (400, 404, 409, 429, 500, 503):
        error = {"message": "their words", "type": "t", "param": "p", "code": "c"}
        upstream.answers(Reply.json({"error": error}, status=status, headers={"retry-after": "7"}))
        response = CLIENT.post(f"{proxied}/v1/rerank", json={"model": "ours"})
        assert (response.status_code, response.json()) == (status, {"error": error})
        assert response.headers["retry-after"] == "7" and unaligned(response)
    response = CLIENT.post(f"{proxied}/v1/messages/batches", json={"requests": []})
    assert response.status_code == 503 and response.json()["type"] == "error"
    upstream.answers(Reply(verbatim=b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n"))
    assert CLIENT.get(f"{proxied}/v1/files").status_code == 502
    upstream.answers(Reply.json({}, headers={"x-odd": "a\x01b"}))
    assert CLIENT.get(f"{proxied}/v1/files").status_code == 502
    upstream.answers(Reply([b"begun"], 200, {"content-type": "audio/mpeg"}, cut=True))
    with pytest.raises(httpx.RemoteProtocolError):  # never as if it were whole
        CLIENT.post(f"{proxied}/v1/audio/speech", json={"model": "ours"})


def test_tried_again_where_that_repeats_nothing(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    with proxy(Config(upstreams=[before(upstream, retries=1, max_retry_wait=0.01)])) as url:
        upstream.hang_up_next = 1
        assert CLIENT.post(f"{url}/v1/rerank", json={"model": "ours"}).status_code == 200
        assert len({a.raw for a in upstream.asked}) == 1 and len(upstream.asked) == 2
        upstream.hang_up_next = 1
        streamed = CLIENT.post(f"{url}/v1/files", content=b"x", headers={"content-type": "audio/wav"})
        assert streamed.status_code == 503  # what has gone by can't be sent again


def test_encoded_bodies(proxied: str, upstream: ScriptedUpstream) -> None:
    """What must be read for its model is unpacked, what passes passes as it is."""

    def send(kind: str, content: bytes, coding: str = "gzip") -> int:
        headers = {"content-encoding": coding, "content-type": kind}
        return CLIENT.post(f"{proxied}/v1/x", content=content, headers=headers).status_code

    assert send("application/json", gzip.compress(b'{"model": "ours", "x": 1}')) == 200
    assert upstream.last.body == {"model": "theirs", "x": 1}
    assert "content-encoding" not in upstream.last.headers
    form = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nours\r\n--B--\r\n'
    assert send("multipart/form-data; boundary=B", gzip.compress(form)) == 200
    assert upstream.last.raw == form.replace(b"ours", b"theirs")
    assert "content-encoding" not in upstream.last.headers
    sound = gzip.compress(BYTES)
    assert send("audio/wav", sound) == 200
    assert (upstream.last.raw, upstream.last.headers["content-encoding"]) == (sound, "gzip")
    count = len(upstream.asked)
    assert send("application/json", b"\x1f\x8b") == 400
    assert send("application/json", b"{}", "odd") == 415
    assert send("application/json", gzip.compress(bytes(80 << 20))) == 413
    assert len(upstream.asked) == count


def test_json_of_the_client_stays_its_bytes(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    odd = b'{ "model":"theirs", "seed":1.0, "big":12345678901234567890123 }'
    with proxy(Config(upstreams=[before(upstream, models=["theirs"])])) as url:
        CLIENT.post(f"{url}/v1/rerank", content=odd)
    assert upstream.last.raw == odd
    assert json.loads(odd)["model"] == completion()["model"]
