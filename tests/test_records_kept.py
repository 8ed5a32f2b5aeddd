"""Where records are kept: whose they are, how long, how they are erased, and what becomes of them in bad times."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest
from running import in_thread, listening
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from upstream_fixtures import ScriptedUpstream, recording
from waiting import HANG

from heedful.prompts import Prompts
from heedful.server.access.client import SCOPE, Client, Role, Tenant
from heedful.server.access.settings import RecordSettings, TenantSettings
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.observe.facts import Facts, facts_of
from heedful.server.records import keeping
from heedful.server.records.file import NAME, RecordsFile, Wanted
from heedful.server.records.keeping import DecisionRecords
from heedful.server.records.record import Entry
from heedful.server.service import Service
from heedful.strategies import Resources
from heedful.strategies.scripted import ScriptedEngine

RECORDS = "/v1/alignment/records"
KEPT = TenantSettings(records=RecordSettings(texts="full", keep_days=10))
CLIENTS = {
    "boss": Client(Tenant("default", KEPT), Role.ADMIN, "k-boss"),
    "anna": Client(Tenant("a", KEPT), Role.ADMIN, "k-anna"),
    "ben": Client(Tenant("b", KEPT), Role.ADMIN, "k-ben"),
    "user": Client(Tenant("a", KEPT), Role.USER, "k-user"),
    "author": Client(Tenant("a", KEPT), Role.AUTHOR, "k-author"),
    "unkept": Client(Tenant("c"), Role.ADMIN, "k-unkept"),
}


class Someone:
    """Stands behind the door and says who has come in: the header `x-who`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            client = CLIENTS[dict(scope["headers"])[b"x-who"].decode()]
            scope[SCOPE] = client
            if facts := facts_of(scope):
                facts.client = client
        await self._app(scope, receive, send)


@contextmanager
def serving_someone(folder: Path) -> Iterator[tuple[Callable[..., httpx.Response], Service]]:
    config = Config(stores=folder)
    service = Service(config, {"scripted": ScriptedEngine()}, Alignments(config, Resources(Prompts())))
    service.sinks.append(service.records)
    app = create_app(service)
    app.user_middleware.insert(-1, Middleware(Someone))  # behind all but the way to the handlers

    @asynccontextmanager
    async def main() -> AsyncIterator[str]:
        async with listening(app) as url:
            yield url

    with in_thread(main) as (url, _), httpx.Client(base_url=url) as client:

        def call(who: str, method: str, path: str, **more: Any) -> httpx.Response:
            return client.request(method, path, headers={"x-who": who}, **more)

        yield call, service
        service.records.close()


def ask(call: Callable[..., httpx.Response], who: str, user: str = "ann", text: str = "Hi") -> str:
    body = {"model": "scripted", "messages": [{"role": "user", "content": text}], "user": user}
    answer = call(who, "POST", "/v1/chat/completions", json=body)
    assert answer.status_code == 200
    found: str = answer.json()["id"]
    return found


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [record["id"] for record in answer.json()["data"]]


def test_a_tenants_records_are_its_own(tmp_path: Path) -> None:
    with serving_someone(tmp_path) as (call, _):
        mine, theirs, ours = (ask(call, who) for who in ("user", "ben", "boss"))
        ask(call, "unkept")
        assert ids(call("anna", "GET", RECORDS)) == [mine]
        assert ids(call("ben", "GET", RECORDS)) == [theirs]
        assert ids(call("unkept", "GET", RECORDS)) == []
        assert ids(call("boss", "GET", RECORDS)) == [ours, theirs, mine]
        assert ids(call("boss", "GET", RECORDS, params={"tenant": "b"})) == [theirs]
        assert call("boss", "GET", f"{RECORDS}/{mine}").json()["key_id"] == "k-user"
        hidden, nothing = (call("anna", "GET", f"{RECORDS}/{id}") for id in (theirs, "chatcmpl-none"))
        assert (hidden.status_code, hidden.text) == (404, nothing.text)
        for tenant in ("b", "nobody"):
            refused = call("anna", "GET", RECORDS, params={"tenant": tenant})
            assert refused.status_code == 403 and tenant not in refused.json()["error"]["message"].split()
        exported = call("ben", "GET", f"{RECORDS}/export").text
        assert [json.loads(line)["id"] for line in exported.splitlines()] == [theirs]


@pytest.mark.parametrize("who", ["user", "author"])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/x"), ("GET", "/export"), ("DELETE", "")])
def test_records_are_for_administrators(tmp_path: Path, who: str, method: str, path: str) -> None:
    with serving_someone(tmp_path) as (call, _):
        ask(call, who)
        assert call(who, method, RECORDS + path, params={"user": "ann"}).status_code == 403


