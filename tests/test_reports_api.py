"""/v1/alignment/reports: the files of measurements, those alone, and only for who runs the server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from heedful.retrieval import Item
from heedful.retrieval.items import iso
from heedful.retrieval.store.database import clock
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Client, Role, Tenant
from heedful.server.access.settings import TenantSettings
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
BASE = "/v1/alignment/reports"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "reports"
    for name in ("first", "späte Runde"):
        (root / name).mkdir(parents=True)
        (root / name / "items.jsonl").write_text('{"id": "1"}\n')
    (root / "first" / "report.html").write_text("<script>alert(1)</script>")
    (root / "empty").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "items.jsonl").write_text("hush")
    (root / "linked").symlink_to(tmp_path / "secret")
    (root / "first" / "answers.jsonl").symlink_to(tmp_path / "secret" / "items.jsonl")
    return root


def test_files_of_measurements_and_nothing_else(serving: Serving, folder: Path) -> None:
    with serving(ScriptedEngine(), config=Config(reports=folder)) as url:
        listed = httpx.get(f"{url}{BASE}").json()
        assert {each["name"]: [f["name"] for f in each["files"]] for each in listed["data"]} == {
            "first": ["items.jsonl"],
            "späte Runde": ["items.jsonl"],
        }
        assert listed["configured"] and listed["data"][0]["files"][0]["size"] == 12
        for name in ("first", "sp%C3%A4te%20Runde"):
            found = httpx.get(f"{url}{BASE}/{name}/items.jsonl")
            assert found.text == '{"id": "1"}\n' and found.headers["content-type"] == "application/jsonl"
        for path in (
            "first/report.html",
            "first/answers.jsonl",
            "linked/items.jsonl",
            "../secret/items.jsonl",
            "%2e%2e/items.jsonl",
            "..%2fsecret/items.jsonl",
            "first/..%2f..%2fsecret%2fitems.jsonl",
            "empty/items.jsonl",
            "%00/items.jsonl",
        ):
            refused = httpx.get(f"{url}{BASE}/{path}")
            assert refused.status_code in (400, 404) and "hush" not in refused.text, path
        (folder / "items.jsonl").write_text("{}\n")  # the folder itself may be one
        assert httpx.get(f"{url}{BASE}/reports/items.jsonl").text == "{}\n"


def test_without_a_folder_there_is_nothing(serving: Serving, tmp_path: Path) -> None:
    with serving(ScriptedEngine()) as url:
        assert httpx.get(f"{url}{BASE}").json() == {"object": "list", "configured": False, "data": []}
        assert httpx.get(f"{url}{BASE}/a/items.jsonl").status_code == 404
    with serving(ScriptedEngine(), config=Config(reports=tmp_path / "gone")) as url:
        assert httpx.get(f"{url}{BASE}").json()["data"] == []


def test_they_are_the_operators(serving: Serving, folder: Path) -> None:
    clients = {
        "op": Client(Tenant("default", TenantSettings()), Role.ADMIN),
        "author": Client(Tenant("default", TenantSettings()), Role.AUTHOR),
        "other": Client(Tenant("other", TenantSettings()), Role.ADMIN),
    }
    with serving(ScriptedEngine(), config=Config(reports=folder), clients=clients) as url:
        for key, status in (("op", 200), ("author", 403), ("other", 403)):
            for path in (BASE, f"{BASE}/first/items.jsonl"):
                asked = httpx.get(f"{url}{path}", headers={"authorization": f"Bearer {key}"})
                assert asked.status_code == status


def test_only_who_may_read_a_history_answers_by_it(serving: Serving, stores: Stores) -> None:
    """`as_of` is for authors; and it moves the request's own norms alone: those of the floor stand as they stand."""
    store = stores.create("history")[0]
    store.add([Item("Whisper.", id="voice", mandatory=True)])
    then = iso(clock())
    store.add([Item("Sing.", id="voice", mandatory=True)])
    tenant = Tenant("default", TenantSettings())
    clients = {"author": Client(tenant, Role.AUTHOR), "user": Client(tenant, Role.USER)}
    engine = ScriptedEngine(context_length=100_000)
    step = {"norms": {"store": "history", "as_of": then}}
    floor = {"enforce": [{"norms": {"store": "history", "place": "system"}}]}

    def ask(url: str, key: str, alignment: object) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "How do I talk?"}], "alignment": alignment}
        return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})

    config = Config.model_validate({"alignments": {"frozen": [step]}, "floor": floor})
    with serving(engine, config=config, stores=stores, clients=clients) as url:
        refused = ask(url, "user", [step])
        assert refused.status_code == 403 and refused.json()["error"]["message"].startswith("as_of: ")
        assert ask(url, "user", [{"norms": {"store": "history", "as_of": None}}]).status_code == 200
        assert ask(url, "user", "frozen").status_code == 200  # the operator's choice
        assert ask(url, "author", [step]).status_code == 200
    said = [[str(m["content"]) for m in call.messages] for call in engine.calls]
    for system, question in said[1:]:
        assert "Sing." in system and "Whisper." not in system
        assert "Whisper." in question and "Sing." not in question
