"""Paths that are the upstream's alone: forwarded as they are, and nothing slips past an alignment unsaid."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI
from upstream_fixtures import (
    LIMIT,
    Asked,
    Gate,
    Proxy,
    Reply,
    ScriptedUpstream,
    before,
)

from heedful.server.config import Config

CLIENT = httpx.Client(timeout=LIMIT)
Client = Callable[[str], OpenAI]
BYTES = bytes(range(256)) * 4000
UNALIGNED = ("x-heedful-alignment", "none")


def unaligned(response: httpx.Response) -> bool:
    return (UNALIGNED[0], UNALIGNED[1]) in response.headers.multi_items()


# -- the official client


def test_speech_and_transcriptions(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    audio = client(proxied).audio
    upstream.answers(Reply([BYTES[:1000], BYTES[1000:]], 200, {"content-type": "audio/mpeg"}))
    assert audio.speech.create(model="ours", voice="alloy", input="Hello").read() == BYTES
    assert upstream.last.path == "/v1/audio/speech" and upstream.last.body["model"] == "theirs"
    upstream.answers(Reply.json({"text": "Hello"}))
    made = audio.transcriptions.create(model="ours", file=("a.wav", BYTES, "audio/wav"), language="en")
    assert made.text == "Hello"
    raw = upstream.last.raw
    assert BYTES in raw and b"\r\n\r\ntheirs\r\n" in raw and b"\r\n\r\nours\r\n" not in raw
    assert upstream.last.headers["content-type"].startswith("multipart/form-data; boundary=")
    upstream.answers(
        Reply.sse(b'data: {"type":"transcript.text.delta","delta":"He"}\n\n', b"data: [DONE]\n\n")
    )
    events = audio.transcriptions.create(model="ours", file=("a.wav", b"x"), stream=True)
    assert [e.delta for e in events if e.type == "transcript.text.delta"] == ["He"]


def test_an_upstreams_file_is_no_page_of_this_server(proxied: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply([b"<script>1</script>"], 200, {"content-type": "text/html"}))
    answer = CLIENT.get(f"{proxied}/v1/files/file-1/content")
    assert answer.content == b"<script>1</script>" and answer.headers["content-type"] == "text/html"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_files_and_batches(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    api = client(proxied)
    file = {
        "id": "file-1",
        "object": "file",
        "bytes": 3,
        "created_at": 1,
        "filename": "a",
        "purpose": "batch",
    }
    upstream.answers(Reply.json(file))
    assert api.files.create(file=("a.jsonl", BYTES), purpose="batch").id == "file-1"
    assert (upstream.last.method, upstream.last.path) == ("POST", "/v1/files") and BYTES in upstream.last.raw
    upstream.answers(Reply.json({"object": "list", "data": [file], "has_more": False}))
    assert [f.id for f in api.files.list(limit=5, purpose="batch")] == ["file-1"]
    assert upstream.last.method == "GET"
    assert set(upstream.last.path.partition("?")[2].split("&")) == {"limit=5", "purpose=batch"}
    upstream.answers(Reply([BYTES], 200, {"content-type": "application/octet-stream"}, length=True))
    assert api.files.content("file-1").read() == BYTES
    upstream.answers(Reply.json({"id": "file-1", "object": "file", "deleted": True}))
    assert api.files.delete("file-1").deleted and upstream.last.method == "DELETE"
    upstream.answers(Reply.json({"id": "batch-1", "object": "batch"}))
    batch = api.batches.create(
        input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert batch.id == "batch-1" and "model" not in upstream.last.body
    assert (
        api.batches.cancel("batch-1").id == "batch-1" and upstream.last.path == "/v1/batches/batch-1/cancel"
    )


def test_images_and_vector_stores(proxied: str, upstream: ScriptedUpstream, client: Client) -> None:
    api = client(proxied)
    upstream.answers(Reply.json({"created": 1, "data": [{"b64_json": "aGk="}]}))
    assert api.images.generate(model="ours", prompt="a cat").data[0].b64_json == "aGk="  # type: ignore[index]
    edited = api.images.edit(model="ours", image=[("a.png", b"1"), ("b.png", b"2")], prompt="two cats")
    assert edited.created == 1 and upstream.last.raw.count(b"theirs") == 1
    upstream.answers(Reply.json({"id": "vs-1", "object": "vector_store"}))
    assert api.vector_stores.update("vs-1", name="n").id == "vs-1"


# -- as it is


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_every_method_and_query(proxied: str, upstream: ScriptedUpstream, method: str) -> None:
    upstream.answers(Reply.json({"ok": 1}, headers={"x-theirs": "1", "set-cookie": "a=b"}))
    url = f"{proxied}/v1/some/path%2Fwith%20odd?a=%2F..%2F&b=1&b=2&empty="
    response = CLIENT.request(method, url, content=b"raw \x00 bytes", headers={"content-type": "text/plain"})
    assert (response.status_code, response.json()) == (200, {"ok": 1}) and unaligned(response)
    assert response.headers["x-theirs"] == "1" and "set-cookie" not in response.headers
    assert upstream.last.method == method
    assert upstream.last.path == "/v1/some/path%2Fwith%20odd?a=%2F..%2F&b=1&b=2&empty="
    assert upstream.last.raw == b"raw \x00 bytes" and upstream.last.headers["content-type"] == "text/plain"


def test_answers_without_a_body(proxied: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply([b"x" * 77], 200, {"content-type": "a/b"}, length=True))
    head = CLIENT.head(f"{proxied}/v1/files/f/content")
    assert head.status_code == 200 and head.headers["content-length"] == "77" and not head.content
    assert upstream.last.method == "HEAD"
    upstream.answers(Reply([], 204))
    gone = CLIENT.delete(f"{proxied}/v1/files/f")
    assert gone.status_code == 204 and not gone.content and unaligned(gone)
    upstream.answers(Reply([], 304, {"etag": '"1"'}))
    same = CLIENT.get(f"{proxied}/v1/files/f", headers={"if-none-match": '"1"', "range": "bytes=0-1"})
    assert same.status_code == 304 and same.headers["etag"] == '"1"'
    assert upstream.last.headers["if-none-match"] == '"1"' and upstream.last.headers["range"] == "bytes=0-1"
    assert "content-type" not in upstream.last.headers and "content-length" not in upstream.last.headers
    upstream.answers(Reply([], 302, {"location": "https://elsewhere.example/f"}))
    moved = CLIENT.get(f"{proxied}/v1/files/f/content")
    assert moved.status_code == 302 and moved.headers["location"] == "https://elsewhere.example/f"
    assert CLIENT.post(f"{proxied}/v1/files/f", content=b"").status_code == 502


def test_a_list_is_a_body_too(proxied: str, upstream: ScriptedUpstream) -> None:
    assert CLIENT.post(f"{proxied}/v1/rerank", json=[1, "a"]).status_code == 200
    assert upstream.last.body == [1, "a"]
    assert CLIENT.post(f"{proxied}/v1/rerank", content=b"{").status_code == 400
    assert len(upstream.asked) == 1


def test_a_form_without_files(proxied: str, upstream: ScriptedUpstream) -> None:
    CLIENT.post(f"{proxied}/v1/x", data={"model": "ours", "text": "ü &="})
    assert upstream.last.raw == b"model=theirs&text=%C3%BC+%26%3D"
    odd = {"content-type": "application/x-www-form-urlencoded"}  # as curl -d has it
    CLIENT.post(f"{proxied}/v1/x", content=b'{"model": "ours"}', headers=odd)
    assert upstream.last.body == {"model": "theirs"}
    assert CLIENT.post(f"{proxied}/v1/x", data={"model": "ours@principles"}).status_code == 400
    assert CLIENT.post(f"{proxied}/v1/x", data={"model": "ours", "alignment": "urial"}).status_code == 400


# -- streams, both ways


def test_an_answer_goes_out_as_it_comes(proxied: str, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.answers(Reply([b"one", gate, b"two"], 200, {"content-type": "audio/mpeg"}))
    with CLIENT.stream("POST", f"{proxied}/v1/audio/speech", json={"model": "ours"}) as response:
        pieces = response.iter_raw()
        assert next(pieces) == b"one" and not gate.open.is_set()
        gate.open.set()
        assert b"".join(pieces) == b"two"


@pytest.mark.parametrize("kind", ["application/octet-stream", "multipart/form-data; boundary=B"])
def test_a_body_goes_up_as_it_comes(proxy: Proxy, kind: str) -> None:
    """The upstream has the first half while the client still holds the second back."""
    first = b"x" * 1_000_000
    if kind.startswith("multipart"):
        first = (
            b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + first + b"\r\n"
            b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nours\r\n--B\r\n'
            b'Content-Disposition: form-data; name="more"; filename="b"\r\n\r\n'
        )
    second = b"y" * 500_000 + (b"\r\n--B--\r\n" if kind.startswith("multipart") else b"")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        remote: Any = {
            "url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1",
            "models": {"ours": "theirs"},
            "capabilities": ["chat"],
        }
        with listener_models(listener), proxy(Config(upstreams=[remote])) as url:
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as asking:
                asking.settimeout(LIMIT)
                size = len(first) + len(second)
                head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
                asking.sendall(head.encode() + first)
                got, _ = listener.accept()
                with got:
                    got.settimeout(LIMIT)
                    came = b""
                    while b"x" * 1000 not in came or len(came) < 900_000:
                        came += got.recv(1 << 16)
                    asking.sendall(second)
                    while b"y" * 1000 not in came or not came.endswith((b"y", b"--\r\n", b"\r\n0\r\n\r\n")):
                        came += got.recv(1 << 16)
                        if came.count(b"y") >= 500_000 and kind.startswith("application"):
                            break
                    if kind.startswith("multipart"):
                        assert b"theirs" in came and b"transfer-encoding: chunked" in came.lower()
                    got.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
                    assert b"200 OK" in asking.recv(1 << 16)


class listener_models:
    """Answers the one question for the list of models, at start."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def __enter__(self) -> None:
        import threading

        def serve() -> None:
            got, _ = self._listener.accept()
            with got:
                got.recv(1 << 16)
                got.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{"data":[]}')

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(LIMIT)


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_ends_it_upstream(proxied: str, upstream: ScriptedUpstream, begun: bool) -> None:
    gate = Gate()
    upstream.answers(Reply([*([b"one"] if begun else []), gate], 200, {"content-type": "audio/mpeg"}))
    host, port = proxied.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as asking:
        asking.sendall(b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert gate.reached.wait(LIMIT)
    assert upstream.hung_up.acquire(timeout=LIMIT)
    gate.open.set()


def test_limits(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    gate = Gate()
    config = Config(upstreams=[before(upstream)], max_body_bytes=10_000, request_timeout=0.5)
    binary = {"content-type": "application/octet-stream"}
    with proxy(config) as url:
        for content in (b"x" * 10_001, iter([b"x" * 6000, b"x" * 6000])):  # with its length, and without
            response = CLIENT.post(f"{url}/v1/files", content=content, headers=binary)
            assert response.status_code == 413 and response.json()["error"]["code"] == "body_too_large"
        files = {"file": ("a", b"x" * 20_000)}
        assert CLIENT.post(f"{url}/v1/files", files=files).status_code == 413
        assert CLIENT.post(f"{url}/v1/rerank", json={"x": "x" * 20_000}).status_code == 413

        async def late_head(asked: Asked) -> Reply:
            await gate.wait()
            return Reply.json({})

        upstream.answers(late_head)
        late = CLIENT.get(f"{url}/v1/files")
        assert late.status_code == 504 and unaligned(late)
        gate.open.set()


# -- whose, and under which name


@pytest.fixture
def two(upstream: ScriptedUpstream, proxy: Proxy) -> Iterator[str]:
    """Two upstreams, told apart by their address: the one listens as 127.0.0.1, the other as localhost."""
    other = upstream.url.replace("127.0.0.1", "localhost")
    config = [
        before(upstream, models={"a": "aa"}),
        {**before(upstream, models={"b": "bb"}), "url": other},
    ]
    with proxy(Config(upstreams=config)) as url:
        yield url


def test_the_model_chooses_the_upstream(two: str, upstream: ScriptedUpstream) -> None:
    for name, theirs, host in (
        ("a", "aa", "127.0.0.1"),
        ("b", "bb", "localhost"),
        ("b@direct", "bb", "localhost"),
    ):
        assert CLIENT.post(f"{two}/v1/rerank", json={"model": name}).status_code == 200
        assert upstream.last.body == {"model": theirs} and upstream.last.headers["host"].startswith(host)
        for fields in ([("model", name)], [("x", "y"), ("model", name)]):
            files: list[Any] = [("file", ("f", BYTES)), *((n, (None, v)) for n, v in fields)]
            assert CLIENT.post(f"{two}/v1/audio/transcriptions", files=files).status_code == 200
            assert theirs.encode() in upstream.last.raw and BYTES in upstream.last.raw
            assert upstream.last.headers["host"].startswith(host)


def test_without_a_model_the_first_answers_or_the_one_that_is_named(
    two: str, upstream: ScriptedUpstream
) -> None:
    assert CLIENT.get(f"{two}/v1/files").status_code == 200
    assert upstream.last.headers["host"].startswith("127.0.0.1")
    second = upstream.url.replace("127.0.0.1", "localhost").split("/")[2]
    assert CLIENT.get(f"{two}/v1/files", headers={"x-heedful-upstream": second}).status_code == 200
    assert upstream.last.headers["host"] == second
    wrong = CLIENT.get(f"{two}/v1/files", headers={"x-heedful-upstream": "nobody:1"})
    assert wrong.status_code == 400 and second in wrong.json()["error"]["message"]
    not_there = CLIENT.post(f"{two}/v1/rerank", json={"model": "a"}, headers={"x-heedful-upstream": second})
    assert not_there.status_code == 404


def test_an_unknown_model(two: str, upstream: ScriptedUpstream, proxy: Proxy) -> None:
    for send in ({"json": {"model": "gpt-9"}}, {"files": {"model": (None, "gpt-9"), "f": ("f", b"x")}}):
        response = CLIENT.post(f"{two}/v1/rerank", **send)
        assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"
    assert not upstream.asked
    # An upstream whose models nobody restricts may have more than it lists.
    upstream.models = [{"id": "listed"}]
    with proxy(Config(upstreams=[before(upstream, models={})])) as url:
        assert CLIENT.post(f"{url}/v1/audio/speech", json={"model": "whisper"}).status_code == 200
        assert upstream.last.body == {"model": "whisper"}


def test_the_operator_chooses_the_paths(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    for paths, files, audio in (
        (True, 200, 200),
        (False, 404, 404),
        (["audio"], 404, 200),
        (["/v1/files/"], 200, 404),
    ):
        with proxy(Config(upstreams=[before(upstream, other_paths=paths)])) as url:
            assert CLIENT.get(f"{url}/v1/files").status_code == files
            assert CLIENT.post(f"{url}/v1/audio/speech", json={"model": "ours"}).status_code == audio
            assert CLIENT.get(f"{url}/v1/audiobooks").status_code == (200 if paths is True else 404)


def test_a_model_of_our_own_has_no_such_paths(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    from heedful.strategies.scripted import ScriptedEngine

    with proxy(Config(), ScriptedEngine("own")) as url:
        assert CLIENT.get(f"{url}/v1/files").status_code == 404
    with proxy(Config(upstreams=[before(upstream)]), ScriptedEngine("own")) as url:
        assert CLIENT.get(f"{url}/v1/files").status_code == 200
        assert CLIENT.post(f"{url}/v1/rerank", json={"model": "scripted"}).status_code == 404


# -- alignments do not apply, and nobody is left to think so


@pytest.mark.parametrize(
    ("send", "header"),
    [
        ({"json": {"model": "ours@principles"}}, None),
        ({"json": {"model": "ours", "alignment": "urial"}}, None),
        ({"json": {"model": "ours", "alignment": {"pipeline": ["urial"]}}}, None),
        ({"json": {"model": "ours"}}, "principles"),
        ({"files": {"f": ("f", BYTES), "model": (None, "ours@urial")}}, None),
        ({"files": {"alignment": (None, "urial"), "f": ("f", BYTES)}}, None),
        ({"files": {"f": ("f", BYTES), "alignment": (None, "urial")}}, None),
        ({"files": {"model": (None, "ours"), "f": ("f", BYTES), "alignment": (None, "urial")}}, None),
        ({"content": b"x", "headers": {"content-type": "audio/wav"}}, "urial"),
    ],
)
def test_who_asks_for_an_alignment_is_refused(
    proxied: str, upstream: ScriptedUpstream, send: dict[str, Any], header: str | None
) -> None:
    headers = send.pop("headers", {}) | ({"x-alignment": header} if header else {})
    response = CLIENT.post(f"{proxied}/v1/audio/x", headers=headers, **send)
    assert response.status_code == 400 and response.json()["error"]["code"] == "no_alignment_here"
    assert not [a for a in upstream.asked if a.raw.endswith(b"--\r\n")]


def test_direct_is_no_alignment(proxied: str, upstream: ScriptedUpstream) -> None:
    body = {"model": "ours@direct", "alignment": "direct", "query": "q"}
    assert (
        CLIENT.post(f"{proxied}/v1/rerank", json=body, headers={"x-alignment": "direct"}).status_code == 200
    )
    assert upstream.last.body == {"model": "theirs", "query": "q"}


def test_the_official_client_sees_the_refusal(proxied: str, client: Client) -> None:
    with pytest.raises(BadRequestError, match="alignments do not apply"):
        client(proxied).images.generate(model="ours@principles", prompt="a cat")


def test_methods_that_are_not_forwarded_are_told(proxied: str) -> None:
    answer = httpx.options(f"{proxied}/v1/files")
    assert answer.status_code == 405 and "GET" in answer.headers["allow"]
