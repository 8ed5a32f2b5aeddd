"""What is tried again where an upstream fails, and who answers in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from upstream_fixtures import (
    Asked,
    Proxy,
    Reply,
    ScriptedUpstream,
    before,
    chunk,
    completion,
    streamed,
)

from heedful.server.config import Config

HI: Any = [{"role": "user", "content": "Hi"}]
ALIGNED = pytest.mark.parametrize("alignment", ["direct", "principles", [{"principles": {"mode": "cot"}}]])
READ = {"name": "principles", "trace": True}
"""An alignment under which every event is read here, and none passed through."""


def ask(url: str, path: str = "chat/completions", **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{path}", json={"model": "ours", "messages": HI, "prompt": "Hi", **more})


# -- trying again


def flaky(failures: list[Reply], upstream: ScriptedUpstream) -> Callable[[Asked], Reply]:
    return lambda asked: failures.pop(0) if failures else Reply.json(completion("at last"))


@pytest.mark.parametrize("alignment", ["direct", READ])
@pytest.mark.parametrize("status", [429, 502, 503])
def test_what_is_safe_is_tried_again(
    upstream: ScriptedUpstream, proxy: Proxy, status: int, alignment: Any
) -> None:
    refusals = [Reply.json({"error": {"message": "no"}}, status=status, headers={"retry-after": "0"})] * 2
    with proxy(Config(upstreams=[before(upstream, retries=2, max_retry_wait=0.01)])) as url:
        upstream.answers(flaky(refusals, upstream))
        assert ask(url, alignment=alignment).json()["choices"][0]["message"]["content"] == "at last"
        assert len({a.raw for a in upstream.asked}) == 1 and len(upstream.asked) == 3


@pytest.mark.parametrize("resets", [False, True])
def test_a_connection_that_ends_without_an_answer_is_tried_again(
    upstream: ScriptedUpstream, proxy: Proxy, resets: bool
) -> None:
    upstream.resets = resets
    with proxy(Config(upstreams=[before(upstream, retries=1, max_retry_wait=0.01)])) as url:
        upstream.hang_up_next = 1
        assert ask(url).status_code == 200
        upstream.hang_up_next = 2
        assert ask(url).status_code == 503


@pytest.mark.parametrize(
    ("status", "headers", "code"),
    [
        (429, {"retry-after": "60"}, None),
        (429, {"retry-after-ms": "60000"}, None),
        (429, {"retry-after": "Wed, 01 Jan 2098 00:00:00 GMT"}, None),
        (429, {}, "insufficient_quota"),
        (503, {"x-should-retry": "false"}, None),
        (500, {}, None),
        (400, {}, None),
        (504, {}, None),
    ],
)
def test_what_is_not_safe_or_takes_too_long_is_told_at_once(
    upstream: ScriptedUpstream, proxy: Proxy, status: int, headers: dict[str, str], code: str | None
) -> None:
    upstream.answers(Reply.json({"error": {"message": "no", "code": code}}, status=status, headers=headers))
    with proxy(Config(upstreams=[before(upstream, retries=3, max_retry_wait=1)])) as url:
        response = ask(url)
    assert response.status_code == status and len(upstream.asked) == 1
    assert {n: response.headers[n] for n in headers} == headers


def test_nothing_is_tried_again_once_it_streams(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    upstream.answers(Reply.sse(chunk("begun"), cut=True))
    with proxy(Config(upstreams=[before(upstream, retries=3)])) as url:
        assert "upstream_broken" in ask(url, stream=True).text
    assert len(upstream.asked) == 1


# -- other models in its place


@ALIGNED
@pytest.mark.parametrize("stream", [False, True])
def test_fallbacks(upstream: ScriptedUpstream, proxy: Proxy, alignment: Any, stream: bool) -> None:
    def by_model(asked: Asked) -> Reply:
        if asked.body["model"] != "third":
            return Reply.json({"error": {"message": "down"}}, status=503)
        streams = asked.body.get("stream")
        return Reply.sse(*streamed("third")) if streams else Reply.json(completion("third"))

    upstream.answers(by_model)
    models = {"ours": "theirs", "second": "second", "third": "third"}
    config = Config(upstreams=[before(upstream, models=models)], fallbacks={"ours": ["second", "third"]})
    with proxy(config) as url:
        response = ask(url, stream=stream, alignment=alignment)
        assert response.status_code == 200 and "third" in response.text
        assert response.headers["x-heedful-model"] == "third"
        alone = ask(url, model="second")
        assert alone.status_code == 503 and "x-heedful-model" not in alone.headers


def test_a_fallback_that_lacks_what_the_alignment_needs_is_passed_over(
    upstream: ScriptedUpstream, proxy: Proxy
) -> None:
    upstream.answers(Reply.json({"error": {"message": "down"}}, status=503))
    models = {"ours": {}, "raw": {"capabilities": ["completion"]}}
    with proxy(Config(upstreams=[before(upstream, models=models)], fallbacks={"ours": ["raw"]})) as url:
        response = ask(url, alignment="principles")
    assert response.status_code == 503 and response.json()["error"]["message"] == "down"
    assert len(upstream.asked) == 1


def test_what_the_request_has_wrong_no_other_model_answers(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    upstream.answers(Reply.json({"error": {"message": "bad field"}}, status=400))
    config = Config(
        upstreams=[before(upstream, models={"ours": "a", "other": "b"})], fallbacks={"ours": ["other"]}
    )
    with proxy(config) as url:
        assert ask(url).status_code == 400
    assert len(upstream.asked) == 1
