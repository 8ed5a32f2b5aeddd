"""/v1/alignment/admin: keys and tenants over HTTP, and what one tenant's admin learns of another's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import HANG

from heedful.server.access.client import Role
from heedful.server.access.database import KeyDatabase
from heedful.server.access.settings import FloorSettings, TenantSettings
from heedful.server.config import Config, ConfigError
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
ADMIN = "/v1/alignment/admin"


class Admin(httpx.Client):
    """Whoever has this key."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=HANG)

    def made(self, **body: Any) -> dict[str, Any]:
        answer = self.post(f"{ADMIN}/keys", json=body)
        assert answer.status_code == 201, answer.text
        assert answer.headers["cache-control"] == "no-store"
        made: dict[str, Any] = answer.json()
        return made

    def ids(self) -> set[str]:
        return {key["id"] for key in self.get(f"{ADMIN}/keys").json()["data"]}


@pytest.fixture
def boss(serving: Serving, tmp_path: Path) -> Iterator[Admin]:
    """An admin of `default`, on a server whose file holds the tenant `filed`."""
    _, key = KeyDatabase(tmp_path).create_key("default", Role.ADMIN)
    config = Config(stores=tmp_path, tenants={"filed": TenantSettings(reads=("norms",))})
    with serving(ScriptedEngine(), config=config) as url, Admin(url, key) as admin:
        yield admin


def as_other(boss: Admin, key: str) -> Admin:
    return Admin(str(boss.base_url), key)


def test_a_keys_life(boss: Admin) -> None:
    expires = time.time() + 3600
    made = boss.made(role="author", name="ours", expires=expires, stores=["b", "a"], limits={"concurrent": 3})
    text = made.pop("key")
    assert text.startswith(made["prefix"]) and made["id"] in made["prefix"] and len(text) == 55
    assert made["limits"] == {"concurrent": 3} and made["stores"] == ["a", "b"]
    assert boss.get(f"{ADMIN}/keys/{made['id']}").json() == made
    with as_other(boss, text) as author:
        assert author.get("/v1/models").status_code == 200
        assert author.get(f"{ADMIN}/keys").status_code == 403
        rotated = boss.post(f"{ADMIN}/keys/{made['id']}/rotate").json()
        assert author.get("/v1/models").status_code == 401
        kept = ("id", "tenant", "role", "name", "expires", "stores", "limits", "created")
        assert {k: rotated[k] for k in kept} == {k: made[k] for k in kept}
    with as_other(boss, rotated["key"]) as author:
        assert author.get("/v1/models").status_code == 200
        assert boss.delete(f"{ADMIN}/keys/{made['id']}").json()["state"] == "revoked"
        assert author.get("/v1/models").status_code == 401
    assert boss.delete(f"{ADMIN}/keys/{made['id']}").status_code == 200  # the same again
    again = boss.post(f"{ADMIN}/keys/{made['id']}/rotate", json={"grace": 5})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "key_revoked")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"role": "root"}, "role"),
        ({"expires": "yesterday"}, "expires"),
        ({"expires": 1.0}, "expires"),
        ({"stores": ["a"]}, "stores"),
        ({"limits": {"concurrent": 0}}, "limits.concurrent"),
        ({"limits": {"forever": 1}}, "limits"),
        ({"tenant": "nobody"}, "tenant"),
        ({"tenants": "default"}, "tenants"),
        ({"key": "hk_mine"}, "key"),
    ],
)
def test_what_is_refused_names_the_field(boss: Admin, body: dict[str, Any], param: str) -> None:
    before = boss.ids()
    answer = boss.post(f"{ADMIN}/keys", json=body)
    assert answer.status_code in (400, 404) and answer.json()["error"]["param"].startswith(param), answer.text
    assert boss.ids() == before


def test_an_admin_can_turn_its_own_key(boss: Admin) -> None:
    """The answer with the new text comes though the asker's own key ends with it."""
    (id,) = boss.ids()
    for _ in range(10):
        rotated = boss.post(f"{ADMIN}/keys/{id}/rotate")
        assert rotated.status_code == 200
        boss.headers["authorization"] = f"Bearer {rotated.json()['key']}"
    assert boss.delete(f"{ADMIN}/keys/{id}").status_code == 200
    assert boss.get(f"{ADMIN}/keys").status_code == 401


