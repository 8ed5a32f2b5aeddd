"""What a browser sends for pages of other sites: none of it gets to a server that wants no key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import httpx
import pytest
from waiting import HANG

from heedful.server.access.client import Client, Tenant
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
QUESTION = b'{"model": "scripted", "messages": [{"role": "user", "content": "Hi."}]}'
BLIND = {"content-type": "text/plain;charset=UTF-8"}  # what a browser sends without asking first
EVIL = "https://evil.example"
ELSEWHERE = [
    {"origin": EVIL, "sec-fetch-site": "cross-site"},
    {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
    {"origin": EVIL},
    {"origin": "null"},
    {"origin": "null", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site"},
]


def ask(url: str, headers: Mapping[str, str], path: str = "/v1/chat/completions") -> httpx.Response:
    return httpx.post(f"{url}{path}", content=QUESTION, headers={**BLIND, **headers}, timeout=HANG)


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_pages_of_other_sites_change_and_ask_nothing(
    scripted_server: str, scripted: ScriptedEngine, headers: dict[str, str]
) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/alignment/stores/norms/items", "/v1/files"):
        response = ask(scripted_server, headers, path)
        assert response.status_code == 403, path
        assert "cors_origins" in response.json()["error"]["message"]
    assert not scripted.calls
    deleted = httpx.delete(f"{scripted_server}/v1/alignment/stores/norms", headers=headers)
    assert deleted.status_code == 403


def test_the_error_has_the_asker_s_shape(scripted_server: str) -> None:
    openai, anthropic = (
        ask(scripted_server, ELSEWHERE[0], path).json() for path in ("/v1/chat/completions", "/v1/messages")
    )
    assert openai["error"]["code"] == "other_site" and EVIL in openai["error"]["message"]
    assert anthropic["type"] == "error" and anthropic["error"]["type"] == "permission_error"


def test_the_page_s_own_requests_and_those_of_no_browser_go_through(scripted_server: str) -> None:
    host = scripted_server.partition("://")[2]
    own = [
        {},
        {"origin": scripted_server, "sec-fetch-site": "same-origin"},
        {"origin": scripted_server},
        {"origin": f"http://{host.upper()}"},
        {"origin": "chrome-extension://abc", "sec-fetch-site": "none"},
        {
            "origin": "https://ai.example",
            "sec-fetch-site": "same-origin",
        },  # a proxy that leaves `Host` its own
    ]
    for headers in own:
        assert ask(scripted_server, headers).status_code == 200, headers
    models = httpx.get(f"{scripted_server}/v1/models", headers=ELSEWHERE[0])
    assert (
        models.status_code == 200 and "access-control-allow-origin" not in models.headers
    )  # sent, not to be read


@pytest.mark.parametrize("origins", [[EVIL], ["*"]], ids=str)
def test_pages_of_listed_origins_may_ask(serving: Serving, origins: list[str]) -> None:
    with serving(ScriptedEngine("ok"), config=Config(cors_origins=origins)) as url:
        response = ask(url, ELSEWHERE[0])
        assert response.status_code == 200 and response.headers["access-control-allow-origin"] in (EVIL, "*")
        other = ask(url, {"origin": "https://other.example"})
        assert other.status_code == (200 if origins == ["*"] else 403)


def test_with_a_key_the_key_decides(serving: Serving) -> None:
    with serving(ScriptedEngine("ok"), clients={"sk-right-key-0001": Client(Tenant("t"))}) as url:
        key = {"authorization": "Bearer sk-right-key-0001"}
        assert ask(url, ELSEWHERE[0] | key).status_code == 200
        assert ask(url, ELSEWHERE[0]).status_code == 401
