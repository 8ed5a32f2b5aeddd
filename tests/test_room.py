"""Bodies of requests that wait: so many bytes for all of them, fairly, and never a part without the rest."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from running import at_once
from upstream_fixtures import Opening
from waiting import HANG

from heedful.prompts import Prompts
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.settings import AdmissionSettings
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config, ConfigError, load
from heedful.server.edge.listening import uvicorn_config
from heedful.server.edge.room import SMALL, BodyRoom
from heedful.server.service import Service
from heedful.strategies import Call, EngineUnavailable, Resources
from heedful.strategies.scripted import ScriptedEngine

MIB = 1 << 20
CHAT = "/v1/chat/completions"
ASKED = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}).encode()


async def taking(room: BodyRoom, *wanted: tuple[str, int]) -> tuple[list[int], list[asyncio.Task[None]]]:
    """Who has room, as it comes, by their place among those who ask."""
    had: list[int] = []

    async def take(i: int, tenant: str, size: int) -> None:
        await room.take(tenant, size)
        had.append(i)

    tasks = []
    for i, (tenant, size) in enumerate(wanted):
        tasks.append(asyncio.create_task(take(i, tenant, size)))
        await turns()
    return had, tasks


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_tenant_leaves_as_much_as_it_has() -> None:
    room = BodyRoom(80)
    had, tasks = await taking(room, *[("greedy", 10)] * 6, ("b", 10), ("c", 10), ("d", 5), ("e", 1))
    # Four of greedy's are half of all. The others pass those that wait, and each finds something.
    assert had == [0, 1, 2, 3, 6, 7, 8, 9] and (room.held, room.waiting) == (66, 2)
    room.give("greedy", 10)
    await turns()
    assert had[8:] == []  # 30 are greedy's, 24 are left: no more than it had
    room.give("greedy", 10)
    await turns()
    assert had[8:] == [4]
    for task in tasks:
        task.cancel()


async def test_who_needs_much_gets_it_in_time() -> None:
    room = BodyRoom(100)
    had, tasks = await taking(room, ("a", 30), ("b", 30), ("large", 60), ("small", 10), ("other", 5))
    assert had == [0, 1]  # nobody takes away what the first in line waits for
    room.give("a", 30)
    await turns()
    assert had == [0, 1, 2, 3] and room.held == 100
    room.give("large", 60)
    await turns()
    assert had == [0, 1, 2, 3, 4]
    await asyncio.gather(*tasks)


async def test_who_is_cancelled_leaves_nothing_behind() -> None:
    room = BodyRoom(100)
    had, tasks = await taking(room, ("a", 60), ("b", 60), ("c", 40))
    assert had == [0]
    tasks[1].cancel()
    await turns()
    assert had == [0, 2] and room.waiting == 0
    had, tasks = await taking(room, ("b", 50))
    room.give("a", 60)  # its turn comes as it is cancelled
    tasks[0].cancel()
    await turns()
    assert (had, room.held, room.waiting) == ([], 40, 0)
    room.give("c", 40)
    assert room.held == 0
    with pytest.raises(ValueError, match="101 bytes"):
        await room.take("a", 101)


async def test_the_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.server.edge.room._PLACES", 2)
    room = BodyRoom(10)
    _, tasks = await taking(room, ("a", 10), ("a", 1), ("b", 1))
    with pytest.raises(EngineUnavailable) as refused:
        await room.take("c", 1)
    assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "1")
    for task in tasks:
        task.cancel()


# -- at a server


class Held(ScriptedEngine):
    """Answers once it is told to; `before` is called with each request."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.go = Opening()

        async def reply(call: Call) -> str:
            before()
            await self.go.wait()
            return "Yes."

        super().__init__(reply)


@contextmanager
def listening(
    engine: ScriptedEngine, stores: Stores | None = None, **settings: Any
) -> Iterator[tuple[str, Service]]:
    """heedful's own HTTP side, where two requests run at once."""
    config = Config(admission=AdmissionSettings(running=2), **settings)
    service = Service(
        config, {engine.model: engine}, Alignments(config, Resources(prompts=Prompts(), stores=stores))
    )
    server = uvicorn.Server(uvicorn_config(create_app(service), config))
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert httpx.get(f"{url}/health", timeout=HANG).status_code == 200
        try:
            yield url, service
        finally:
            server.should_exit = True
            thread.join(HANG)


