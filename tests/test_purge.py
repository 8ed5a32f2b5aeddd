"""A tenant that goes for good: nothing of it is left or comes back, and its name is nobody's by accident."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from held_engine import HeldEngine
from running import at_once
from typer.testing import CliRunner
from waiting import HANG

from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.access import Access
from heedful.server.access.client import Role
from heedful.server.access.database import KeyDatabase
from heedful.server.access.settings import RecordSettings, TenantSettings
from heedful.server.cli.errors import CommandError
from heedful.server.cli.main import app
from heedful.server.config import Config
from heedful.server.leftovers import Leftovers, TenantData
from heedful.server.records.file import RecordsFile, Wanted
from heedful.strategies import Call, Event, RequestError
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
ADMIN = "/v1/alignment/admin"
SECRET = "The vault of mithril opens at nine."
NAME = "lorien"
KEPT = TenantSettings(records=RecordSettings(texts="full"))


class House:
    """A folder with the stores, keys and records of two tenants, and whoever asks a server over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stores = Stores(folder, word_embedder(dimension=64))
        self.keys = KeyDatabase(folder)
        self.data = TenantData(self.keys, self.stores, folder / "usage.sqlite")
        _, self.boss = self.keys.create_key("default", Role.ADMIN)

    @property
    def config(self) -> Config:
        return Config(stores=self.folder)

    def tenant(self, name: str) -> str:
        """Makes one with a store, and a key of it."""
        self.keys.put_tenant(name, KEPT)
        store, _ = self.stores.below(name).create("norms")
        store.add([Item(f"{SECRET} {name}", id=f"{name}-rule")])
        return self.keys.create_key(name, Role.ADMIN, name=f"{name}'s own")[1]

    def holding(self, text: str) -> list[str]:
        """The files that have a text in them, or in their names."""
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return [
            str(path.relative_to(self.folder))
            for path in files
            if text.encode() in path.read_bytes() or text in path.relative_to(self.folder).as_posix()
        ]

    def asked(self, url: str) -> Asking:
        return Asking(url, self.boss)


