"""Liveness and readiness."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstream_fixtures import Proxy, Reply, ScriptedUpstream, before
from waiting import HANG

from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config
from heedful.server.observe import readiness
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
HI = [{"role": "user", "content": "Hi"}]


class _Mortal(ScriptedEngine):
    dead = False


def _states(url: str) -> tuple[int, int, int]:
    paths = ("/health", "/health/live", "/health/ready")
    health, live, ready = (httpx.get(url + path, timeout=HANG).status_code for path in paths)
    return health, live, ready


def _ask(url: str) -> None:
    httpx.post(f"{url}/v1/chat/completions", json={"model": "ours", "messages": HI}, timeout=HANG)


def test_an_engine_that_dies(serving: Serving) -> None:
    engine = _Mortal()
    with serving(engine) as url:
        assert _states(url) == (200, 200, 200)
        engine.dead = True
        assert _states(url) == (503, 503, 503)
        assert "has died" in httpx.get(f"{url}/health/ready").json()["reasons"][0]


def test_stores_that_are_gone(serving: Serving, tmp_path: Path) -> None:
    stores = Stores(tmp_path / "stores", word_embedder(dimension=64))
    try:
        with serving(ScriptedEngine(), stores=stores) as url:
            assert _states(url) == (200, 200, 200), "there need be none"
            stores.create("mine")
            assert _states(url) == (200, 200, 200)
            shutil.rmtree(tmp_path / "stores")
            assert _states(url) == (200, 200, 503)
    finally:
        stores.close()


def test_the_only_upstream(proxy: Proxy, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_PROBE_EVERY", 0.0)
    with proxy(Config(upstreams=[before(upstream)])) as url:
        upstream.answers(Reply.json({"error": {"message": "no"}}, status=500))
        for _ in range(2):
            _ask(url)
        assert _states(url) == (200, 200, 200), "no flapping"
        _ask(url)
        # It answers to the list of its models: up again before any client tries.
        assert _states(url) == (200, 200, 200)
        host = httpx.URL(upstream.url).netloc.decode()
        assert httpx.get(f"{url}/health/ready").json()["upstreams"] == {host: "ok"}


def test_no_upstream_can_be_reached(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_PROBE_EVERY", 0.0)
    nowhere: Any = {
        "url": "http://127.0.0.1:9/v1",
        "models": ["ours"],
        "capabilities": ["chat"],
        "retries": 0,
    }
    with proxy(Config(upstreams=[nowhere])) as url:
        for _ in range(3):
            _ask(url)
        assert _states(url) == (200, 200, 503)
        told = httpx.get(f"{url}/health/ready").json()
        assert told["upstreams"] == {"127.0.0.1:9": "unreached"} and "127.0.0.1:9" in told["reasons"][0]
    with proxy(Config(upstreams=[nowhere]), ScriptedEngine()) as url:
        for _ in range(3):
            _ask(url)
        assert _states(url) == (200, 200, 200), "another model answers"
