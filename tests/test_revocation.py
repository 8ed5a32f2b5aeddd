"""A key that ends takes with it what runs under it, whatever that is, and leaves nothing running."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from held_engine import HeldEngine
from openai import APIError, OpenAI
from running import at_once
from upstream_fixtures import Gate, Proxy, Reply, ScriptedUpstream, before, chunk
from waiting import HANG

from heedful.server.access.client import Role
from heedful.server.access.database import KeyDatabase
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
HI: Any = [{"role": "user", "content": "Hi"}]
CLIENT = httpx.Client(timeout=HANG)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyDatabase]:
    """A database with an admin's key, so that keys are wanted."""
    database = KeyDatabase(tmp_path)
    database.create_key("default", Role.ADMIN)
    yield database
    database.close()


def new(keys: KeyDatabase, role: Role = Role.USER, **more: Any) -> tuple[str, dict[str, str]]:
    """The id of a new key, and the headers that bring it."""
    key, text = keys.create_key("default", role, **more)
    return key.id, {"authorization": f"Bearer {text}"}


def until_status(url: str, headers: dict[str, str], status: int) -> httpx.Response:
    """Asks until the server has seen what was written."""
    until = time.monotonic() + HANG
    while (answer := CLIENT.get(f"{url}/v1/models", headers=headers)).status_code != status:
        assert time.monotonic() < until
        time.sleep(0.02)
    return answer


def test_a_key_made_beside_a_server_opens_it_and_revoked_shuts_it(
    serving: Serving, keys: KeyDatabase
) -> None:
    with serving(ScriptedEngine(), config=Config(stores=keys.path.parent)) as url:
        id, headers = new(keys)
        until_status(url, headers, 200)
        keys.revoke(id)
        refused = until_status(url, headers, 401)
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"


def test_the_first_key_shuts_an_open_server_and_the_end_of_the_last_opens_none(
    serving: Serving, tmp_path: Path
) -> None:
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url:
        assert CLIENT.get(f"{url}/v1/models").status_code == 200
        assert not list(tmp_path.iterdir())
        keys = KeyDatabase(tmp_path)
        id, headers = new(keys)
        until_status(url, {}, 401)
        until_status(url, headers, 200)
        keys.revoke(id)
        until_status(url, headers, 401)
        assert CLIENT.get(f"{url}/v1/models").status_code == 401
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url:
        assert CLIENT.get(f"{url}/v1/models").status_code == 401


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "messages"])
@pytest.mark.parametrize("alignment", ["direct", "principles"])
def test_a_stream_ends_in_one_error_and_no_end(
    serving: Serving, keys: KeyDatabase, path: str, alignment: str
) -> None:
    engine = HeldEngine()
    id, headers = new(keys)
    with serving(engine, config=Config(stores=keys.path.parent)) as url:
        told = {"prompt": "Hi"} if path == "completions" else {"messages": HI, "max_tokens": 9, "input": "Hi"}
        if path == "completions":
            alignment = "urial"
        body = {"model": "scripted", **told, "stream": True, "alignment": alignment}
        with CLIENT.stream("POST", f"{url}/v1/{path}", json=body, headers=headers) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            keys.revoke(id)
            text += "".join(pieces)
        assert answer.status_code == 200
        assert text.count("has been revoked") == (2 if path == "responses" else 1)
        for end in ("[DONE]", "message_stop", "response.completed"):
            assert end not in text
        last = text.strip().rpartition("data: ")[2]
        assert "invalid_api_key" in last or json.loads(last)["error"]["type"] == "authentication_error"
        assert engine.left.wait(HANG) and engine.running == 0


