"""What a request held is free when it is over, and does not wait for a collection: its body may be large."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from upstream_fixtures import Proxy, Reply, ScriptedUpstream, before, completion, streamed
from waiting import HANG

from heedful.server.access.client import Client, Tenant
from heedful.server.access.settings import AdmissionSettings, LimitSettings, RecordSettings, TenantSettings
from heedful.server.config import Config
from heedful.server.limits.account import RequestAccount
from heedful.server.observe.facts import Facts
from heedful.strategies import HeedfulError, Run, Trace
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
HI = [{"role": "user", "content": "Hi"}]
PLANS = ["direct", "principles", "urial", "refine", "best_of_n"]
_LIMITED = LimitSettings(requests_per_minute=10**6, concurrent=10**6, tokens_per_day=10**9)
_OPERATED = Client(Tenant("acme", TenantSettings(limits=_LIMITED, records=RecordSettings())), key_id="k")


def _held() -> list[str]:
    kinds = Facts | Run | Trace | Request | RequestAccount
    return [type(o).__name__ for o in gc.get_objects() if isinstance(o, kinds)]


@contextmanager
def _nothing_left() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # what is there already is not looked through
    gc.disable()
    try:
        yield
        until = time.monotonic() + HANG / 100
        while left := _held():
            assert time.monotonic() < until, left
            time.sleep(0.01)
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.fixture(scope="module")
def operated(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with everything on."""
    folder = tmp_path_factory.mktemp("operated")
    config = Config(stores=folder, starter_stores=False, admission=AdmissionSettings(running=8))
    with serving(ScriptedEngine(), config=config, clients={"sesame": _OPERATED}) as url:
        yield url


def _ask(url: str, *, stream: bool, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": HI, "stream": stream, "max_tokens": 8, **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": "Bearer sesame"})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("plan", PLANS)
def test_of_an_answer(operated: str, plan: str, stream: bool) -> None:
    with _nothing_left():
        assert _ask(operated, stream=stream, model=f"scripted@{plan}").status_code == 200


@pytest.mark.parametrize("body", [{"model": "no"}, {"messages": 3}, {"alignment": {"strategy": "no"}}])
def test_of_a_refusal(operated: str, body: dict[str, Any]) -> None:
    with _nothing_left():
        assert _ask(operated, **{"stream": False, "model": "scripted", **body}).status_code in (400, 404)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("alignment", ["direct", "principles"])
def test_of_what_an_upstream_answers(
    upstream: ScriptedUpstream, proxy: Proxy, tmp_path: Path, stream: bool, alignment: str
) -> None:
    config = Config(stores=tmp_path, starter_stores=False, upstreams=[before(upstream)])
    upstream.answers(Reply.sse(*streamed("a", "b")) if stream else Reply.json(completion()))
    with proxy(config, clients={"sesame": _OPERATED}) as url, _nothing_left():
        assert _ask(url, stream=stream, model=f"ours@{alignment}").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_of_what_an_upstream_fails_at(proxied: str, upstream: ScriptedUpstream, stream: bool) -> None:
    upstream.answers(Reply.sse(streamed("a")[0], cut=True) if stream else Reply([b"?"]))
    with _nothing_left():
        answer = _ask(proxied, stream=stream, model="ours")
        assert answer.status_code == (200 if stream else 502)


def test_errors_that_lead_back_to_each_other() -> None:
    """One that is raised again from what it had caused: a walk along them must end."""
    facts, first, second = Facts("POST", "/v1"), HeedfulError("first"), ValueError("second")
    try:
        try:
            raise first
        except HeedfulError as error:
            raise second from error
    except ValueError:
        first.__cause__ = second
    facts.error = first
    facts.release()
    assert first.__traceback__ is second.__traceback__ is None
