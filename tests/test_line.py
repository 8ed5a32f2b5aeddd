"""Whose turn it is: so many requests at once, the rest in line, and no tenant kept waiting by another's crowd."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from running import at_once
from upstream_fixtures import Opening
from waiting import HANG

from heedful.server.access.client import Client, Role, Tenant
from heedful.server.access.settings import AdmissionSettings
from heedful.server.config import Config
from heedful.server.limits.line import FairLine
from heedful.strategies import Call, EngineUnavailable
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.types import text_of

Serving = Callable[..., AbstractContextManager[str]]
CLIENTS = {name: Client(Tenant(name), Role.USER, f"key-{name}") for name in ("greedy", "modest")}


def _line(**settings: Any) -> FairLine:
    return FairLine(AdmissionSettings(**settings))


async def _turns(line: FairLine, *tenants: str) -> tuple[list[str], list[asyncio.Task[None]]]:
    """Who waits, in this order; and who has had a turn, as it comes."""
    had: list[str] = []

    async def wait(tenant: str) -> None:
        await line.wait(tenant)
        had.append(tenant)

    tasks = []
    for tenant in tenants:
        tasks.append(asyncio.create_task(wait(tenant)))
        await asyncio.sleep(0)
    return had, tasks


async def test_tenants_have_turns() -> None:
    line = _line(running=1)
    assert line.take("a") and not line.take("b")
    had, tasks = await _turns(line, "a", "a", "a", "b", "b", "c")
    for _ in range(6):
        line.leave(had[-1] if had else "a")
        await asyncio.sleep(0)
    assert had == ["a", "b", "c", "a", "b", "a"]
    await asyncio.gather(*tasks)


async def test_who_has_least_under_way_comes_first() -> None:
    line = _line(running=4)
    assert all(line.take(tenant) for tenant in "aaab")
    had, tasks = await _turns(line, "a", "b", "c")
    line.leave("a")
    await asyncio.gather(tasks[2])
    assert had == ["c"]
    for task in tasks[:2]:
        task.cancel()


async def test_a_tenants_share_leaves_room() -> None:
    line = _line(running=3, per_tenant=2)
    assert line.take("a") and line.take("a") and not line.take("a")
    had, tasks = await _turns(line, "a")
    assert line.take("b")
    line.leave("b")
    await asyncio.sleep(0)
    assert had == []  # that room is not a's
    line.leave("a")
    await asyncio.gather(*tasks)
    assert had == ["a"] and line.running == 2


async def test_the_longest_line_gives_up_its_last_place() -> None:
    line = _line(running=1, waiting=3)
    assert line.take("a")
    had, tasks = await _turns(line, "a", "a", "a")
    with pytest.raises(EngineUnavailable) as full:
        await line.wait("a")
    assert (full.value.status, full.value.code, full.value.headers["retry-after"]) == (
        503,
        "server_busy",
        "1",
    )
    line.check("b")
    _, more = await _turns(line, "b")
    with pytest.raises(EngineUnavailable):
        await tasks[-1]
    assert line.waiting == 3
    for tenant in ("a", "b", "a"):
        line.leave(tenant)
        await asyncio.sleep(0)
    assert had == ["a", "a"]
    await asyncio.gather(*tasks[:2], *more)


async def test_who_leaves_is_out_of_the_line() -> None:
    line = _line(running=1, waiting=5)
    assert line.take("a")
    had, tasks = await _turns(line, "a", "b")
    tasks[0].cancel()
    line.leave("a")  # before the one who was cancelled knows it
    await asyncio.gather(*tasks, return_exceptions=True)
    assert had == ["b"] and (line.running, line.waiting) == (1, 0)
    _, (late,) = await _turns(line, "c")
    line.leave("b")
    late.cancel()  # its turn had just come
    await asyncio.gather(late, return_exceptions=True)
    assert (line.running, line.waiting) == (0, 0)


class Held:
    """An engine whose answers wait until `going_on`; `begun` is released with each."""

    def __init__(self) -> None:
        self.begun, self.going_on = threading.Semaphore(0), Opening()
        self.order: list[str] = []
        self.engine = ScriptedEngine(self._reply)

    async def _reply(self, call: Call) -> str:
        self.order.append(text_of(call.messages[-1]))
        self.begun.release()
        await self.going_on.wait()
        return "Hello"


def _post(url: str, who: str, **more: Any) -> httpx.Response:
    body = {"model": "scripted", "messages": [{"role": "user", "content": who}], **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {who}"})


@contextmanager
def _asking(url: str, who: str, times: int, held: Held, answers: list[httpx.Response]) -> Iterator[None]:
    threads = [threading.Thread(target=lambda: answers.append(_post(url, who))) for _ in range(times)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        held.going_on.set()
        for thread in threads:
            thread.join(HANG)


def _served(serving: Serving, folder: Path, held: Held, **admission: Any) -> AbstractContextManager[str]:
    config = Config(stores=folder, admission=AdmissionSettings(**admission), request_timeout=HANG)
    return serving(held.engine, config=config, clients=CLIENTS)


def test_when_the_line_is_full(serving: Serving, tmp_path: Path) -> None:
    held, answers = Held(), list[httpx.Response]()
    with (
        _served(serving, tmp_path, held, running=1, waiting=0) as url,
        _asking(url, "greedy", 1, held, answers),
    ):
        assert held.begun.acquire(timeout=HANG)
        full = _post(url, "greedy")
        assert (full.status_code, full.json()["error"]["code"]) == (503, "server_busy")
        assert full.headers["retry-after"] == "1"
        for path in ("/health", "/v1/models", "/v1/alignment/usage"):  # these do not stand in line
            assert httpx.get(url + path, headers={"x-api-key": "greedy"}).status_code == 200
    assert [a.status_code for a in answers] == [200]


def test_a_client_that_leaves_frees_its_place(serving: Serving, tmp_path: Path) -> None:
    held, answers = Held(), list[httpx.Response]()
    with (
        _served(serving, tmp_path, held, running=1, waiting=1) as url,
        _asking(url, "greedy", 1, held, answers),
    ):
        assert held.begun.acquire(timeout=HANG)
        body = {"model": "scripted", "messages": [{"role": "user", "content": "modest"}]}
        headers = {"authorization": "Bearer modest"}
        timeout = httpx.Timeout(HANG, read=0.3)
        left, until = 0, time.monotonic() + HANG
        while left < 3 and time.monotonic() < until:  # each finds the line full while the one before is in it
            try:
                full = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=timeout)
                assert full.status_code == 503
            except httpx.ReadTimeout:
                left += 1
        assert left == 3
    assert [a.status_code for a in answers] == [200]
    assert "modest" not in held.order


def test_the_wait_is_part_of_the_deadline(serving: Serving, tmp_path: Path) -> None:
    held = Held()
    config = Config(stores=tmp_path, admission=AdmissionSettings(running=1), request_timeout=0.5)
    with serving(held.engine, config=config, clients=CLIENTS) as url:
        answers = at_once(*[lambda: _post(url, "greedy").status_code] * 2)
    assert answers == [504, 504]


async def test_a_thousand_at_once(serving: Serving, tmp_path: Path) -> None:
    """None falls over: each has its answer, or is told to come again; and the modest are not kept out."""
    config = Config(stores=tmp_path, admission=AdmissionSettings(running=4, waiting=20, per_tenant=3))
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    with serving(ScriptedEngine("Hello"), config=config, clients=CLIENTS) as url:
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask(who: str) -> int:
                body = {"model": "scripted", "messages": [{"role": "user", "content": who}]}
                headers = {"authorization": f"Bearer {who}"}
                where = f"{url}/v1/chat/completions"
                async with session.post(where, json=body, headers=headers) as answer:
                    await answer.read()
                    return answer.status

            asking = ["greedy"] * 500 + ["modest"] * 10 + ["greedy"] * 490
            answers = await asyncio.gather(*map(ask, asking))
        assert set(answers) <= {200, 503}
        assert answers[500:510] == [200] * 10
        assert _post(url, "greedy").status_code == 200
