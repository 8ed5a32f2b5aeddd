"""An upstream that does not speak HTTP as it should: its fault, told as a 502 with its name, whoever asks."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from upstream_fixtures import LIMIT, Reply, ScriptedUpstream, chunk, completion

CLIENT = httpx.Client(timeout=LIMIT)  # made once: its TLS set-up takes longer than a request
HI: Any = [{"role": "user", "content": "Hi"}]
READ: Any = {"name": "principles", "trace": True}
COT: Any = {"pipeline": [{"principles": {"mode": "cot"}}]}
BEST: Any = {"pipeline": [{"best_of_n": {"n": 2}}]}
REFINE: Any = {"pipeline": [{"refine": {"verifiers": ["toxicity"]}}]}
WAYS = [
    ("chat/completions", "direct"),
    ("chat/completions", "principles"),
    ("chat/completions", READ),
    ("chat/completions", COT),
    ("chat/completions", BEST),
    ("chat/completions", REFINE),
    ("completions", "direct"),
    ("completions", "principles"),
    ("messages", "direct"),
    ("messages", "principles"),
    ("responses", "direct"),
    ("embeddings", None),
]
BODY = json.dumps(completion("fine")).encode()
HEAD = b"content-type: application/json\r\n"


def answer(
    status: bytes = b"200 OK", head: bytes = HEAD, body: bytes = BODY, version: bytes = b"1.1"
) -> Reply:
    length = b"connection: close\r\ncontent-length: %d\r\n" % len(body)
    return Reply(verbatim=b"HTTP/%s %s\r\n%s%s\r\n%s" % (version, status, head, length, body))


NO_ANSWER = {
    "status 600": answer(b"600 Odd"),
    "status 999": answer(b"999 Odd"),
    "status 099": answer(b"099 Odd"),
    "status 42": answer(b"42 Odd"),
    "status 1000": answer(b"1000 Odd"),
    "status words": answer(b"fine OK"),
    "switching protocols": Reply(
        verbatim=b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
    ),
    "no content": Reply(verbatim=b"HTTP/1.1 204 No Content\r\n\r\n"),
    "reset content": Reply(verbatim=b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n"),
    "not modified": Reply(verbatim=b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "redirect": answer(b"301 Moved", HEAD + b"location: http://127.0.0.1:9/\r\n"),
    "redirect without a place": answer(b"302 Found"),
    "length of words": Reply(verbatim=b"HTTP/1.1 200 OK\r\n%scontent-length: many\r\n\r\n%s" % (HEAD, BODY)),
    "negative length": Reply(verbatim=b"HTTP/1.1 200 OK\r\n%scontent-length: -5\r\n\r\n%s" % (HEAD, BODY)),
    "two lengths": answer(head=HEAD + b"content-length: 3\r\n"),
    "length and chunks": answer(head=HEAD + b"transfer-encoding: chunked\r\n"),
    "length too long": Reply(verbatim=b"HTTP/1.1 200 OK\r\n%scontent-length: 9999\r\n\r\n%s" % (HEAD, BODY)),
    "bad chunk": Reply(verbatim=b"HTTP/1.1 200 OK\r\n%stransfer-encoding: chunked\r\n\r\nzz\r\nfoo" % HEAD),
    "NUL in a header": answer(head=HEAD + b"x-odd: a\x00b\r\n"),
    "bare CR in a header": answer(head=HEAD + b"x-odd: a\rx-more: b\r\n"),
    "space in a header's name": answer(head=HEAD + b"x odd: a\r\n"),
    "no colon": answer(head=HEAD + b"nonsense\r\n"),
    "huge header": answer(head=HEAD + b"x-odd: " + b"a" * 100_000 + b"\r\n"),
    "header without end": Reply(verbatim=b"HTTP/1.1 200 OK\r\nx-odd: aaa"),
    "gzip that is none": answer(head=HEAD + b"content-encoding: gzip\r\n"),
    "HTTP/0.9": Reply(verbatim=BODY),
    "garbage": Reply(verbatim=b"\x00\xff\xfe garbage\r\n\r\n"),
    "another protocol": Reply(verbatim=b"SSH-2.0-OpenSSH_9.2\r\n"),
    "nothing but a newline": Reply(verbatim=b"\r\n\r\n"),
}
"""What is no answer at all."""

HARMLESS = {
    "control character": answer(head=HEAD + b"x-odd: a\x01b\r\n"),
    "bytes above ASCII": answer(head=HEAD + "x-odd: Grüße ☃\r\n".encode()),
    "bytes that are no text": answer(head=HEAD + b"x-odd: \xff\xfe\r\n"),
    "a reason beyond ASCII": answer("200 Überaus".encode("latin-1")),
    "an empty reason": answer(b"200"),
    "the same header twice": answer(head=HEAD + b"x-odd: 1\r\nx-odd: 2\r\n"),
    "a folded header": answer(head=HEAD + b"x-odd: a\r\n b\r\n"),
    "two thousand headers": answer(head=HEAD + b"".join(b"x-%d: a\r\n" % i for i in range(2000))),
    "early hints": Reply(verbatim=b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + answer().verbatim),
    "HTTP/1.0": answer(version=b"1.0"),
    "HTTP/1.0 to the end": Reply(verbatim=b"HTTP/1.0 200 OK\r\n%s\r\n%s" % (HEAD, BODY)),
    "to the end": Reply(verbatim=b"HTTP/1.1 200 OK\r\n%s\r\n%s" % (HEAD, BODY)),
    "status 299": answer(b"299 Odd"),
}
"""What is odd, and still an answer; or else a clear refusal."""


def ask(url: str, path: str, alignment: Any, *, stream: bool) -> httpx.Response:
    body: dict[str, Any] = {"model": "ours", "messages": HI, "max_tokens": 9, "stream": stream}
    body["input" if path in ("responses", "embeddings") else "prompt"] = "Hi"
    if alignment is not None:
        body["alignment"] = alignment
    return CLIENT.post(f"{url}/v1/{path}", json=body)


@pytest.mark.parametrize("reply", NO_ANSWER.values(), ids=NO_ANSWER.keys())
def test_what_is_no_answer_is_the_upstreams_fault(
    proxied: str, upstream: ScriptedUpstream, reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    """One name for it on every endpoint, under every alignment, whole and streamed."""
    upstream.answers(reply)
    host = upstream.url.split("/")[2]
    for path, alignment in WAYS:
        for stream in (False, True):
            if path == "embeddings" and stream:
                continue
            response = ask(proxied, path, alignment, stream=stream)
            told = response.json()
            assert response.status_code in (502, 503), (path, alignment, stream, told)
            assert f"upstream {host}" in told["error"]["message"], (path, alignment, told)
            assert "Error" not in told["error"]["message"], told
            assert ("type" in told) == (path == "messages")
    assert not [r for r in caplog.records if "unforeseen" in r.message]
    upstream.answers(answer())
    assert ask(proxied, "chat/completions", READ, stream=False).status_code == 200  # and nobody is stuck


@pytest.mark.parametrize("reply", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_is_odd_goes_through_or_is_told(proxied: str, upstream: ScriptedUpstream, reply: Reply) -> None:
    upstream.answers(reply)
    for path, alignment in WAYS[:4]:
        for stream in (False, True):
            response = ask(proxied, path, alignment, stream=stream)
            if response.status_code == 502:
                assert "upstream 127.0.0.1" in response.json()["error"]["message"]
            else:
                assert 200 <= response.status_code < 300 and "fine" in response.text


@pytest.mark.parametrize(
    "value", [b"\xff\xfe", "☃".encode(), b"a\x01b", b"7\tseconds"], ids=["bytes", "snow", "control", "tab"]
)
def test_odd_bytes_in_the_headers_of_a_refusal(
    proxied: str, upstream: ScriptedUpstream, value: bytes
) -> None:
    """The refusal is told all the same, with those headers that can be sent."""
    body = b'{"error": {"message": "slow down"}}'
    head = HEAD + b"retry-after: %s\r\nx-ratelimit-odd: %s\r\nx-request-id: r1\r\n" % (value, value)
    upstream.answers(answer(b"429 Odd", head, body))
    for path, alignment in WAYS:
        response = ask(proxied, path, alignment, stream=False)
        assert response.status_code == 429 and response.headers["x-request-id"] == "r1"
        assert response.json()["error"]["message"] == "slow down"
        sent = {v for n, v in response.headers.raw if n == b"x-ratelimit-odd"}
        assert sent == (set() if b"\x01" in value else {value})


def test_odd_headers_of_a_stream(proxied: str, upstream: ScriptedUpstream) -> None:
    head = b"content-type: text/event-stream\r\nx-odd: a\x01b\r\n"
    upstream.answers(answer(head=head, body=chunk("x") + b"data: [DONE]\n\n"))
    response = ask(proxied, "chat/completions", "direct", stream=True)
    assert response.status_code == 502 and "x-odd" in response.json()["error"]["message"]
    response = ask(proxied, "chat/completions", READ, stream=True)
    assert response.status_code == 200 and "[DONE]" in response.text  # no header of theirs goes on here
