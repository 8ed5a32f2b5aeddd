"""Connections to an upstream are used again, also after a stream, and none is held by one that does not end."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from upstream_fixtures import LIMIT, Asked, Gate, Proxy, Reply, ScriptedUpstream, before, completion, streamed

from heedful.server.config import Config

CLIENT = httpx.Client(timeout=LIMIT)  # made once: its TLS set-up takes longer than a request
HI: Any = [{"role": "user", "content": "Hi"}]
COT: Any = {"pipeline": [{"principles": {"mode": "cot"}}], "trace": True}
READ: Any = {"name": "principles", "trace": True}
WAYS = pytest.mark.parametrize(
    ("path", "alignment"),
    [
        ("chat/completions", "direct"),
        ("chat/completions", "principles"),
        ("chat/completions", READ),
        ("chat/completions", COT),
        ("messages", "direct"),
        ("responses", "direct"),
        ("completions", "direct"),
    ],
)


def ask(url: str, path: str, alignment: Any, *, stream: bool) -> str:
    fields = {"model": "ours", "messages": HI, "prompt": "Hi", "input": "Hi", "max_tokens": 9}
    if path == "responses":
        del fields["prompt"]
    body = {**fields, "stream": stream, "alignment": alignment}
    response = CLIENT.post(f"{url}/v1/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.text


@WAYS
@pytest.mark.parametrize("stream", [False, True])
def test_calls_one_after_another_share_a_connection(
    upstream: ScriptedUpstream,
    proxy: Proxy,
    path: str,
    alignment: Any,
    stream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream's body ends only once the client has had its last event."""
    monkeypatch.setattr("heedful.server.engines.upstream.client._LINGER", LIMIT)
    gates: list[Gate] = []

    def script(asked: Asked) -> Reply:
        if not asked.body.get("stream"):
            return Reply.json(completion())
        gates.append(Gate())
        return Reply.sse(*streamed("one", "two"), gates[-1])

    upstream.answers(script)
    with proxy(Config(upstreams=[before(upstream)])) as url:
        opened = upstream.connections
        for _ in range(8):
            calls = len(upstream.asked)
            ask(url, path, alignment, stream=stream)
            if gates:
                gates.pop().open.set()
            for _ in range(len(upstream.asked) - calls):
                assert upstream.ended.acquire(timeout=LIMIT)
        assert len(upstream.asked) >= 8 and not gates
        assert upstream.connections - opened <= 1


@WAYS
def test_an_upstream_that_does_not_end_after_done_holds_nobody_up(
    upstream: ScriptedUpstream, proxy: Proxy, path: str, alignment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heedful.server.engines.upstream.client._LINGER", 0.05)
    gates = [Gate(), Gate(), Gate()]
    left = list(gates)
    upstream.answers(
        lambda asked: (
            Reply.sse(*streamed("whole"), left.pop())
            if asked.body.get("stream")
            else Reply.json(completion())
        )
    )
    with proxy(Config(upstreams=[before(upstream)])) as url:
        for _ in gates:
            assert "whole" in ask(url, path, alignment, stream=True)
        assert not left
        assert not any(gate.open.is_set() for gate in gates)
        for _ in gates:  # and after a moment each connection is closed
            assert upstream.hung_up.acquire(timeout=LIMIT)
    for gate in gates:
        gate.open.set()


def test_a_refusal_gives_its_connection_back(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    with proxy(Config(upstreams=[before(upstream)])) as url:
        opened = upstream.connections
        upstream.answers(Reply.json({"error": {"message": "no"}}, status=400))
        for _ in range(5):
            for alignment in ("direct", READ):
                body = {"model": "ours", "messages": HI, "alignment": alignment}
                assert CLIENT.post(f"{url}/v1/chat/completions", json=body).status_code == 400
                assert upstream.ended.acquire(timeout=LIMIT)
        assert upstream.connections - opened <= 1
