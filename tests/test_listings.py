"""Lists on the command line: ids, names and figures are whole, however narrow the terminal is."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Role
from heedful.server.access.database import KeyDatabase
from heedful.server.access.settings import TenantSettings
from heedful.server.cli.main import app
from heedful.server.limits.budgets import Budgets
from heedful.server.records.file import RecordsFile
from heedful.server.records.record import Entry

TENANT = "a-tenant-with-a-name-as-long-as-names-may-be-which-is-64-letters"
STORE = "a-store-with-a-name-as-long-as-names-may-be-which-is-64-letters0"
RESPONSE = "chatcmpl-98b6008cb10f4a199a94c7afb176e380"
for _command in ("keys", "records", "store", "tenants", "usage"):
    import_module(
        f"heedful.server.cli.{_command}"
    )  # while the width is that of all tests, which its console keeps
USER = "somebody@a-domain-that-is-as-long-as-many-are.example.org"


def heedful(*arguments: str, columns: int) -> list[str]:
    """The lines that a command writes where a terminal has so many columns."""
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    keys = KeyDatabase(folder)
    keys.put_tenant(TENANT, TenantSettings())
    for name in ("one for the web,\nand for nobody else", "two"):
        keys.create_key(TENANT, Role.AUTHOR, name=name, stores=frozenset({STORE}), expires=4e9)
    stores = Stores(folder, word_embedder(dimension=64))
    stores.create(STORE)[0].add([Item("One."), Item("Two.")])
    stores.close()
    budgets = Budgets(folder / "usage.sqlite")
    budgets.commit(TENANT, "abcd2345", 123_456_789_012, 0)
    budgets.close()
    records = RecordsFile(folder)
    record = {
        "id": RESPONSE,
        "time": "2026-11-29T14:09:12.667252+00:00",
        "tenant": TENANT,
        "users": [USER],
        "model": "an-organisation/a-model-with-a-long-name-of-its-own",
        "alignment": "house",
        "verdict": "passed",
        "status": 200,
    }
    body = msgspec.json.encode(record)
    with records.opened() as db:
        records.write(
            db, [Entry(RESPONSE, 1.0, TENANT, 1, "abcd2345", (USER,), "m", "house", "passed", body)]
        )
    return folder


@pytest.mark.parametrize("columns", [20, 80, 400])
@pytest.mark.parametrize(
    ("command", "whole"),
    [
        (
            ["records", "list"],
            [
                RESPONSE,
                TENANT,
                USER,
                "2026-11-29T14:09:12",
                "an-organisation/a-model-with-a-long-name-of-its-own",
            ],
        ),
        (["keys", "list"], [TENANT, STORE, "one for the web,\ufffdand for nobody else"]),
        (["tenants", "list"], [TENANT, "database"]),
        (["store", "list"], [STORE, "2"]),
        (["usage"], [TENANT, "abcd2345", "123456789012"]),
    ],
)
def test_a_row_is_a_line_with_all_that_it_holds(
    folder: Path, command: list[str], whole: list[str], columns: int
) -> None:
    lines = heedful(*command, "--folder", str(folder), columns=columns)
    (row,) = [
        line for line in lines if whole[0] in line and whole[-1] in line and all(w in line for w in whole)
    ]
    assert not any("…" in line for line in lines)
    # Its columns stand below their headers.
    headers = lines[0].split()
    assert row.startswith(whole[0]) == (command != ["keys", "list"]) and len(headers) > 1
    if command == ["keys", "list"]:
        ids = [key.id for key in KeyDatabase(folder).all().keys]
        assert sorted(line.split()[0] for line in lines[1:]) == sorted(ids)


def test_what_explains_an_answer_cuts_no_id(folder: Path) -> None:
    """In tables, where a long one stands on several lines."""
    id = "a-norm-whose-id-is-longer-than-any-column-of-a-table-on-a-terminal-of-eighty"
    records = RecordsFile(folder)
    record = {
        "object": "alignment.record",
        "id": "resp_1",
        "time": "2026-11-29T14:09:12.667252+00:00",
        "tenant": "default",
        "key_id": None,
        "users": [USER],
        "route": "/v1/responses",
        "stream": False,
        "status": 200,
        "model": "m",
        "alignment": "norms",
        "plan": [],
        "verdict": None,
        "rounds": 0,
        "norms": [{"store": STORE, "id": id, "version": 1, "mandatory": True}],
        "demonstrations": [],
        "trace": [],
        "question": {"text": "What?"},
        "answers": [],
        "error": None,
        "client_gone": False,
        "stages": {},
        "usage": None,
        "timing_ms": {"total": 1.0, "first_byte": None},
    }
    body = msgspec.json.encode(record)
    with records.opened() as db:
        records.write(db, [Entry("resp_1", 1.0, "default", 1, None, (), None, None, None, body)])
    # A process of its own, since its console has a width from the beginning.
    command = [sys.executable, "-m", "heedful.server", "records", "show", "resp_1", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    shown = done.stdout.splitlines()
    letters = "".join(cell for line in shown if "│" in line for cell in [line.split("│")[2].strip()])
    assert id in letters and not any("…" in line for line in shown)