def test_an_admin_of_a_tenant_sees_to_its_own_alone(boss: Admin) -> None:
    for tenant in ("acme", "other"):
        assert boss.put(f"{ADMIN}/tenants/{tenant}", json={}).status_code == 201
    others = boss.made(tenant="other")
    with as_other(boss, boss.made(tenant="acme", role="admin")["key"]) as acme:
        mine = acme.made(role="admin")
        assert mine["tenant"] == "acme" and acme.ids() < boss.ids() and others["id"] not in acme.ids()
        assert acme.get(f"{ADMIN}/keys", params={"tenant": "other"}).json()["data"] == []
        # What is another's is told as what is not there.
        for tenant in ("other", "default", "nobody", "filed"):
            answer = acme.post(f"{ADMIN}/keys", json={"tenant": tenant})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "tenant_not_found")
            told = acme.get(f"{ADMIN}/tenants/{tenant}")
            assert told.json()["error"]["message"] == f"unknown tenant {tenant!r}"
            assert acme.put(f"{ADMIN}/tenants/{tenant}", json={}).status_code == 403
        for id in (others["id"], "nothing1"):
            for answer in (
                acme.get(f"{ADMIN}/keys/{id}"),
                acme.delete(f"{ADMIN}/keys/{id}"),
                acme.post(f"{ADMIN}/keys/{id}/rotate"),
            ):
                assert answer.json()["error"]["message"] == f"unknown key {id!r}"
        assert [t["name"] for t in acme.get(f"{ADMIN}/tenants").json()["data"]] == ["acme"]
        # Floor, limits and records are the operator's.
        assert acme.put(f"{ADMIN}/tenants/acme", json={}).status_code == 403
        assert acme.delete(f"{ADMIN}/tenants/acme").status_code == 403
        assert acme.delete(f"{ADMIN}/keys/{mine['id']}").status_code == 200
    with as_other(boss, others["key"]) as other:
        assert other.get("/v1/models").status_code == 200


def test_a_tenants_life(boss: Admin) -> None:
    settings = {"limits": {"concurrent": 2}, "floor": {"enforce": ["principles"]}, "reads": ["norms"]}
    made = boss.put(f"{ADMIN}/tenants/acme", json=settings)
    assert made.status_code == 201 and made.json()["settings"] == settings
    key = boss.made(tenant="acme")
    assert boss.get(f"{ADMIN}/tenants/acme").json()["keys"] == 1
    changed = boss.put(f"{ADMIN}/tenants/acme", json={"records": {"keep_days": 3}})
    assert changed.status_code == 200 and changed.json()["settings"] == {"records": {"keep_days": 3.0}}
    with as_other(boss, key["key"]) as user:
        assert user.get("/v1/models").status_code == 200
        gone = boss.delete(f"{ADMIN}/tenants/acme").json()
        assert gone == {"name": "acme", "deleted": True, "revoked": 1, "purged": None}
        assert user.get("/v1/models").status_code == 401
    assert boss.get(f"{ADMIN}/tenants/acme").status_code == 404
    assert boss.put(f"{ADMIN}/tenants/acme", json={}, params={"reuse": "true"}).status_code == 201
    with as_other(boss, key["key"]) as user:
        assert user.get("/v1/models").status_code == 401