class Asking(httpx.Client):
    """Whoever has this key."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(base_url=url, headers={"x-api-key": key}, timeout=HANG)

    def answer(self, **more: Any) -> httpx.Response:
        body = {"model": "scripted", "messages": [{"role": "user", "content": SECRET}], "user": "frodo"}
        return self.post("/v1/chat/completions", json={**body, **more})

    def records(self, tenant: str) -> list[Any]:
        found = self.get("/v1/alignment/records", params={"tenant": tenant}).json()["data"]
        return list(found)

    def used(self, tenant: str) -> int:
        entries = self.get("/v1/alignment/usage").json()["data"]
        return sum(each["month"]["tokens"] for each in entries if each["tenant"] == tenant)

    def purge(self, name: str = NAME) -> httpx.Response:
        return self.delete(f"{ADMIN}/tenants/{name}", params={"purge": "true"})

    def put(self, name: str = NAME, **query: Any) -> httpx.Response:  # type: ignore[override]
        return self.request("PUT", f"{ADMIN}/tenants/{name}", json={}, params=query)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "stores")
    yield made
    made.stores.close()
    made.keys.close()


def test_nothing_of_it_is_left(serving: Serving, house: House) -> None:
    mine, theirs = house.tenant(NAME), house.tenant("rohan")
    with serving(ScriptedEngine(), config=house.config, stores=house.stores) as url:
        boss = house.asked(url)
        for key in (mine, theirs):
            with Asking(url, key) as asking:
                assert [asking.answer(alignment="norms").status_code for _ in range(3)] == [200] * 3
        assert len(boss.records(NAME)) == 3 and boss.used(NAME) > 0
        assert len(house.holding(NAME)) > 3 and len(house.holding(SECRET)) > 1
        told = boss.purge()
        assert told.json() == {
            "name": NAME,
            "deleted": True,
            "revoked": 1,
            "purged": {"stores": ["norms"], "records": 3, "usage_days": 1, "keys": 1},
        }
        assert house.holding(NAME) == []
        assert boss.records(NAME) == [] and boss.used(NAME) == 0
        assert boss.get(f"{ADMIN}/keys", params={"tenant": NAME}).json()["data"] == []
        # The same again finds nobody, and the others are as they were.
        assert boss.purge().json()["error"]["code"] == "tenant_not_found"
        assert len(boss.records("rohan")) == 3 and boss.used("rohan") > 0
        with Asking(url, theirs) as asking:
            assert asking.get("/v1/alignment/stores/norms").json()["items"] == 1
        # Whoever is made under the name has nothing of it.
        assert boss.put().status_code == 201
        _, anew = house.keys.create_key(NAME, Role.ADMIN)
        boss.put(NAME)  # which looks
        with Asking(url, anew) as asking:
            assert asking.get("/v1/alignment/stores").json()["data"] == []
            assert asking.records(NAME) == []
            assert asking.answer().status_code == 200 and asking.used(NAME) > 0
        boss.close()


def test_a_name_that_was_in_use_is_given_to_nobody_by_accident(serving: Serving, house: House) -> None:
    key = house.tenant(NAME)
    with serving(ScriptedEngine(), config=house.config, stores=house.stores) as url, house.asked(url) as boss:
        with Asking(url, key) as asking:
            asking.answer()
        boss.records(NAME)  # waits until they are written
        assert boss.delete(f"{ADMIN}/tenants/{NAME}").json()["purged"] is None
        refused = boss.put()
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (409, "tenant_leftovers", "name")
        assert "1 store, 1 record, 1 key, the usage of 1 day" in error["message"]
        assert f"DELETE {ADMIN}/tenants/{NAME}?purge=true" in error["message"]
        assert "?reuse=true" in error["message"]
        assert boss.put(reuse="yes").json()["error"]["param"] == "reuse"
        assert boss.put(reuse="true").status_code == 201 and len(boss.records(NAME)) == 1
        assert boss.put().status_code == 200  # which is its own by now
        boss.delete(f"{ADMIN}/tenants/{NAME}")
        # One that is gone can still be purged.
        assert boss.purge().json()["purged"]["records"] == 1 and house.holding(SECRET) == []
        assert boss.put().status_code == 201


def test_who_and_what_cant_be_purged(serving: Serving, house: House) -> None:
    filed: Any = {"tenant": "rohan", "sha256": "0" * 64}
    config = Config.model_validate({"stores": house.folder, "tenants": {"filed": {}}, "keys": [filed]})
    house.tenant("rohan")
    key = house.tenant(NAME)
    with serving(ScriptedEngine(), config=config, stores=house.stores) as url, house.asked(url) as boss:
        codes = {name: boss.purge(name).json()["error"]["code"] for name in ("default", "filed", "rohan")}
        assert codes == {"default": "tenant_needed", "filed": "from_file", "rohan": "from_file"}
        assert boss.purge("nobody").status_code == boss.purge("NOBODY").status_code == 404
        assert boss.delete(f"{ADMIN}/tenants/{NAME}", params={"purge": "1"}).status_code == 400
        with Asking(url, key) as asking:
            assert asking.purge().status_code == 403
            assert asking.get("/v1/alignment/stores/norms").json()["items"] == 1


def test_what_runs_ends_first_and_leaves_nothing(serving: Serving, house: House) -> None:
    engine, key = HeldEngine(), house.tenant(NAME)
    with serving(engine, config=house.config, stores=house.stores) as url, house.asked(url) as boss:
        with Asking(url, key) as asking:
            body = {"model": "scripted", "messages": [{"role": "user", "content": SECRET}], "stream": True}
            with asking.stream("POST", "/v1/chat/completions", json=body) as answer:
                pieces = answer.iter_text()
                next(pieces)
                assert boss.purge().status_code == 200
                assert engine.running == 0
                assert "has been revoked" in "".join(pieces)
        assert boss.records(NAME) == [] and boss.used(NAME) == 0
        assert house.holding(NAME) == []


class Lingering(HeldEngine):
    """Takes its time to end; `over` once it has."""

    over = False

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        events = super().chat(call)
        try:
            async for event in events:
                yield event
        finally:
            for _ in range(20_000):
                await asyncio.sleep(0)
            self.over = True


def test_the_data_goes_when_what_ran_is_over(
    serving: Serving, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, key, over = Lingering(), house.tenant(NAME), []

    def purge(data: TenantData, name: str) -> Leftovers:
        over.append(engine.over)
        return Leftovers()

    monkeypatch.setattr(TenantData, "purge", purge)
    with serving(engine, config=house.config, stores=house.stores) as url, house.asked(url) as boss:
        with Asking(url, key) as asking:

            def go() -> httpx.Response:
                assert engine.begun.wait(HANG)
                return boss.purge()

            answer, purged = at_once(asking.answer, go)
            assert (answer.status_code, purged.status_code, over) == (401, 200, [True])


def test_what_ends_later_elsewhere_does_not_come_back(
    serving: Serving, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second server over the same folder has not heard of it, and its stream goes on to its end."""
    monkeypatch.setattr("heedful.server.access.access.LOOK", HANG)
    begun, go = threading.Event(), threading.Event()

    async def held(call: Any) -> str:
        begun.set()
        await asyncio.to_thread(go.wait, HANG)
        return SECRET

    key = house.tenant(NAME)
    others = Stores(house.folder, word_embedder(dimension=64))
    with (
        serving(ScriptedEngine(held), config=house.config, stores=others) as elsewhere,
        serving(ScriptedEngine(), config=house.config, stores=house.stores) as url,
        house.asked(url) as boss,
        Asking(url, key) as here,
        Asking(elsewhere, key) as there,
    ):
        assert here.answer().status_code == 200
        assert len(boss.records(NAME)) == 1  # both files are there

        def purge() -> httpx.Response:
            assert begun.wait(HANG)
            purged = boss.purge()
            go.set()
            return purged

        answer, purged = at_once(there.answer, purge)
        assert answer.status_code == 200 and purged.json()["purged"]["records"] == 1
        # Written by the other one before what it is asked next.
        with Asking(elsewhere, house.boss) as other:
            assert other.answer().status_code == 200
            assert other.records(NAME) == [] and other.used(NAME) == 0
    others.close()
    assert house.holding(NAME) == []


