"""Several processes count requests and tokens of a minute in one Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from fakeredis import TcpFakeServer

from heedful.server.access.client import Client, Role, Tenant
from heedful.server.access.settings import LimitSettings, TenantSettings
from heedful.server.config import Config, ConfigError
from heedful.server.limits.windows import Rates
from heedful.strategies.scripted import ScriptedEngine

pytest.importorskip("lupa", reason="fakeredis runs Redis's scripts with it")

Serving = Callable[..., AbstractContextManager[str]]
BODY = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
COST = len("HiHello")


@pytest.fixture
def redis() -> Iterator[str]:
    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()


def _client(**limits: int) -> dict[str, Client]:
    settings = TenantSettings(limits=LimitSettings(**limits))
    return {"a": Client(Tenant("acme", settings), Role.USER, "k1")}


def _post(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=BODY, headers={"x-api-key": "a"})


@pytest.mark.parametrize("limits", [{"requests_per_minute": 4}, {"tokens_per_minute": 3 * COST + 1}])
def test_limits_of_two_processes(
    serving: Serving, redis: str, tmp_path: Path, limits: dict[str, int]
) -> None:
    config = Config(limits_storage=redis, stores=tmp_path)
    one = serving(ScriptedEngine("Hello"), config=config, clients=_client(**limits))
    other = serving(ScriptedEngine("Hello"), config=config, clients=_client(**limits))
    with one as first, other as second:
        assert [_post(url).status_code for url in (first, second, first, second)] == [200] * 4
        for url in (first, second):
            refused = _post(url)
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 1


def test_without_redis_nobody_is_let_in(serving: Serving, tmp_path: Path) -> None:
    config = Config(limits_storage="redis://127.0.0.1:1/0", stores=tmp_path)
    with serving(ScriptedEngine("Hello"), config=config, clients=_client(requests_per_minute=4)) as url:
        answer = _post(url)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "limits_unavailable")


def test_an_address_that_is_none() -> None:
    with pytest.raises(ConfigError, match="limits_storage"):
        Rates("redis://127.0.0.1:nowhere/0")