def test_tenants_that_cant_be_changed_or_made(boss: Admin) -> None:
    filed = boss.get(f"{ADMIN}/tenants/filed").json()
    assert filed["from"] == "file" and filed["settings"] == {"reads": ["norms"]}
    assert boss.put(f"{ADMIN}/tenants/filed", json={}).json()["error"]["code"] == "from_file"
    assert boss.delete(f"{ADMIN}/tenants/filed").status_code == 409
    assert boss.delete(f"{ADMIN}/tenants/default").status_code == 409
    for name, body in (("UP", {}), ("a", {"floors": {}}), ("a", {"floor": {"allow": {"n": 0}}})):
        answer = boss.put(f"{ADMIN}/tenants/{name}", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"], answer.text
    assert boss.made(tenant="filed")["tenant"] == "filed"


def test_a_server_without_keys_makes_none_for_whoever_comes_by(serving: Serving, tmp_path: Path) -> None:
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url:
        assert httpx.get(f"{url}{ADMIN}/keys").json()["data"] == []
        assert httpx.get(f"{url}{ADMIN}/tenants/default").json()["from"] == "default"
        for method, path in (("POST", "keys"), ("PUT", "tenants/acme")):
            answer = httpx.request(method, f"{url}{ADMIN}/{path}", json={})
            assert answer.status_code == 403 and "heedful keys create" in answer.text
    assert not list(tmp_path.iterdir())


def test_settings_pass_the_checks_and_are_told(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from heedful.server.access.access import Access
    from heedful.strategies import RequestError

    made: list[Access] = []
    heard: list[str] = []

    def check(name: str, settings: TenantSettings) -> None:
        if settings.floor.enforce:
            raise RequestError("floor.enforce: there is no such step", param="floor.enforce")

    began = Access.__init__

    def begin(access: Access, *arguments: Any) -> None:
        began(access, *arguments)
        access.checks.append(check)
        access.changed.append(lambda: heard.append(",".join(t.name for t in access.tenants())))
        made.append(access)

    monkeypatch.setattr(Access, "__init__", begin)
    database = KeyDatabase(tmp_path)
    _, key = database.create_key("default", Role.ADMIN)
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url, Admin(url, key) as boss:
        bad: Any = {"floor": {"enforce": ["nonsense"]}}
        refused = boss.put(f"{ADMIN}/tenants/acme", json=bad)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "floor.enforce"
        assert boss.put(f"{ADMIN}/tenants/acme", json={"reads": ["norms"]}).status_code == 201
        assert heard[-1] == "acme,default"
        tenant = made[0].tenant("acme")
        boss.made(tenant="acme")
        assert made[0].tenant("acme") is tenant  # nothing of it has changed
        # What another process writes without the check is not taken up.
        floor = TenantSettings(floor=FloorSettings(enforce=("nonsense",)))
        database.put_tenant("acme", floor)
        database.put_tenant("worse", floor)
        _, user = database.create_key("worse", Role.USER)
        boss.made()  # looks
        assert made[0].tenant("acme") is tenant and made[0].tenant("worse") is None
        assert "the tenant 'worse': its settings in the database can't be used" in caplog.text
        with as_other(boss, user) as worse:
            assert worse.get("/v1/models").status_code == 401
        for how, revoked in ({}, 1), ({"purge": "true"}, 0):  # it can be deleted all the same
            gone = boss.delete(f"{ADMIN}/tenants/worse", params=how)
            assert gone.status_code == 200 and gone.json()["revoked"] == revoked
            assert boss.delete(f"{ADMIN}/tenants/worse", params=how).status_code == 404
            database.put_tenant("worse", floor)


def test_a_floor_that_cannot_be_is_not_taken_up_from_the_database(
    serving: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = KeyDatabase(tmp_path)
    _, key = database.create_key("default", Role.ADMIN)
    good = TenantSettings(floor=FloorSettings(enforce=("principles",)))
    bad = TenantSettings(floor=FloorSettings(enforce=("refine",)))  # it decodes
    database.put_tenant("acme", good)
    config = Config(stores=tmp_path)
    with serving(ScriptedEngine(), config=config) as url, Admin(url, key) as boss:
        _, user = database.create_key("acme", Role.USER)
        database.put_tenant("acme", bad)
        refused = boss.put(f"{ADMIN}/tenants/acme", json=bad.model_dump(mode="json"))
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (400, "floor", "invalid_floor")
        boss.made()  # looks
        assert "the tenant 'acme': its settings in the database can't be used" in caplog.text
        with as_other(boss, user) as acme:  # what held goes on to hold
            hi = [{"role": "user", "content": "Hi"}]
            answer = acme.post("/v1/chat/completions", json={"model": "scripted", "messages": hi})
            assert answer.status_code == 200 and answer.json()["usage"]["prompt_tokens"] > 100
    with pytest.raises(ConfigError, match=r"tenants\.acme\.floor\.enforce"), serving(config=config):
        pass