def test_filters_and_pages(tmp_path: Path) -> None:
    with serving_someone(tmp_path) as (call, _):
        first, second, third = (ask(call, "boss", user=name) for name in ("ann", "bob", "ann"))

        def listed(**params: Any) -> list[str]:
            return ids(call("boss", "GET", RECORDS, params=params))

        assert listed(user="ann") == [third, first]
        assert listed(user="an") == listed(key="k-anna") == listed(verdict="failed") == []
        assert listed(model="scripted", alignment="direct", key="k-boss") == [third, second, first]
        times = {r["id"]: r["time"] for r in call("boss", "GET", RECORDS).json()["data"]}
        assert listed(since=times[second]) == [third, second]
        assert listed(until=times[second]) == [first]
        page = call("boss", "GET", RECORDS, params={"limit": 2}).json()
        assert listed(limit=2, after=page["next_after"]) == [first]
        for bad in ({"limit": 0}, {"after": "x"}, {"since": "soon"}, {"limit": "9" * 40}):
            assert call("boss", "GET", RECORDS, params=bad).status_code == 400


def test_exports(tmp_path: Path) -> None:
    with serving_someone(tmp_path / "stores") as (call, _):
        asked = [ask(call, "boss", user=name) for name in ("ann", "bob")]
        parquet = call("boss", "GET", f"{RECORDS}/export", params={"format": "parquet"})
        lines = call("boss", "GET", f"{RECORDS}/export", params={"user": "bob"})
        assert call("boss", "GET", f"{RECORDS}/export", params={"format": "csv"}).status_code == 400
        assert call("ben", "GET", f"{RECORDS}/export", params={"format": "parquet"}).status_code == 200
    (tmp_path / "records.parquet").write_bytes(parquet.content)
    rows = pyarrow.parquet.read_table(tmp_path / "records.parquet").to_pylist()
    assert [row["id"] for row in rows] == asked and rows[0]["users"] == ["ann"]
    assert json.loads(rows[1]["record"]) == json.loads(lines.text)


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob(f"{NAME}*"))


def test_erasure_leaves_nothing(tmp_path: Path) -> None:
    with serving_someone(tmp_path) as (call, _):
        for user in ("ann-of-the-lake", "bob"):
            for _ in range(5):
                last = ask(call, "anna", user=user, text=f"I am {user} " * 400)
        elsewhere = ask(call, "ben", user="bob")
        assert len(ids(call("anna", "GET", RECORDS))) == 10
        assert bytes_in(tmp_path).count(b"ann-of-the-lake") > 5
        erased = call("anna", "DELETE", RECORDS, params={"user": "ann-of-the-lake"})
        assert erased.json() == {"object": "alignment.erased", "erased": 5}
        assert b"ann-of-the-lake" not in bytes_in(tmp_path)
        assert ids(call("anna", "GET", RECORDS, params={"user": "ann-of-the-lake"})) == []
        told, *others = call("anna", "GET", RECORDS).json()["data"]
        assert (told["object"], told["erased"], told["key_id"]) == ("alignment.erasure", 5, "k-anna")
        assert others[0]["id"] == last and len(others) == 5
        assert call("anna", "GET", f"{RECORDS}/{told['id']}").json() == told
        call("anna", "DELETE", RECORDS, params={"user": "bob"})
        assert ids(call("ben", "GET", RECORDS)) == [elsewhere]  # another tenant's bob
        assert call("anna", "DELETE", RECORDS, params={"user": "bob", "tenant": "b"}).status_code == 403
        assert call("anna", "DELETE", RECORDS).status_code == 400
        refused = call("anna", "DELETE", RECORDS, params={"user": "bob", "since": "2026-01-01"})
        assert refused.status_code == 400  # and not all of them


def entries(count: int, seed: int, at: float = 0.0) -> list[Entry]:
    rng = random.Random(seed)
    made = []
    for i in range(count):
        user = f"user-{rng.randrange(50):03}"
        body = f'"{user} said"'.encode() * rng.randint(1, 60)
        made.append(Entry(f"r{seed}-{i}", at, "a", 10, None, (user,), "m", "direct", None, body))
    return made


def test_erasure_reaches_what_pages_have_kept_of_earlier_deletions(tmp_path: Path) -> None:
    """SQLite's secure_delete leaves copies of rows that were moved from page to page; the erasure does not."""
    file = RecordsFile(tmp_path)
    with file.opened() as db:
        for seed in range(20):
            file.write(db, entries(300, seed, at=seed * 1000))
            file.expire(db, now=seed * 1000 - 5000 + 10 * 86400)
        gone = [f"user-{n:03}" for n in (*range(0, 40, 2), 1, 3, 5)]
        for user in gone:
            assert file.erase(db, "a", user, None) > 0
    assert not [user for user in gone if user.encode() in bytes_in(tmp_path)]
    assert len(file.page(Wanted(user="user-007"), limit=1000)) > 10


def facts(user: str = "ann", at: float = 0.0) -> Facts:
    made = Facts("POST", "/v1/chat/completions", client=CLIENTS["boss"], came=at)
    made.route, made.fields = "/v1/chat/completions", {"user": user, "messages": [{"role": "user"}]}
    return made


