"""The access log, and the id under which a request stands in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import at_once
from upstream_fixtures import Proxy, Reply, ScriptedUpstream, before, completion, streamed
from waiting import HANG

from heedful.server.config import Config, ConfigError
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
HI = [{"role": "user", "content": "May I tell a secret?"}]


def _ask(url: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    asked = {"model": "scripted", "messages": HI, **body}
    return httpx.post(f"{url}/v1/chat/completions", json=asked, headers=headers, timeout=HANG)


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_one_line_a_request(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "access.log"
    monkeypatch.setenv("TEST_KEY", "open-sesame")
    config = Config(access_log=str(log), api_key_env="TEST_KEY")
    key = {"authorization": "Bearer open-sesame"}
    with serving(ScriptedEngine(), config=config) as url:
        usage = _ask(url, key | {"x-request-id": "mine"}, alignment="principles").json()["usage"]
        _ask(url, key, alignment=[{"principles": {}}], stream=True)
        _ask(url, {"authorization": "Bearer wrong-secret"})
        _ask(url, key, model="a secret model")
        httpx.get(f"{url}/v1/a/secret/path", headers=key)
        httpx.get(f"{url}/health")
    whole, stream, stranger, unknown, nowhere = _lines(log)
    assert (whole["id"], whole["tenant"], whole["key"]) == ("mine", "default", "api_key_env")
    assert (whole["route"], whole["model"], whole["alignment"]) == (
        "/v1/chat/completions",
        "scripted",
        "principles",
    )
    assert (whole["status"], whole["stream"], whole["gone"], whole["calls"]) == (200, False, False, 1)
    assert whole["completion_tokens"] == usage["completion_tokens"]
    assert 0 < whole["first_byte_seconds"] <= whole["seconds"]
    assert (stream["alignment"], stream["stream"]) == ("inline", True)
    assert (stranger["status"], stranger["tenant"], stranger["model"]) == (401, None, None)
    assert (unknown["status"], unknown["error"], unknown["model"]) == (404, "NotFound", None)
    assert (nowhere["status"], nowhere["route"]) == (404, "other")
    assert not {"secret", "sesame"} & {word for line in log.read_text().split('"') for word in line.split()}
    assert log.stat().st_mode & 0o007 == 0


def test_a_renamed_log_is_made_again(serving: Serving, tmp_path: Path) -> None:
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with serving(ScriptedEngine(), config=Config(access_log=str(log))) as url:
        _ask(url, {"x-request-id": "first"})
        while not log.read_text():
            os.sched_yield()
        log.rename(old)
        _ask(url, {"x-request-id": "second"})
    assert [line["id"] for line in _lines(old)] == ["first"]
    assert [line["id"] for line in _lines(log)] == ["second"]


def test_many_at_once_are_whole_lines(serving: Serving, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(ScriptedEngine(), config=Config(access_log=str(log))) as url:
        at_once(*[lambda i=i: _ask(url, {"x-request-id": f"r{i}"}) for i in range(64)])
    assert {line["id"] for line in _lines(log)} == {f"r{i}" for i in range(64)}


def test_a_full_disk_stops_no_answer(serving: Serving) -> None:
    with serving(ScriptedEngine(), config=Config(access_log="/dev/full")) as url:
        assert [_ask(url).status_code for _ in range(3)] == [200] * 3
        while "heedful_access_log_dropped_total 3.0" not in httpx.get(f"{url}/metrics").text:
            os.sched_yield()


def test_a_log_that_cannot_be(serving: Serving, tmp_path: Path) -> None:
    config = Config(access_log=str(tmp_path / "no" / "access.log"))
    with pytest.raises(ConfigError, match="access_log"), serving(ScriptedEngine(), config=config):
        pass


@pytest.mark.parametrize("stream", [False, True])
def test_a_clients_id_comes_back(serving: Serving, stream: bool) -> None:
    with serving(ScriptedEngine()) as url:
        given = _ask(url, {"x-request-id": "job-7/part.2"}, stream=stream)
        assert given.headers.get_list("x-request-id") == ["job-7/part.2"]
        made = {_ask(url, stream=stream).headers["x-request-id"] for _ in range(3)}
        assert len(made) == 3
        refused = _ask(url, {"x-request-id": "r"}, model="nobody")
        assert (refused.status_code, refused.headers["x-request-id"]) == (404, "r")


@pytest.mark.parametrize("odd", ["", "a b", "x" * 129, "é", '{"a":1}', "${jndi:ldap://a}", "<b>", "a\tb"])
def test_an_odd_id_is_not_kept(serving: Serving, tmp_path: Path, odd: str) -> None:
    log = tmp_path / "access.log"
    with serving(ScriptedEngine(), config=Config(access_log=str(log))) as url:
        asked = {"model": "scripted", "messages": HI}
        answer = httpx.post(
            f"{url}/v1/chat/completions",
            json=asked,
            headers=httpx.Headers({"x-request-id": odd}, encoding="utf-8"),
        )
    made = answer.headers["x-request-id"]
    assert made != odd and len(made) == 32 and _lines(log)[0]["id"] == made


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstreams_id(proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path, stream: bool) -> None:
    log = tmp_path / "access.log"
    theirs = {"x-request-id": "req-theirs"}
    reply = Reply.sse(*streamed("Hi"), headers=theirs) if stream else Reply.json(completion(), headers=theirs)
    upstream.answers(reply)
    with proxy(Config(upstreams=[before(upstream)], access_log=str(log))) as url:
        taken = _ask(url, model="ours", stream=stream)
        assert taken.headers.get_list("x-request-id") == ["req-theirs"]
        kept = _ask(url, {"x-request-id": "ours"}, model="ours", stream=stream)
        assert kept.headers.get_list("x-request-id") == ["ours"]
        assert kept.headers["x-upstream-request-id"] == "req-theirs"
        assert upstream.last.headers["x-request-id"] == "ours"
    assert [line["id"] for line in _lines(log)] == ["req-theirs", "ours"]
