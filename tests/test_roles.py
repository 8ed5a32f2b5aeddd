"""What each role may ask for: all operations, all roles; and which key counts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from openai import OpenAI, PermissionDeniedError
from waiting import HANG

from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Role
from heedful.server.access.database import KeyDatabase
from heedful.server.access.settings import KeySettings, TenantSettings
from heedful.server.app import OPERATIONS
from heedful.server.config import Config, ConfigError, load
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
CLIENT = httpx.Client(timeout=HANG)
TEXTS = {role: f"a-key-of-the-role-{role.name.lower()}" for role in Role}
ADMIN = {"x-api-key": TEXTS[Role.ADMIN]}


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def of_the_file(**more: Any) -> Config:
    keys = [
        KeySettings(tenant="default", role=role.name.lower(), sha256=digest(text))  # type: ignore[arg-type]
        for role, text in TEXTS.items()
    ]
    return Config(keys=keys, **more)


@pytest.fixture(scope="module")
def server(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    stores = Stores(tmp_path_factory.mktemp("stores"), word_embedder(dimension=64))
    stores.create("norms")
    with serving(ScriptedEngine(), config=of_the_file(metrics="open"), stores=stores) as url:
        yield url
    stores.close()


@pytest.mark.parametrize("role", [None, *Role])
def test_all_operations_and_roles(server: str, role: Role | None) -> None:
    headers = {} if role is None else {"x-api-key": TEXTS[role]}
    for operation in OPERATIONS:
        store = "none" if operation.method == "DELETE" else "norms"
        names = {"store": store, "id": "nothing", "name": "nobody", "model": "scripted", "file": "none"}
        path = re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: names[found[1]], operation.path)  # noqa: B023
        body: dict[str, str] | None = {} if operation.method in ("POST", "PUT") else None
        status = CLIENT.request(operation.method, f"{server}{path}", json=body, headers=headers).status_code
        if operation.role is None:
            assert status == 200, path
        elif role is None:
            assert status == 401, path
        else:
            assert (status == 403) == (role < operation.role), (operation.method, path, status)
            assert status != 401


def test_everything_under_v1_has_a_role() -> None:
    for operation in OPERATIONS:
        assert (operation.role is None) == (not operation.path.startswith("/v1")), operation.path
    roles = {(each.method, each.path): each.role for each in OPERATIONS}
    assert roles["POST", "/v1/chat/completions"] is Role.USER
    assert roles["POST", "/v1/alignment/stores/{store}/items"] is Role.AUTHOR
    assert roles["DELETE", "/v1/alignment/stores/{store}"] is Role.ADMIN
    assert {role for (_, path), role in roles.items() if "/admin" in path} == {Role.ADMIN}


def test_a_refusal_in_each_shape(server: str) -> None:
    client = OpenAI(base_url=f"{server}/v1", api_key=TEXTS[Role.USER], max_retries=0, timeout=HANG)
    with pytest.raises(PermissionDeniedError) as refused:
        client.post("/alignment/stores/norms/items", body={"text": "x"}, cast_to=object)
    assert (refused.value.type, refused.value.code) == ("permission_error", "not_allowed")
    assert "author" in refused.value.message
    other = anthropic.Anthropic(base_url=server, api_key="no key of this server's", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        other.models.list()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("authorization", "Bearer " + TEXTS[Role.USER]), ("x-api-key", TEXTS[Role.ADMIN])], 401),
        ([("x-api-key", TEXTS[Role.USER]), ("x-api-key", TEXTS[Role.ADMIN])], 401),
        ([("authorization", "Bearer " + TEXTS[Role.USER]), ("x-api-key", TEXTS[Role.USER])], 200),
        ([("authorization", "Bearer sk-of-another"), ("x-api-key", TEXTS[Role.USER])], 200),
        ([("x-api-key", f"k{i}") for i in range(5)] + [("x-api-key", TEXTS[Role.USER])], 401),
        ([("x-api-key", "x" * 60_000)], 401),
        ([("authorization", "bearer   " + TEXTS[Role.USER])], 200),
        ([("x-api-key", TEXTS[Role.USER][:-1])], 401),
        ([("x-api-key", TEXTS[Role.USER].upper())], 401),
        ([("x-api-key", digest(TEXTS[Role.USER]))], 401),
        ([("x-api-key", "\xff\xfe")], 401),
    ],
)
def test_which_key_counts(server: str, headers: list[tuple[str, str]], status: int) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    answer = CLIENT.get(f"{server}/v1/models", headers=raw)
    assert answer.status_code == status, answer.text
    assert answer.text.isascii() and not any(text in answer.text for text in TEXTS.values())


@pytest.mark.parametrize("settings", [{}, {"metrics": "none"}])
def test_metrics_name_tenants_to_the_operator_alone(serving: Serving, settings: dict[str, Any]) -> None:
    """Who reaches the port does not learn who is served, nor what they use."""
    acme = KeySettings(tenant="acme", role="admin", sha256=digest("an-admin-of-acmes"))
    config = of_the_file(**settings, tenants={"acme": TenantSettings()})
    config = config.model_copy(update={"keys": [*config.keys, acme]})
    with serving(ScriptedEngine(), config=config) as url:
        asked = CLIENT.get(f"{url}/v1/models", headers={"x-api-key": "an-admin-of-acmes"})
        assert asked.status_code == 200
        nobody = CLIENT.get(f"{url}/metrics")
        assert nobody.status_code == 401 and "acme" not in nobody.text and "heedful_" not in nobody.text
        told = CLIENT.get(f"{url}/metrics", headers=ADMIN).text
        assert ('tenant="acme"' in told) == (not settings)
        statuses = {
            key: CLIENT.get(f"{url}/metrics", headers={"x-api-key": key}).status_code
            for key in (*TEXTS.values(), "an-admin-of-acmes", "nobody's")
        }
        assert statuses == {
            **{TEXTS[role]: 403 for role in (Role.USER, Role.AUTHOR)},
            TEXTS[Role.ADMIN]: 200,
            "an-admin-of-acmes": 403,
            "nobody's": 401,
        }
        assert CLIENT.get(f"{url}/health").status_code == CLIENT.get(f"{url}/version").status_code == 200


def test_metrics_are_open_where_nobody_needs_a_key_or_they_are_said_to_be(
    serving: Serving, server: str, tmp_path: Path
) -> None:
    assert CLIENT.get(f"{server}/metrics").status_code == 200
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url:
        assert CLIENT.get(f"{url}/metrics").status_code == 200
        _, key = KeyDatabase(tmp_path).create_key("default", Role.ADMIN)
        until = time.monotonic() + HANG
        while CLIENT.get(f"{url}/metrics").status_code != 401:  # from the first key on
            assert time.monotonic() < until
        assert CLIENT.get(f"{url}/metrics", headers={"x-api-key": key}).status_code == 200


# -- keys of heedful.yaml

FILE = """
keys:
  - {tenant: default, role: admin, env: TEST_ADMIN}
  - {tenant: acme, role: author, file: author.key, stores: [norms], name: the press office}
  - {tenant: acme, sha256: %s, expires: 2999-01-31}
