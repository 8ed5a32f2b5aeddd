"""What is gathered of each request, and that sinks are told of all that comes, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from queue import SimpleQueue

import httpx
import pytest
from waiting import HANG

from heedful.server.config import Config
from heedful.server.observe.facts import Facts
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def told(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, SimpleQueue[Facts]]]:
    monkeypatch.setenv("TEST_KEY", "sesame")
    facts: SimpleQueue[Facts] = SimpleQueue()
    with serving(ScriptedEngine(), config=Config(api_key_env="TEST_KEY"), sinks=[facts.put]) as url:
        yield url, facts


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_told(told: tuple[str, SimpleQueue[Facts]], stream: bool) -> None:
    url, facts = told
    body = {"model": "scripted@principles", "messages": HI, "stream": stream}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": "sesame"})
    assert answer.status_code == 200
    fact = facts.get(timeout=HANG)
    assert fact.client is not None and (fact.client.tenant.name, fact.client.key_id) == (
        "default",
        "api_key_env",
    )
    assert (fact.route, fact.status, fact.stream, fact.gone) == ("/v1/chat/completions", 200, stream, False)
    assert fact.plan is not None and fact.plan.name == "principles"
    assert fact.usage is not None and fact.usage.completion_tokens > 0
    assert fact.first is not None and fact.began <= fact.first <= fact.ended


def test_what_fails_is_told(told: tuple[str, SimpleQueue[Facts]]) -> None:
    url, facts = told
    httpx.post(f"{url}/v1/chat/completions", json={"model": "scripted", "messages": HI})
    httpx.post(f"{url}/v1/chat/completions", json={"model": "no"}, headers={"x-api-key": "sesame"})
    httpx.get(f"{url}/v1/nothing", headers={"x-api-key": "sesame"})
    httpx.get(f"{url}/health")
    stranger, unknown, nowhere = (facts.get(timeout=HANG) for _ in range(3))
    assert facts.empty()
    assert (stranger.status, stranger.client, stranger.run) == (401, None, None)
    assert unknown.error is not None and (unknown.status, unknown.error.code) == (404, "model_not_found")
    assert (nowhere.status, nowhere.route) == (404, "other")
