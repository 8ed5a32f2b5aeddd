"""The file of keys and tenants: two processes at once, locks, damage, other layouts, and who may read it."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstream_fixtures import Proxy, Reply, ScriptedUpstream, before
from waiting import HANG

from heedful.server.access.access import Access
from heedful.server.access.client import Role
from heedful.server.access.database import AccessFailed, KeyDatabase
from heedful.server.access.key_text import OURS
from heedful.server.access.settings import TenantSettings
from heedful.server.config import Config, ConfigError
from heedful.strategies import RequestError
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
HI = [{"role": "user", "content": "Hi"}]
CLIENT = httpx.Client(timeout=HANG)


def test_the_file_is_ones_own_and_holds_no_key(tmp_path: Path) -> None:
    before_ = os.umask(0)
    try:
        database = KeyDatabase(tmp_path / "new")
        key, text = database.create_key("default", Role.USER)
        database.news()
        files = list((tmp_path / "new").iterdir())
    finally:
        os.umask(before_)
    assert {f.name for f in files} >= {"access.sqlite"}
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert text.encode() not in file.read_bytes() and text[20:].encode() not in file.read_bytes()
    assert OURS.fullmatch(text.encode()) and text.startswith(key.prefix) and len(key.prefix) < 20
    database.close()


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    """The file is made once, and no write is lost."""
    command = [sys.executable, "-m", "heedful.server", "keys", "create", "--folder", str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: KeyDatabase(tmp_path).create_key("default", Role.USER), range(20)))
    texts = [process.communicate(timeout=HANG)[0].decode().strip() for process in running]
    assert all(process.returncode == 0 for process in running)
    found = KeyDatabase(tmp_path).all().keys
    assert len(found) == len({key.id for key in found}) == 24
    access = Access(Config(), tmp_path)
    for text in (*texts, *(text for _, text in made)):
        credential = access.find([text.encode()])
        assert credential is not None and credential.client.role is Role.USER
    assert sorted(f.name for f in tmp_path.iterdir() if "sqlite." in f.name) == []  # no scratch file is left
    access.close()


def test_a_locked_database_is_told_and_reading_goes_on(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heedful.server.access.database._BUSY", 0.05)
    database = KeyDatabase(tmp_path)
    _, text = database.create_key("default", Role.ADMIN)
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url:
        other = sqlite3.connect(database.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        headers = {"x-api-key": text}
        refused = CLIENT.post(f"{url}/v1/alignment/admin/keys", json={}, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "access_failed")
        assert "locked" in refused.text
        assert CLIENT.get(f"{url}/v1/models", headers=headers).status_code == 200
        other.execute("ROLLBACK")
        other.close()
        assert CLIENT.post(f"{url}/v1/alignment/admin/keys", json={}, headers=headers).status_code == 201


def _broken(path: Path, how: str) -> None:
    if how == "garbage":
        path.write_bytes(b"no database at all" * 300)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pages":
        raw = bytearray(path.read_bytes())
        raw[4096:] = b"\xff" * (len(raw) - 4096)
        path.write_bytes(raw)
    else:
        db = sqlite3.connect(path)
        db.execute({"older": "PRAGMA user_version=0", "newer": "PRAGMA user_version=9"}[how])
        db.close()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("garbage", "damaged or no file of heedful's keys"),
        ("empty", "something else"),
        ("pages", "damaged"),
        ("older", "has layout 0; this heedful reads 1"),
        ("newer", "has layout 9; this heedful reads 1"),
    ],
)
def test_a_file_that_cant_be_read_stops_the_start(tmp_path: Path, how: str, told: str) -> None:
    database = KeyDatabase(tmp_path)
    database.create_key("default", Role.USER)
    _broken(database.path, how)
    with pytest.raises(ConfigError, match="access.sqlite") as refused:
        Access(Config(), tmp_path)
    assert told in str(refused.value)
    with pytest.raises(AccessFailed):
        database.create_key("default", Role.USER)


def test_a_server_shuts_where_a_file_appears_that_it_cant_read(serving: Serving, tmp_path: Path) -> None:
    """Perhaps it holds the first key: whoever runs the server can't have meant it to stay open."""
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url:
        assert CLIENT.get(f"{url}/v1/models").status_code == 200
        (tmp_path / "access.sqlite").write_bytes(b"\0" * 5000)
        until = time.monotonic() + HANG
        while CLIENT.get(f"{url}/v1/models").status_code != 401:
            assert time.monotonic() < until
        (tmp_path / "access.sqlite").unlink()
        _, text = KeyDatabase(tmp_path).create_key("default", Role.USER)
        while CLIENT.get(f"{url}/v1/models", headers={"x-api-key": text}).status_code != 200:
            assert time.monotonic() < until


def test_keys_stay_wanted_where_the_file_goes_away(serving: Serving, tmp_path: Path) -> None:
    database = KeyDatabase(tmp_path)
    _, text = database.create_key("default", Role.USER)
    headers = {"x-api-key": text}
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url:
        assert CLIENT.get(f"{url}/v1/models", headers=headers).status_code == 200
        database.path.rename(tmp_path / "elsewhere")
        for _ in range(20):
            assert CLIENT.get(f"{url}/v1/models").status_code == 401
            assert CLIENT.get(f"{url}/v1/models", headers=headers).status_code == 200
        # In its place comes one that never had a key.
        KeyDatabase(tmp_path).put_tenant("acme", TenantSettings())
        until = time.monotonic() + HANG
        while CLIENT.get(f"{url}/v1/models", headers=headers).status_code == 200:
            assert time.monotonic() < until
        assert CLIENT.get(f"{url}/v1/models").status_code == 401