def test_keys_stay_wanted_where_the_last_one_went_with_its_tenant(tmp_path: Path) -> None:
    keys = KeyDatabase(tmp_path)
    keys.put_tenant(NAME, TenantSettings())
    keys.create_key(NAME, Role.USER)
    keys.begin_purge(NAME, None)
    TenantData(keys, None, tmp_path / "usage.sqlite").purge(NAME)
    assert keys.all().keys == []
    access = Access(Config(), tmp_path)
    assert access.wanted
    access.close()


_KILLED = """
import os, shutil, signal, sqlite3, sys
from pathlib import Path
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.database import KeyDatabase
from heedful.server.leftovers import TenantData

folder, at = Path(sys.argv[1]), sys.argv[2]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Dying(sqlite3.Connection):
    def execute(self, statement, *more):
        if statement.startswith(at):
            die()
        return super().execute(statement, *more)

if at == "rmtree":
    shutil.rmtree = die
connect = sqlite3.connect
sqlite3.connect = lambda *a, **k: connect(*a, **k, factory=Dying)
keys = KeyDatabase(folder)
keys.begin_purge("lorien", None)
TenantData(keys, Stores(folder, word_embedder(dimension=64)), folder / "usage.sqlite").purge("lorien")
"""


@pytest.mark.parametrize(
    "at",
    [
        "INSERT INTO purges",
        "DELETE FROM tenants",
        "rmtree",
        "DELETE FROM users",
        "VACUUM",
        "DELETE FROM used",
        "DELETE FROM keys",
        "UPDATE purges SET tenant",
    ],
)
def test_killed_at_any_step_it_goes_on_when_it_is_asked_again(
    serving: Serving, house: House, at: str
) -> None:
    key = house.tenant(NAME)
    with serving(ScriptedEngine(), config=house.config, stores=house.stores) as url:
        with Asking(url, key) as asking:
            asking.answer()
    house.stores.close()
    command = [sys.executable, "-c", _KILLED, str(house.folder), at]
    assert subprocess.run(command, env=os.environ).returncode == -signal.SIGKILL
    begun = at not in ("INSERT INTO purges", "DELETE FROM tenants")
    stores = Stores(house.folder, word_embedder(dimension=64))
    with serving(ScriptedEngine(), config=house.config, stores=stores) as url, house.asked(url) as boss:
        # It is there as it was, or gone; never a part of it.
        with Asking(url, key) as asking:
            assert asking.get("/v1/models").status_code == (401 if begun else 200)
        names = [tenant["name"] for tenant in boss.get(f"{ADMIN}/tenants").json()["data"]]
        assert (NAME in names) == (not begun)
        if begun:
            refused = boss.put(reuse="true")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "tenant_purging")
        assert boss.purge().status_code == 200
        assert house.holding(NAME) == [] == house.holding(SECRET)
        assert boss.put().status_code == 201
    stores.close()


