"""`heedful serve --ray`: two replicas before the scripted upstream, as processes, on a port of Ray's proxy."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI
from through_ray import ray_replicas
from upstream_fixtures import DONE, LIMIT, Gate, Reply, ScriptedUpstream, before, chunk, completion
from waiting import HANG

pytest.importorskip("ray")
HI: Any = [{"role": "user", "content": "Hi"}]
BODY = {"model": "ours", "messages": HI}


@pytest.fixture(scope="module")
def replicas(
    _upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, psutil.Process]]:
    """The address of two replicas, and the process that deployed them."""
    _upstream.reset()
    with ray_replicas(tmp_path_factory.mktemp("ray"), upstreams=[before(_upstream)]) as running:
        yield running


def test_an_answer_and_a_stream(
    replicas: tuple[str, Any], upstream: ScriptedUpstream, client: Callable[[str], OpenAI]
) -> None:
    url, _ = replicas
    upstream.answers(Reply.json(completion("Hello")))
    assert (
        client(url).chat.completions.create(model="ours", messages=HI).choices[0].message.content == "Hello"
    )
    gate = Gate()
    upstream.answers(Reply.sse(chunk("One"), gate, chunk("Two"), chunk(finish="stop"), DONE))
    with client(url).chat.completions.create(model="ours", messages=HI, stream=True) as stream:
        pieces = (c.choices[0].delta.content for c in stream if c.choices and c.choices[0].delta.content)
        assert next(pieces) == "One"  # while the upstream holds the next one back
        gate.open.set()
        assert list(pieces) == ["Two"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_ends_the_work(
    replicas: tuple[str, Any], upstream: ScriptedUpstream, begun: bool
) -> None:
    gate = Gate()
    upstream.answers(Reply.sse(*[chunk("One")][:begun], gate, chunk("Two"), DONE))
    with socket.create_connection(("127.0.0.1", int(replicas[0].rsplit(":", 1)[1])), LIMIT) as raw:
        body = json.dumps({**BODY, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        assert gate.reached.wait(LIMIT)
        if begun:
            assert b"One" in _until(raw, b"One")
    assert upstream.hung_up.acquire(timeout=LIMIT)
    gate.open.set()


def _until(raw: socket.socket, what: bytes) -> bytes:
    came = b""
    while what not in came and (more := raw.recv(65536)):
        came += more
    return came


def test_errors_keep_their_shape(replicas: tuple[str, Any], upstream: ScriptedUpstream) -> None:
    told = httpx.post(f"{replicas[0]}/v1/chat/completions", json={**BODY, "model": "nobody"})
    assert told.status_code == 404 and told.json()["error"]["code"] == "model_not_found"
    upstream.answers(
        Reply.json({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "7"})
    )
    told = httpx.post(f"{replicas[0]}/v1/chat/completions", json=BODY)
    assert told.status_code == 429 and told.headers["retry-after"] == "7"


def test_every_replica_heeds_what_one_was_told_and_one_that_is_killed_is_replaced(
    replicas: tuple[str, psutil.Process], upstream: ScriptedUpstream
) -> None:
    url, process = replicas
    stores = f"{url}/v1/alignment/stores"
    assert httpx.put(f"{stores}/rules", json={}, timeout=HANG).status_code == 201
    added = httpx.post(f"{stores}/rules/items", json={"id": "a", "text": "Be brief"}, timeout=HANG)
    assert added.status_code == 201, added.text
    ours = _replicas(process)
    assert len(ours) == 2
    ours[0].kill()
    for _ in range(20):  # both replicas have answered by then, but for a chance of one in a million
        assert httpx.get(f"{stores}/rules/items/a", timeout=HANG).status_code == 200
    while len(living := _replicas(process)) != 2 or ours[0] in living:  # another takes its place
        httpx.get(f"{url}/health", timeout=HANG)


@pytest.mark.ends_server
def test_what_is_being_answered_is_answered_to_its_end_when_it_is_told_to_stop(
    replicas: tuple[str, psutil.Process], upstream: ScriptedUpstream, client: Callable[[str], OpenAI]
) -> None:
    url, process = replicas
    gate = Gate()
    upstream.answers(Reply.sse(chunk("One"), gate, chunk("Two"), chunk(finish="stop"), DONE))
    with client(url).chat.completions.create(model="ours", messages=HI, stream=True) as stream:
        pieces = (c.choices[0].delta.content for c in stream if c.choices and c.choices[0].delta.content)
        assert next(pieces) == "One"
        process.send_signal(signal.SIGTERM)
        with suppress(httpx.HTTPError):
            while httpx.get(f"{url}/health", timeout=HANG).is_success:  # until nobody new is taken
                pass
        gate.open.set()
        assert list(pieces) == ["Two"]
    assert process.wait(HANG) == 0


def _replicas(process: psutil.Process) -> list[psutil.Process]:
    return [p for p in process.children(recursive=True) if _title(p).startswith("ray::ServeReplica")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""