def padded(size: int) -> bytes:
    return ASKED + b" " * (size - len(ASKED))


def post(url: str, body: Any, path: str = CHAT, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}{path}", content=body, headers=headers, timeout=HANG)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_large_bodies_by_the_dozen() -> None:
    """64 clients with 32 MiB each, where two are admitted: what is held is what there is room for."""
    room, most = 256 * MIB, [0]
    body = padded(32 * MIB)
    engine = Held(lambda: most.append(service.room.held))
    with listening(engine, max_waiting_bytes=room) as (url, service):

        def small_ones_pass() -> list[int]:
            try:
                # Half of the room is this tenant's: four bodies, beside the two that were admitted.
                until(lambda: service.room.waiting == 64 - 2 - 4 and engine.running == 2)
                assert service.room.held == room // 2
                figures = httpx.get(f"{url}/metrics", timeout=HANG).text
                told = dict(re.findall(r"^heedful_(body_bytes|bodies_waiting) (\S+)$", figures, re.M))
                assert [float(told[name]) for name in ("body_bytes", "bodies_waiting")] == [room // 2, 58]
                # Small bodies need no room: one is read, found wanting, and refused while all others wait.
                return [post(url, b"{" + b" " * (SMALL - 1), "/v1/alignment/admin/keys").status_code]
            finally:
                engine.go.set()

        answers = at_once(small_ones_pass, *[lambda: [post(url, body).status_code]] * 64)
        assert answers == [[400], *[[200]] * 64]
        assert max(most) <= room // 2 and service.room.held == 0 and service.room.waiting == 0


def test_what_is_held_is_what_came() -> None:
    """Of a body of unknown length room for the largest is taken, until it is read."""
    engine = Held()
    with listening(engine, max_body_bytes=4 * MIB) as (url, service):

        def large() -> list[httpx.Response]:
            until(lambda: engine.running == 2)
            packed = gzip.compress(padded(MIB), 1)
            return at_once(
                lambda: post(url, iter([padded(MIB)])),  # in chunks
                lambda: post(url, packed, **{"content-encoding": "gzip"}),
                lambda: post(url, padded(MIB)),
            )

        def look() -> list[httpx.Response]:
            line = service.limits.line
            try:
                until(lambda: line is not None and line.waiting == 3 and service.room.held == 3 * MIB)
            finally:
                engine.go.set()
            return []

        found = at_once(look, large, lambda: [post(url, ASKED)], lambda: [post(url, ASKED)])
        assert [answer.status_code for answers in found for answer in answers] == [200] * 5


def test_whatever_becomes_of_it_the_room_is_left(tmp_path: Any) -> None:
    engine, stores = Held(), Stores(tmp_path, word_embedder(dimension=64))
    stores.create("norms")
    with listening(engine, stores, max_body_bytes=2 * MIB) as (url, service):
        engine.go.set()
        lines = b'{"text": "One."}\n' + b"\n" * MIB
        assert post(url, lines, "/v1/alignment/stores/norms/import").json()["added"] == 1
        assert post(url, b"x" * MIB).json()["error"]["code"] == "invalid_json"
        assert post(url, padded(MIB)).status_code == 200
        assert post(url, padded(MIB), "/v1/moderations").status_code == 404
        for too_large in (padded(3 * MIB), iter([padded(3 * MIB)])):
            assert post(url, too_large).json()["error"]["code"] == "body_too_large"
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
            )
            leaving.sendall(b" " * 200_000)
            until(lambda: service.room.held > 0)
        until(lambda: service.room.held == 0)
        assert service.room.waiting == 0
    stores.close()


def test_waiting_takes_no_longer_than_a_request_may() -> None:
    with listening(Held(), max_body_bytes=MIB, request_timeout=0.2) as (url, service):
        asyncio.run(service.room.take("another", 8 * MIB))
        late = post(url, padded(MIB))
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert service.room.waiting == 0


def test_room_for_less_than_a_body(tmp_path: Any) -> None:
    file = tmp_path / "heedful.yaml"
    file.write_text("max_body_bytes: 1000\nmax_waiting_bytes: 999\n")
    with pytest.raises(ConfigError, match="max_waiting_bytes: .*less than max_body_bytes"):
        load(file, {})
