"""Limits of a minute, of requests at once, and budgets of a day and a month, as clients meet them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import anthropic
import httpx
import openai
import pytest
from running import at_once
from upstream_fixtures import Opening
from waiting import HANG

from heedful.server.access.client import Client, Role, Tenant
from heedful.server.access.settings import FloorSettings, LimitSettings, RecordSettings, TenantSettings
from heedful.server.config import Config
from heedful.server.observe.facts import Facts
from heedful.strategies import Capability
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
HI = [{"role": "user", "content": "Hi"}]
BODY = {"model": "scripted", "messages": HI}
COST = len("Hi") + len("Hello")  # a scripted engine's tokens are bytes
NOON = datetime(2026, 12, 29, 12, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("windows", "budgets"):
        monkeypatch.setattr(f"heedful.server.limits.{module}.now", clock)
    return clock


def client(
    tenant: str = "acme", key: str = "k1", *, role: Role = Role.USER, own: Any = None, **limits: Any
) -> Client:
    """Of a tenant with these limits; `own`: the key's."""
    settings = TenantSettings(limits=LimitSettings(**limits))
    return Client(Tenant(tenant, settings), role, key, limits=LimitSettings(**(own or {})))


def post(url: str, key: str, path: str = "chat/completions", **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/{path}", json={**BODY, **more}, headers=headers)


def usage(url: str, key: str) -> dict[tuple[str, str | None], dict[str, Any]]:
    answer = httpx.get(f"{url}/v1/alignment/usage", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return {(entry["tenant"], entry["key"]): entry for entry in answer.json()["data"]}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Config]:
    yield Config(stores=tmp_path)


def test_requests_of_a_minute(serving: Serving, folder: Config, clock: Clock) -> None:
    with serving(ScriptedEngine("Hello"), config=folder, clients={"a": client(requests_per_minute=3)}) as url:
        left = [post(url, "a") for _ in range(3)]
        assert [a.headers["x-ratelimit-remaining-requests"] for a in left] == ["2", "1", "0"]
        assert left[0].headers["x-ratelimit-limit-requests"] == "3"
        assert "x-ratelimit-limit-tokens" not in left[0].headers
        refused = post(url, "a")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "requests")
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        clock.at += int(refused.headers["retry-after"])
        assert post(url, "a").status_code == 200
        clock.at += 180
        assert post(url, "a").headers["x-ratelimit-remaining-requests"] == "2"


def test_tokens_of_a_minute_are_charged_afterwards(serving: Serving, folder: Config, clock: Clock) -> None:
    with serving(
        ScriptedEngine("Hello"), config=folder, clients={"a": client(tokens_per_minute=COST + 1)}
    ) as url:
        first = post(url, "a", stream=True)
        assert first.headers["x-ratelimit-remaining-tokens"] == str(COST + 1)
        second = post(url, "a")  # one token is left: it is let in, and may cost more than that
        assert (second.status_code, second.headers["x-ratelimit-remaining-tokens"]) == (200, "1")
        refused = post(url, "a")
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")
        clock.at += int(refused.headers["retry-after"])
        assert post(url, "a").status_code == 200


def test_the_nearest_limit_is_told(serving: Serving, folder: Config, clock: Clock) -> None:
    shared = client(requests_per_minute=10, own={"requests_per_minute": 2})
    other = Client(shared.tenant, Role.USER, "k2")
    with serving(ScriptedEngine("Hello"), config=folder, clients={"a": shared, "b": other}) as url:
        assert post(url, "a").headers["x-ratelimit-limit-requests"] == "2"
        assert post(url, "a").status_code == 200
        assert "key 'k1'" in post(url, "a").json()["error"]["message"]
        # What one key was refused is not its tenant's.
        assert post(url, "b").headers["x-ratelimit-remaining-requests"] == "7"


