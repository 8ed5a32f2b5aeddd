"""`heedful records`: an answer explained, with its norms as they stood then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.items import Item
from heedful.retrieval.store.stores import Stores
from heedful.server.cli.main import app
from heedful.server.config import Config
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
ASKED = "May I take \x1b[2Jphotos in the museum?"


@pytest.fixture
def own_stores(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path, word_embedder(dimension=64))
    store, _ = stores.create("norms")
    store.add([Item("No flash in the museum.", id="flash", source="House rules", mandatory=True)])
    store.add([Item("Photos are allowed for private use.", id="photos")])
    yield stores
    stores.close()


def heedful(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["records", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def answered(serving: Serving, stores: Stores, texts: str = "full", user: str = "ann") -> dict[str, Any]:
    said = iter(["A bad answer.", "Yes, without a flash."])
    tenants: Any = {"default": {"records": {"texts": texts}}}
    config = Config(stores=stores.folder, tenants=tenants)
    with serving(ScriptedEngine(lambda call: next(said)), config=config, stores=stores) as url:
        steps = ["norms", {"refine": {"verifiers": [{"policy": {"words": ["bad"]}}]}}]
        body = {"model": "scripted", "alignment": steps, "user": user}
        answer = httpx.post(
            f"{url}/v1/chat/completions", json={**body, "messages": [{"role": "user", "content": ASKED}]}
        )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_show_tells_the_norms_as_they_stood_then(serving: Serving, own_stores: Stores) -> None:
    id = answered(serving, own_stores)["id"]
    folder = ("--folder", own_stores.folder)
    before = heedful("show", id, *folder)
    assert before.count("still stands") == 2 and "House rules: No flash in the museum." in before
    store = own_stores.get("norms")
    store.add([Item("Flash is welcome.", id="flash", source="House rules", mandatory=True)])
    store.delete(["photos"])
    shown = heedful("show", id, *folder)
    assert "House rules: No flash in the museum." in shown and "Flash is welcome" not in shown
    assert "version 2 since" in shown and "ended 20" in shown
    assert "Photos are allowed for private use." in shown
    assert "May I take" in shown and "\x1b" not in shown
    assert "mandatory" in shown and "FAILED" in shown and "passed" in shown
    assert "round 1" in shown and "rounds of correction: 1" in shown
    assert "Yes, without a flash." in shown and "A bad answer." not in shown.split("what came out")[1]
    own_stores.drop("norms")
    assert "the store was deleted" in heedful("show", id, *folder)
    store, _ = own_stores.create("norms")
    store.add([Item("Something else.", id="flash")])
    again = heedful("show", id, *folder)  # another item, which has the id and the number of the old one
    assert "Something else." not in again and "erased" in again


def test_show_has_digests_where_texts_are_not_kept(
    serving: Serving, own_stores: Stores, tmp_path: Path
) -> None:
    id = answered(serving, own_stores, "digests")["id"]
    folder = ("--folder", own_stores.folder)
    shown = heedful("show", id, *folder)
    assert "May I take" not in shown and "without a flash" not in shown
    assert "No flash in the museum." in shown  # of the store
    (tmp_path / "claim.txt").write_text("Yes, without a flash.")
    digest = heedful("digest", tmp_path / "claim.txt", *folder).strip()
    assert len(digest) == 64 and f"digest {digest}" in shown
    assert json.loads(heedful("show", id, "--json", *folder))["answers"][0]["digest"] == digest


def test_list_export_and_erase(serving: Serving, own_stores: Stores, tmp_path: Path) -> None:
    ids = [answered(serving, own_stores, user=user)["id"] for user in ("ann", "bob")]
    folder = ("--folder", own_stores.folder)
    assert all(id in heedful("list", *folder) for id in ids)
    assert ids[0] not in heedful("list", "--user", "bob", *folder)
    assert json.loads(heedful("export", "--user", "ann", *folder))["id"] == ids[0]
    heedful("export", tmp_path / "all.parquet", "--format", "parquet", *folder)
    assert pyarrow.parquet.read_table(tmp_path / "all.parquet").column("id").to_pylist() == ids
    assert "erased 0" in heedful("erase", "--user", "ann", "--tenant", "other", *folder)
    assert "erased 1" in heedful("erase", "--user", "ann", *folder)
    assert ids[0] not in heedful("list", *folder) and ids[1] in heedful("list", *folder)
    (erasure,) = [
        line
        for line in heedful("export", "--tenant", "default", *folder).splitlines()
        if '"erased":1' in line
    ]
    assert "ann" not in erasure
    assert "1 records of a user" in heedful("show", json.loads(erasure)["id"], *folder)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    runner = CliRunner()
    nothing = runner.invoke(app, ["records", "list", "--folder", str(tmp_path)])
    assert "there are no records" in str(nothing.exception) and not list(tmp_path.iterdir())