def test_records_expire(tmp_path: Path) -> None:
    now, day = [1e9], 86400.0
    records = DecisionRecords(tmp_path, {}, clock=lambda: now[0])
    for at in (1e9, 1e9 + 5 * day):
        records(facts(at=at))
    records.flush().result(HANG)
    file = records.file()

    def left(days: float) -> int:
        now[0] = 1e9 + days * day
        records.expire().result(HANG)
        return len(file.page(Wanted()))

    assert [left(days) for days in (9.9, 10.1, 14.9, 15.1)] == [2, 1, 1, 0]
    records.close()


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    file, sizes = RecordsFile(tmp_path), []
    with file.opened() as db:
        for seed in range(12):
            file.write(db, entries(500, seed, at=seed * 86400))
            while file.expire(db, now=(seed + 7) * 86400):
                pass
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            sizes.append(file.path.stat().st_size)
        assert len(file.page(Wanted(), limit=10_000)) <= 2000
        assert max(sizes[6:]) < 1.5 * max(sizes[:6])
        while file.expire(db, now=1e9):
            pass
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert file.path.stat().st_size < sizes[0] / 4


def test_a_shorter_time_holds_for_what_is_there(tmp_path: Path) -> None:
    records = DecisionRecords(tmp_path, {})
    records(facts(at=time.time() - 5 * 86400))
    records.close()
    again = DecisionRecords(tmp_path, {"default": RecordSettings(keep_days=1)})
    again.start()
    again.flush().result(HANG)
    assert again.file().page(Wanted()) == []
    again.close()


def test_a_full_queue_is_told_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "_MOST", 3)
    monkeypatch.setattr(keeping, "_BATCH", 1)
    with serving_someone(tmp_path) as (call, service):
        ask(call, "boss")
        (first,) = ids(call("boss", "GET", RECORDS))
        with sqlite3.connect(tmp_path / NAME, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")  # as a long erasure by another process
            for _ in range(10):
                ask(call, "boss")  # all are answered
            assert service.records.dropped >= 10 - 3 - 1
            other.execute("ROLLBACK")
        kept = ids(call("boss", "GET", RECORDS))
    assert len(kept) == 11 - service.records.dropped and kept[-1] == first
    assert any("records are lost" in line.getMessage() for line in caplog.records)


def test_odd_users_are_found_and_erased(tmp_path: Path) -> None:
    odd = ["x" * 100_000, "nul\0in it", "'; DROP TABLE records; --", "🦊 %_*", " "]
    with serving_someone(tmp_path) as (call, _):
        asked = [ask(call, "anna", user=user) for user in odd]
        for user, id in zip(odd[1:], asked[1:], strict=True):
            assert ids(call("anna", "GET", RECORDS, params={"user": user})) == [id]
            assert call("anna", "DELETE", RECORDS, params={"user": user}).json()["erased"] == 1
        assert ids(call("anna", "GET", RECORDS))[-1] == asked[0]
    file = RecordsFile(tmp_path)
    with file.opened() as db:
        assert file.erase(db, "a", odd[0], None) == 1


def test_what_no_record_can_hold_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = DecisionRecords(tmp_path, {})
    bad = facts()
    bad.fields = {"user": "eve", "messages": [{"role": "user", "content": object()}, {2: {3}, "x": 2}]}
    for each in (facts("ann"), bad, facts("bob")):
        records(each)
    records.close()
    kept = [json.loads(body)["users"] for _, body in RecordsFile(tmp_path).page(Wanted())]
    assert [["bob"], ["ann"]] == [users for users in kept if users != ["eve"]]
    assert len(kept) + records.dropped == 3


def test_a_stop_loses_nothing(tmp_path: Path, serving: Callable[..., AbstractContextManager[str]]) -> None:
    config = Config(stores=tmp_path, tenants={"default": KEPT})
    with serving(ScriptedEngine(), config=config) as url:
        for i in range(20):
            body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "user": f"u{i}"}
            httpx.post(f"{url}/v1/chat/completions", json=body)
    assert len(RecordsFile(tmp_path).page(Wanted())) == 20


def test_a_file_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    with serving_someone(tmp_path) as (call, _):
        ask(call, "boss")
        assert len(ids(call("boss", "GET", RECORDS))) == 1
        for path in tmp_path.glob(f"{NAME}*"):
            path.unlink()
        again = ask(call, "boss")
        until = time.monotonic() + HANG
        while not (tmp_path / NAME).exists() and time.monotonic() < until:
            threading.Event().wait(0.01)
        assert ids(call("boss", "GET", RECORDS)) == [again]


def test_a_kill_keeps_what_was_written(
    tmp_path: Path,
    upstream: ScriptedUpstream,
    heedful_serve: Callable[..., AbstractContextManager[tuple[str, Any]]],
) -> None:
    config = recording(tmp_path, upstream, texts="full")
    body = {"model": "theirs", "messages": [{"role": "user", "content": "Hi"}]}
    with heedful_serve("--config", str(config), log=tmp_path / "log") as (url, process):
        for _ in range(20):
            assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200
        assert len(httpx.get(f"{url}{RECORDS}").json()["data"]) == 20
        for _ in range(5):
            httpx.post(f"{url}/v1/chat/completions", json=body)
        process.kill()
        process.wait(HANG)
    kept = RecordsFile(tmp_path / "stores").page(Wanted())
    assert 20 <= len(kept) <= 25