@pytest.mark.parametrize("limits, retried", [({"requests_per_minute": 1}, 3), ({"tokens_per_day": 1}, 1)])
def test_official_clients(
    serving: Serving, folder: Config, clock: Clock, limits: dict[str, Any], retried: int, monkeypatch: Any
) -> None:
    """They try again after a limit of a minute, and not where the budget is spent."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    facts: SimpleQueue[Facts] = SimpleQueue()
    clients = {"a": client(**limits)}

    def asked() -> int:
        """How many requests came for an answer since it was asked last."""
        httpx.get(f"{url}/v1/models", headers={"x-api-key": "a"})
        return sum(1 for _ in iter(lambda: facts.get(timeout=HANG).path == "/v1/models", True))

    with serving(ScriptedEngine("Hello"), config=folder, clients=clients, sinks=[facts.put]) as url:
        openais = openai.OpenAI(base_url=f"{url}/v1", api_key="a", max_retries=2)
        openais.chat.completions.create(model="scripted", messages=HI)  # type: ignore[arg-type]
        assert asked() == 1
        with pytest.raises(openai.RateLimitError) as told:
            openais.chat.completions.create(model="scripted", messages=HI)  # type: ignore[arg-type]
        assert told.value.code == ("rate_limit_exceeded" if retried > 1 else "insufficient_quota")
        assert asked() == retried
        anthropics = anthropic.Anthropic(base_url=url, api_key="a", max_retries=2)
        with pytest.raises(anthropic.RateLimitError) as refused:
            anthropics.messages.create(model="scripted", max_tokens=9, messages=HI)  # type: ignore[arg-type]
        assert refused.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]
        assert asked() == retried
        if retried > 1:
            headers = refused.value.response.headers
            assert headers["anthropic-ratelimit-requests-limit"] == "1"
            assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")
            assert seconds and all(s > 10 for s in seconds)  # Retry-After, not their own haste


def test_budgets_renew_with_the_calendar(serving: Serving, folder: Config, clock: Clock) -> None:
    limits = client(tokens_per_day=COST + 1, tokens_per_month=4 * COST)
    with serving(ScriptedEngine("Hello"), config=folder, clients={"a": limits}) as url:
        assert [post(url, "a").status_code for _ in range(3)] == [200, 200, 429]
        refused = post(url, "a")
        error = refused.json()["error"]
        assert error["code"] == "insufficient_quota" and refused.headers["x-should-retry"] == "false"
        assert "day" in error["message"] and "2026-12-30T00:00:00Z" in error["message"]
        assert int(refused.headers["retry-after"]) == 43_200
        clock.at += 43_200
        assert [post(url, "a").status_code for _ in range(3)] == [200, 200, 429]
        clock.at += 86_400
        error = post(url, "a").json()["error"]
        assert "month" in error["message"] and "2027-01-01T00:00:00Z" in error["message"]
        clock.at += 86_400
        assert post(url, "a").status_code == 200


def test_who_may_see_what_was_used(serving: Serving, folder: Config, clock: Clock) -> None:
    acme = client(tokens_per_day=100, requests_per_minute=5)
    clients = {
        "a": acme,
        "b": Client(acme.tenant, Role.USER, "k2"),
        "c": client("other", "k3"),
        "root": client("default", "k4", role=Role.ADMIN),
    }
    with serving(ScriptedEngine("Hello"), config=folder, clients=clients) as url:
        for key in ("a", "a", "b", "c"):
            assert post(url, key).status_code == 200
        seen = usage(url, "a")
        assert seen.keys() == {("acme", None), ("acme", "k1")}
        day = seen["acme", None]["day"]
        assert (day["tokens"], day["requests"], day["limit"], day["remaining"]) == (
            3 * COST,
            3,
            100,
            100 - 3 * COST,
        )
        assert day["renews"] == "2026-12-30T00:00:00Z"
        assert seen["acme", "k1"]["month"]["tokens"] == 2 * COST
        assert seen["acme", None]["requests_per_minute"]["used"] == 3
        everybody = usage(url, "root")
        assert {("acme", None), ("acme", "k1"), ("acme", "k2"), ("other", "k3")} <= everybody.keys()
        assert everybody["other", None]["day"]["tokens"] == COST


def test_hidden_calls_stop_when_the_budget_is_spent(serving: Serving, folder: Config, clock: Clock) -> None:
    engine = ScriptedEngine(lambda call: f"Bad {len(engine.calls)}.")
    refine = {"refine": {"verifiers": [{"policy": {"words": ["bad"]}}], "max_rounds": 16}}
    with serving(engine, config=folder, clients={"a": client(tokens_per_day=200)}) as url:
        answer = post(url, "a", alignment=[refine])
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (429, "budget_spent"), answer.text
        assert answer.headers["x-should-retry"] == "false" and "2026-12-30" in error["message"]
        assert 1 < len(engine.calls) < 17
        used = usage(url, "a")["acme", None]["day"]["tokens"]
        read = sum(len(m["content"].encode()) for call in engine.calls for m in call.messages)
        written = len("Bad 1.") * len(engine.calls)
        assert used == read + written >= 200
        assert post(url, "a").json()["error"]["code"] == "insufficient_quota"


def test_the_floors_own_calls_say_that_the_budget_is_spent(
    serving: Serving, tmp_path: Path, clock: Clock
) -> None:
    judged: dict[str, Any] = {"verifiers": [{"self": {}}]}
    config = Config(stores=tmp_path, floor=FloorSettings(gate=(judged, judged)))
    engine = ScriptedEngine("No", capabilities=Capability.CHAT)
    with serving(engine, config=config, clients={"a": client(tokens_per_day=5)}) as url:
        answer = post(url, "a")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "budget_spent"), answer.text
        assert answer.headers["x-should-retry"] == "false"


def test_a_stream_that_spends_the_budget_says_so(serving: Serving, folder: Config, clock: Clock) -> None:
    replies = iter([["Good. ", "Bad."], *[["Bad."]] * 60])
    engine = ScriptedEngine(lambda call: next(replies))
    refine = {"refine": {"verifiers": [{"policy": {"words": ["bad"]}}], "mode": "sentence"}}
    with serving(engine, config=folder, clients={"a": client(tokens_per_day=150)}) as url:
        answer = post(url, "a", alignment=[refine], stream=True)
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        assert events[0]["choices"] and events[-1]["error"]["code"] == "budget_spent"
        assert "[DONE]" not in answer.text
        assert usage(url, "a")["acme", None]["day"]["tokens"] >= 150


def test_requests_at_once(serving: Serving, folder: Config) -> None:
    begun, going_on = threading.Semaphore(0), Opening()

    async def reply(call: Any) -> str:
        begun.release()
        await going_on.wait()
        return "Hello"

    with serving(ScriptedEngine(reply), config=folder, clients={"a": client(concurrent=2)}) as url:
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(post(url, "a"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert begun.acquire(timeout=HANG)
        refused = post(url, "a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert httpx.get(f"{url}/v1/models", headers={"x-api-key": "a"}).status_code == 200
        going_on.set()
        for thread in threads:
            thread.join(HANG)
        assert [a.status_code for a in answers] == [200, 200]
        assert post(url, "a").status_code == 200


def test_many_at_once_are_counted_each(serving: Serving, folder: Config, clock: Clock) -> None:
    with serving(
        ScriptedEngine("Hello"), config=folder, clients={"a": client(requests_per_minute=30)}
    ) as url:
        answers = at_once(*[lambda: post(url, "a").status_code] * 40)
        assert sorted(answers) == [200] * 30 + [429] * 10
        assert usage(url, "a")["acme", None]["day"]["requests"] == 30


def test_a_laptop_counts_nothing(serving: Serving, tmp_path: Path) -> None:
    with serving(ScriptedEngine("Hello"), config=Config(stores=tmp_path)) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=BODY)
        assert answer.status_code == 200 and not any("ratelimit" in name for name in answer.headers)
    assert list(tmp_path.iterdir()) == []


def test_refusals_are_figures(serving: Serving, folder: Config, clock: Clock) -> None:
    asking = {"a": client(requests_per_minute=1), "b": client("spent", "k2", tokens_per_day=1)}
    config = folder.model_copy(update={"metrics": "open"})
    with serving(ScriptedEngine(), config=config, clients=asking) as url:
        assert [post(url, key).status_code for key in "aabb"] == [200, 429, 200, 429]
        told = httpx.get(f"{url}/metrics").text
    assert 'heedful_refusals_total{reason="rate",tenant="acme"} 1.0' in told
    assert 'heedful_refusals_total{reason="budget",tenant="spent"} 1.0' in told


def test_what_is_refused_at_the_door_has_no_record(serving: Serving, tmp_path: Path, clock: Clock) -> None:
    recorded = TenantSettings(records=RecordSettings())
    config = Config(stores=tmp_path, tenants={"default": recorded})
    own = LimitSettings(requests_per_minute=1)
    asking = {"a": Client(Tenant("default", recorded), Role.ADMIN, "k1", limits=own)}
    with serving(ScriptedEngine(), config=config, clients=asking) as url:
        answered, refused = post(url, "a"), post(url, "a")
        assert (answered.status_code, refused.status_code) == (200, 429)
        headers = {"authorization": "Bearer a"}
        kept: list[Any] = []
        while not kept:
            kept = httpx.get(f"{url}/v1/alignment/records", headers=headers).json()["data"]
        assert [record["id"] for record in kept] == [answered.json()["id"]]