def test_one_that_comes_too_late_harms_nobody_who_has_the_name_since(house: House) -> None:
    """Two ask for a purge; the first has done it, and the name is somebody else's, before the second gets on."""
    house.tenant(NAME)
    assert house.keys.begin_purge(NAME, "k1") == 1 and house.keys.begin_purge(NAME, "k2") == 0
    with pytest.raises(RequestError, match="is being purged"):
        house.keys.put_tenant(NAME, KEPT)
    assert house.data.purge(NAME).stores == ("norms",)
    house.tenant(NAME)
    assert house.data.purge(NAME) == Leftovers()
    assert house.data.of(NAME) == Leftovers(("norms",), keys=1)


def test_many_at_once(house: House) -> None:
    house.tenant(NAME)
    house.keys.begin_purge(NAME, None)
    done = at_once(*[lambda: house.data.purge(NAME)] * 4)
    assert sorted(map(bool, done)) == [False, False, False, True]


def test_files_of_before_there_were_purges(house: House, serving: Serving) -> None:
    key = house.tenant(NAME)
    with serving(ScriptedEngine(), config=house.config, stores=house.stores) as url:
        with Asking(url, key) as asking:
            asking.answer()
    for file, table in (("access.sqlite", "purges"), ("records.sqlite", "purged")):
        db = sqlite3.connect(house.folder / file)
        db.execute(f"DROP TABLE {table}")
        db.close()
    assert len(RecordsFile(house.folder).page(Wanted())) == 1
    house.keys.begin_purge(NAME, None)
    assert house.data.purge(NAME) == Leftovers(("norms",), 1, 1, 1, purging=True)
    assert house.holding(NAME) == []


def test_on_the_command_line(
    house: House, serving: Serving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("heedful.server.cli.tenants._NOTICED", 0)
    key = house.tenant(NAME)
    with serving(ScriptedEngine(), config=house.config, stores=house.stores) as url:
        with Asking(url, key) as asking:
            asking.answer()

    def tenants(*arguments: str, input: str | None = None) -> str:
        done = CliRunner().invoke(app, ["tenants", *arguments, "--folder", str(house.folder)], input=input)
        if isinstance(done.exception, CommandError):
            return f"refused: {done.exception}"
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output

    assert "its stores, records and usage stay (--purge)" in tenants("delete", NAME)
    left = "1 store, 1 record, 1 key, the usage of 1 day"
    refused = tenants("create", NAME)
    assert left in refused and f"heedful tenants delete {NAME} --purge" in refused and "--reuse" in refused
    assert tenants("create", NAME, "--reuse") == f"made the tenant {NAME}\n"
    asked = tenants("delete", NAME, "--purge", input="n\n")
    assert f"with {left}?" in asked and "Aborted" in asked and house.holding(SECRET)
    house.keys.begin_purge(NAME, None)  # as one that was cut off
    assert f"{NAME}   a purge that was cut off" in tenants("list")
    assert "is being purged" in tenants("create", NAME)
    assert tenants("delete", NAME, "--purge", "--yes") == f"deleted the tenant {NAME}, with {left}\n"
    assert house.holding(NAME) == [] == house.holding(SECRET)
    assert "unknown tenant" in tenants("delete", NAME, "--purge", "--yes")
    assert "can't be deleted" in tenants("delete", "default", "--purge", "--yes")
    assert tenants("create", NAME) == f"made the tenant {NAME}\n"
    file = tmp_path / "heedful.yaml"
    file.write_text(f"stores: {house.folder}\nkeys: [{{tenant: {NAME}, sha256: {'a' * 64}}}]\n")
    assert "stands in" in tenants("delete", NAME, "--purge", "--yes", "--config", str(file))