def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = KeyDatabase(tmp_path)
    _, text = database.create_key("default", Role.USER, expires=time.time() + 60)
    access = Access(Config(), tmp_path)
    now = time.time()
    for ahead, lets_in in ((0, True), (59, True), (61, False), (-86400, True)):
        monkeypatch.setattr(time, "time", lambda at=now + ahead: at)
        assert (access.find([text.encode()]) is not None) == lets_in
    access.close()


def test_a_thousand_keys(tmp_path: Path) -> None:
    """Each is known, and looking costs one digest and one look into a table."""
    database = KeyDatabase(tmp_path)
    database.put_tenant("acme", TenantSettings())
    texts = [database.create_key("acme", Role.USER)[1] for _ in range(1000)]
    access = Access(Config(), tmp_path)
    assert len(access.keys()) == 1000
    for text in texts:
        found = access.find([text.encode()])
        assert found is not None and found.key.id in text
        assert access.find([text.encode()[:-1] + b"!"]) is None
    access.close()


def test_a_tenant_that_is_gone_from_the_file_shuts_out_its_keys(tmp_path: Path) -> None:
    database = KeyDatabase(tmp_path)
    _, text = database.create_key("acme", Role.ADMIN, others=["acme"])
    for tenants, known in (({"acme": TenantSettings()}, True), ({}, False)):
        access = Access(Config(tenants=tenants), tmp_path)
        assert (access.find([text.encode()]) is not None) == known and access.wanted
        access.close()
    with pytest.raises(RequestError, match="unknown tenant"):
        database.create_key("acme", Role.ADMIN)


# -- nowhere a key


def test_no_key_is_anywhere_but_where_it_is_made(
    proxy: Proxy,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scan of all that a server says while keys are used, misused, rotated and revoked."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TEST_ADMIN", "the-operators-own-key-0123")
    database = KeyDatabase(tmp_path)
    _, admin = database.create_key("default", Role.ADMIN)
    said: list[str] = []

    def echo(asked: Any) -> Reply:
        said.append(repr(asked))
        return Reply.json({"error": {"message": repr(asked.headers)}}, status=400)

    upstream.answers(echo)
    config = Config(
        upstreams=[before(upstream, forward_client_key=True, forward_headers=["authorization", "x-api-key"])],
        stores=tmp_path,
        api_key_env="TEST_ADMIN",
    )
    with proxy(config) as url:
        headers = {"authorization": f"Bearer {admin}"}
        keys = f"{url}/v1/alignment/admin/keys"
        made = CLIENT.post(keys, json={"name": "x"}, headers=headers).json()
        user = made.pop("key")
        said.append(repr(made))
        secrets = [admin, user, "the-operators-own-key-0123"]
        for key in (*secrets, "sk-unknown-0123456789", f"{user}x"):
            for brought in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
                for path in ("chat/completions", "messages", "responses", "files", "embeddings"):
                    body = {"model": "ours", "messages": HI, "input": "Hi", "max_tokens": 9}
                    body["alignment"] = "direct"
                    said.append(CLIENT.post(f"{url}/v1/{path}", json=body, headers=brought).text)
        said.append(CLIENT.get(keys, headers=headers).text)
        rotated = CLIENT.post(f"{keys}/{made['id']}/rotate", headers=headers).json()
        secrets.append(rotated.pop("key"))
        said += [repr(rotated), CLIENT.delete(f"{keys}/{made['id']}", headers=headers).text]
        said += [CLIENT.get(f"{url}/metrics", headers=headers).text, CLIENT.get(f"{url}/openapi.json").text]
        said.append(CLIENT.get(f"{keys}/{user}", headers=headers).text)  # taken for its id
    ours = [
        r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))
    ]  # theirs are the client's
    said += ["\n".join(f"{r.getMessage()} {r.exc_text}" for r in ours), *capfd.readouterr()]
    said += [file.read_bytes().decode("latin-1") for file in tmp_path.iterdir() if file.is_file()]
    for secret in secrets:
        for text in said:
            assert secret not in text
    assert not re.search(OURS.pattern.decode(), "".join(said))


def test_a_key_made_a_moment_ago_stays_here(
    proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has not seen its first key yet lets anybody in, and hands on other keys but not this one."""
    monkeypatch.setattr("heedful.server.access.access.LOOK", HANG)
    with proxy(Config(upstreams=[before(upstream)], stores=tmp_path)) as url:
        _, text = KeyDatabase(tmp_path).create_key("default", Role.USER)
        for key, goes in ((text, False), ("sk-theirs-0123456789", True)):
            for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
                body = {"model": "ours", "messages": HI}
                answer = CLIENT.post(f"{url}/v1/chat/completions", json=body, headers=headers)
                assert answer.status_code == 200
                assert ("authorization" in upstream.last.headers) == goes
                assert CLIENT.get(f"{url}/v1/files", headers=headers).status_code == 200
                assert ("authorization" in upstream.last.headers) == goes