def test_the_official_clients_raise(serving: Serving, keys: KeyDatabase) -> None:
    engine = HeldEngine()
    with serving(engine, config=Config(stores=keys.path.parent)) as url:
        key, text = keys.create_key("default", Role.USER)
        until_status(url, {"x-api-key": text}, 200)
        client = OpenAI(base_url=f"{url}/v1", api_key=text, max_retries=0, timeout=HANG)
        stream = client.chat.completions.create(model="scripted", messages=HI, stream=True)
        keys.revoke(key.id)
        with pytest.raises(APIError, match="revoked"):
            list(stream)
        key, text = keys.create_key("default", Role.USER)
        until_status(url, {"x-api-key": text}, 200)
        other = anthropic.Anthropic(base_url=url, api_key=text, max_retries=0, timeout=HANG)
        events = other.messages.create(model="scripted", messages=HI, max_tokens=9, stream=True)
        keys.revoke(key.id)
        with pytest.raises(anthropic.APIError, match="revoked"):
            list(events)
        assert engine.left.wait(HANG) and engine.running == 0


@pytest.mark.parametrize("path", ["chat/completions", "messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_before_the_first_byte_it_is_a_refusal(
    serving: Serving, keys: KeyDatabase, path: str, stream: bool
) -> None:
    engine = HeldEngine(speaks=False)
    id, headers = new(keys)
    with serving(engine, config=Config(stores=keys.path.parent)) as url:
        body = {"model": "scripted", "messages": HI, "max_tokens": 9, "stream": stream}

        def revoke() -> None:
            assert engine.begun.wait(HANG)
            keys.revoke(id)

        answer, _ = at_once(lambda: CLIENT.post(f"{url}/v1/{path}", json=body, headers=headers), revoke)
        assert answer is not None and answer.status_code == 401
        assert "revoked" in answer.json()["error"]["message"]
        assert ("type" in answer.json()) == (path == "messages")
        assert engine.left.wait(HANG) and engine.running == 0
        # The connection serves on.
        assert CLIENT.get(f"{url}/health").status_code == 200


def test_what_expires_ends_too(serving: Serving, keys: KeyDatabase) -> None:
    engine = HeldEngine()
    with serving(engine, config=Config(stores=keys.path.parent)) as url:
        _, headers = new(keys, expires=time.time() + 3)
        body = {"model": "scripted", "messages": HI, "stream": True}
        until_status(url, headers, 200)
        with CLIENT.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
            text = "".join(answer.iter_text())
        assert "has expired" in text and "[DONE]" not in text
        assert engine.left.wait(HANG)
        assert CLIENT.get(f"{url}/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize("where", ["chat/completions", "other"])
def test_what_goes_through_as_it_is_ends_too(
    proxy: Proxy, upstream: ScriptedUpstream, keys: KeyDatabase, where: str
) -> None:
    id, headers = new(keys)
    gate = Gate()
    upstream.answers(Reply.sse(chunk("Well"), gate, chunk("no")))
    path = where if where != "other" else "audio/speech"
    with proxy(Config(upstreams=[before(upstream)], stores=keys.path.parent)) as url:
        body = {"model": "ours", "messages": HI, "stream": True}
        with CLIENT.stream("POST", f"{url}/v1/{path}", json=body, headers=headers) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            keys.revoke(id)
            text += "".join(pieces)
        assert "Well" in text and text.count("has been revoked") == 1 and "[DONE]" not in text
        assert upstream.hung_up.acquire(timeout=HANG)
    assert "authorization" not in upstream.last.headers


def test_an_answer_that_is_no_stream_of_events_lacks_its_end(
    proxy: Proxy, upstream: ScriptedUpstream, keys: KeyDatabase
) -> None:
    id, headers = new(keys)
    upstream.answers(Reply([b"x" * 10, Gate()], headers={"content-type": "audio/mpeg"}))
    with proxy(Config(upstreams=[before(upstream)], stores=keys.path.parent)) as url:
        with CLIENT.stream(
            "POST", f"{url}/v1/audio/speech", json={"model": "ours"}, headers=headers
        ) as answer:
            pieces = answer.iter_bytes()
            assert next(pieces) == b"x" * 10
            keys.revoke(id)
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
        assert upstream.hung_up.acquire(timeout=HANG)


@pytest.mark.parametrize("path", ["chat/completions", "alignment/admin/keys", "audio/transcriptions"])
def test_a_slow_upload_ends_too(
    proxy: Proxy, upstream: ScriptedUpstream, keys: KeyDatabase, path: str
) -> None:
    """A body that is kept open cannot outlive its key and be acted upon."""
    id, headers = new(keys, Role.ADMIN)
    with proxy(Config(upstreams=[before(upstream)], stores=keys.path.parent)) as url:
        until_status(url, headers, 200)
        host, _, port = url.removeprefix("http://").partition(":")
        head = f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\ncontent-type: application/json\r\n"
        head += f"authorization: {headers['authorization']}\r\n\r\n" + "{"
        with socket.create_connection((host, int(port)), timeout=HANG) as raw:
            raw.sendall(head.encode())
            keys.revoke(id)
            assert raw.recv(4096).startswith(b"HTTP/1.1 401")
        assert len(keys.all().keys) == 2 and not upstream.asked


def test_requests_that_begin_as_their_key_ends(serving: Serving, keys: KeyDatabase) -> None:
    """Each is refused or broken off, whenever it came, and none runs on."""
    engine = HeldEngine()
    with serving(engine, config=Config(stores=keys.path.parent)) as url:
        _, admin = new(keys, Role.ADMIN)
        until_status(url, admin, 200)
        for _ in range(3):
            made = CLIENT.post(f"{url}/v1/alignment/admin/keys", json={}, headers=admin).json()
            mine = {"x-api-key": made["key"]}
            body = {"model": "scripted", "messages": HI, "stream": True}

            def ask(mine: dict[str, str] = mine, body: dict[str, Any] = body) -> bool:
                answer = CLIENT.post(f"{url}/v1/chat/completions", json=body, headers=mine)
                return "[DONE]" not in answer.text and "invalid_api_key" in answer.text

            def revoke(id: str = made["id"]) -> bool:
                return CLIENT.delete(f"{url}/v1/alignment/admin/keys/{id}", headers=admin).status_code == 200

            assert all(at_once(ask, ask, ask, revoke, ask, ask, ask))
            assert CLIENT.get(f"{url}/v1/models", headers=mine).status_code == 401
        assert engine.running == 0


def test_a_rotated_key_works_on_for_its_grace_alone(serving: Serving, keys: KeyDatabase) -> None:
    engine = HeldEngine()
    with serving(engine, config=Config(stores=keys.path.parent)) as url:
        id, old = new(keys)
        until_status(url, old, 200)
        fresh = {"x-api-key": keys.rotate(id, grace=HANG)[1]}
        until_status(url, fresh, 200)
        # Both are one key, so a request may bring both.
        assert CLIENT.get(f"{url}/v1/models", headers=old | fresh).status_code == 200
        body = {"model": "scripted", "messages": HI, "stream": True}
        with CLIENT.stream("POST", f"{url}/v1/chat/completions", json=body, headers=old) as answer:
            pieces = answer.iter_text()
            next(pieces)
            last = {"x-api-key": keys.rotate(id)[1]}
            assert "revoked" in "".join(pieces)
        until_status(url, last, 200)
        assert [CLIENT.get(f"{url}/v1/models", headers=h).status_code for h in (old, fresh)] == [401, 401]


def test_two_servers_on_one_database(serving: Serving, keys: KeyDatabase) -> None:
    config = Config(stores=keys.path.parent)
    with serving(ScriptedEngine(), config=config) as one, serving(ScriptedEngine(), config=config) as two:
        _, admin = new(keys, Role.ADMIN)
        until_status(one, admin, 200)
        made = CLIENT.post(f"{one}/v1/alignment/admin/keys", json={}, headers=admin).json()
        headers = {"authorization": f"Bearer {made['key']}"}
        assert CLIENT.get(f"{one}/v1/models", headers=headers).status_code == 200  # at once
        until_status(two, headers, 200)
        gone = CLIENT.delete(f"{two}/v1/alignment/admin/keys/{made['id']}", headers=admin)
        assert gone.json()["state"] == "revoked"
        assert CLIENT.get(f"{two}/v1/models", headers=headers).status_code == 401
        until_status(one, headers, 401)