tenants: {acme: {}}
"""


def test_keys_of_the_file(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ADMIN", " an admin's key with blanks \n")
    (tmp_path / "author.key").write_bytes(b"\xef\xbb\xbfan-authors-key-in-a-file\r\n")
    (tmp_path / "heedful.yaml").write_text(FILE % digest("a-users-key-as-a-digest"))
    with serving(ScriptedEngine(), config=load(tmp_path / "heedful.yaml", {})) as url:
        admin = {"x-api-key": "an admin's key with blanks"}
        listed = CLIENT.get(f"{url}/v1/alignment/admin/keys", headers=admin).json()["data"]
        assert [(k["tenant"], k["role"], k["name"], k["stores"], k["from"]) for k in listed] == [
            ("default", "admin", "", [], "file"),
            ("acme", "author", "the press office", ["norms"], "file"),
            ("acme", "user", "", [], "file"),
        ]
        assert listed[2]["expires"] == "2999-01-31T00:00:00+00:00"
        for text in ("an-authors-key-in-a-file", "a-users-key-as-a-digest"):
            assert CLIENT.get(f"{url}/v1/models", headers={"x-api-key": text}).status_code == 200
        changed = CLIENT.delete(f"{url}/v1/alignment/admin/keys/{listed[1]['id']}", headers=admin)
        assert (changed.status_code, changed.json()["error"]["code"]) == (409, "from_file")


def test_a_key_of_the_file_expires(serving: Serving) -> None:
    soon = datetime.fromtimestamp(time.time() + 2, UTC)
    key = KeySettings(tenant="default", sha256=digest("here today"), expires=soon)
    past = KeySettings(tenant="default", sha256=digest("gone"), expires=datetime(2020, 1, 1))
    with serving(ScriptedEngine(), config=Config(keys=[key, past])) as url:
        assert CLIENT.get(f"{url}/v1/models", headers={"x-api-key": "gone"}).status_code == 401
        while CLIENT.get(f"{url}/v1/models", headers={"x-api-key": "here today"}).status_code == 200:
            assert time.time() < soon.timestamp() + HANG
        assert time.time() >= soon.timestamp()


A = digest("a")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("{tenant: default}", "exactly one of sha256, env and file"),
        ("{tenant: default, env: A, file: b}", "exactly one of sha256, env and file"),
        ("{tenant: default, env: NOT_SET}", "keys.0.env: the environment variable NOT_SET is not set"),
        ("{tenant: default, env: TEST_SHORT}", "at least 16 characters"),
        ("{tenant: default, env: TEST_LINES}", "on one line"),
        ("{tenant: default, file: nothing.key}", "nothing.key: No such file"),
        ("{tenant: default, file: empty.key}", "empty.key is empty"),
        (f"{{tenant: nobody, sha256: {A}}}", "unknown tenant 'nobody'"),
        (f"{{tenant: default, sha256: {A}, stores: [a]}}", "for the role author only"),
        (", ".join([f"{{tenant: default, sha256: {A}}}"] * 2), "stands here twice"),
        ("{tenant: default, sha256: ABC}", "keys.0.sha256"),
    ],
)
def test_what_is_wrong_in_the_file_stops_the_start(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: str, problem: str
) -> None:
    monkeypatch.setenv("TEST_SHORT", "swordfish")
    monkeypatch.setenv("TEST_LINES", "a key that is on\ntwo lines")
    (tmp_path / "empty.key").write_text("\n")
    (tmp_path / "heedful.yaml").write_text(f"keys: [{keys}]")
    with pytest.raises(ConfigError) as refused:
        with serving(ScriptedEngine(), config=load(tmp_path / "heedful.yaml", {})):
            pass
    assert problem in str(refused.value) and "swordfish" not in str(refused.value)
