"""`heedful keys` and `heedful tenants`, with no server and beside one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import at_once
from typer.testing import CliRunner
from waiting import HANG

from heedful.server.access.key_text import OURS
from heedful.server.cli.errors import CommandError
from heedful.server.cli.main import app
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]


class Shell:
    """The commands on one folder; `out` is all that stands on standard output, `err` on the other."""

    def __init__(self, folder: Path, *more: str) -> None:
        self._more = ["--folder", str(folder), *more]

    def __call__(self, *arguments: str, input: str | None = None) -> str:
        done = CliRunner().invoke(app, [*arguments, *self._more], input=input)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        self.err = done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def status(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"x-api-key": key}, timeout=HANG).status_code


def test_a_key_beside_a_running_server(serving: Serving, shell: Shell, tmp_path: Path) -> None:
    with serving(ScriptedEngine(), config=Config(stores=tmp_path)) as url:
        out = shell("keys", "create", "--name", "mine")
        key = out.strip()
        assert out == f"{key}\n" and OURS.fullmatch(key.encode()) and key not in shell.err
        assert "want a key from now on" in shell.err
        until = time.monotonic() + HANG

        def becomes(brought: str, expected: int) -> None:
            while status(url, brought) != expected:
                assert time.monotonic() < until

        becomes("", 401)
        assert status(url, key) == 200
        ((id, name),) = [(k["id"], k["name"]) for k in shell.json("keys", "list")]
        assert name == "mine"
        fresh = shell("keys", "rotate", id, "--grace", "1h").strip()
        becomes(fresh, 200)
        assert status(url, key) == 200
        last = shell("keys", "rotate", id).strip()
        becomes(last, 200)
        assert (status(url, key), status(url, fresh)) == (401, 401)
        assert shell("keys", "revoke", id) == f"revoked {id}\n"
        becomes(last, 401)
        assert shell.json("keys", "list")[0]["state"] == "revoked"
        for text in (key, fresh, last):
            assert text not in shell("keys", "list") + shell("keys", "list", "--json")


def test_what_a_key_is_made_with(shell: Shell) -> None:
    options = ["--role", "author", "--store", "b", "--store", "a", "--expires", "30d", "--concurrent", "2"]
    made = shell.json("keys", "create", *options)
    assert (
        made["key"].startswith(made["prefix"]) and made["role"] == "author" and made["stores"] == ["a", "b"]
    )
    assert made["limits"] == {"concurrent": 2} and made["expires"] > made["created"]
    dated = shell.json("keys", "create", "--expires", "2999-01-31")
    assert dated["expires"] == "2999-01-31T00:00:00+00:00"
    assert "2999-01-31" in shell("keys", "list")


def test_tenants(shell: Shell, tmp_path: Path) -> None:
    settings = tmp_path / "acme.yaml"
    settings.write_text("limits: {concurrent: 2}\nfloor: {enforce: [principles]}\n")
    assert shell("tenants", "create", "acme", "--settings", str(settings)) == "made the tenant acme\n"
    shown = shell("tenants", "show", "acme")
    assert "concurrent: 2" in shown
    shell("tenants", "set", "acme", "--settings", "-", input=shown.replace("2", "3"))
    kept = {"floor": {"enforce": ["principles"]}, "limits": {"concurrent": 3}}
    assert shell.json("tenants", "show", "acme") == kept
    rows = [{"name": "acme", "from": "database"}, {"name": "default", "from": "default"}]
    assert shell.json("tenants", "list") == rows
    shell("keys", "create", "--tenant", "acme")
    assert "keys revoked: 1" in shell("tenants", "delete", "acme")
    assert [key["state"] for key in shell.json("keys", "list", "--tenant", "acme")] == ["revoked"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["keys", "create", "--tenant", "acme"], "make it with heedful tenants create acme"),
        (["keys", "create", "--role", "root"], "--role: user, author or admin"),
        (["keys", "create", "--store", "a"], "for the role author only"),
        (["keys", "create", "--expires", "2020-01-01"], "in the past"),
        (["keys", "create", "--concurrent", "0"], "--concurrent: at least 1"),
        (["keys", "revoke", "nothing"], "unknown key 'nothing'"),
        (["keys", "revoke", "hk_abcdefgh_" + "x" * 43], "give the key's id"),
        (["keys", "rotate", "nothing", "--grace", "soon"], "--grace"),
        (["tenants", "create", "Acme"], "lower-case"),
        (["tenants", "show", "acme"], "unknown tenant 'acme'; known: default"),
        (["tenants", "set", "acme"], "--settings"),
        (["tenants", "delete", "default"], "can't be deleted"),
        (["tenants", "create", "acme", "--settings", "bad.yaml"], "floor.enfroce"),
        (["tenants", "create", "acme", "--settings", "none.yaml"], "No such file"),
    ],
)
def test_what_is_refused_makes_no_file(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    (tmp_path / "bad.yaml").write_text("floor: {enfroce: [principles]}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError) as refused:
        shell(*arguments)
    assert problem in str(refused.value)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.yaml"]


def test_what_the_configuration_holds(tmp_path: Path) -> None:
    digest = sha256(b"a key of the file").hexdigest()
    file = tmp_path / "heedful.yaml"
    file.write_text(f"tenants: {{acme: {{}}}}\nkeys: [{{tenant: acme, sha256: {digest}}}]\nstores: kept\n")
    config = ["--config", str(file)]

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, *config])
        if isinstance(done.exception, CommandError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    (held,) = json.loads(run("keys", "list", "--json"))
    assert (held["tenant"], held["from"]) == ("acme", "file")
    for arguments in (
        ["keys", "revoke", held["id"]],
        ["keys", "rotate", held["id"]],
        ["tenants", "delete", "acme"],
    ):
        with pytest.raises(CommandError, match="change it there"):
            run(*arguments)
    assert run("keys", "create", "--tenant", "acme").startswith("hk_")
    assert (tmp_path / "kept" / "access.sqlite").is_file()


def test_as_a_process_it_prints_the_key_alone(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "access.sqlite").write_bytes(b"nothing of ours" * 500)

    def create(folder: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "heedful.server",
            "keys",
            "create",
            "--folder",
            str(tmp_path / folder),
        ]
        return subprocess.run(command, capture_output=True, text=True)

    done, broken = at_once(partial(create, "whole"), partial(create, "broken"))
    assert done.returncode == 0, done.stderr
    assert OURS.fullmatch(done.stdout.strip().encode()) and done.stdout.count("\n") == 1
    assert broken.returncode == 2 and "damaged" in broken.stderr and "Traceback" not in broken.stderr
