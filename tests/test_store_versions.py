"""Two who change the same item, pages of what passes a filter, and imports that are looked at first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_roles import TEXTS, of_the_file

from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Role
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def http(serving: Serving, place: Path | str, tmp_path: Path) -> Iterator[httpx.Client]:
    stores = Stores(place, word_embedder(dimension=64), folder=tmp_path)
    with (
        serving(ScriptedEngine(), stores=stores) as url,
        httpx.Client(base_url=f"{url}/v1/alignment/stores") as client,
    ):
        client.put("/norms")
        yield client
    stores.close()


def test_who_comes_second_is_told_what_stands(http: httpx.Client) -> None:
    assert http.post("/norms/items", json={"id": "a", "text": "One."}).status_code == 201
    seen = http.get("/norms/items/a").headers["etag"]
    assert seen == '"1"'
    first = http.post("/norms/items", json={"id": "a", "text": "Two."}, headers={"if-match": seen})
    assert first.json()["replaced"] == ["a"]
    second = http.post("/norms/items", json={"id": "a", "text": "Three."}, headers={"if-match": seen})
    error = second.json()["error"]
    assert (second.status_code, error["code"]) == (412, "version_conflict")
    assert (error["current"]["version"], error["current"]["text"]) == (2, "Two.")
    assert http.delete("/norms/items/a", headers={"if-match": seen}).status_code == 412
    assert http.delete("/norms/items/a", headers={"if-match": '"2"'}).status_code == 200
    ended = http.post("/norms/items", json={"id": "a", "text": "Four."}, headers={"if-match": '"2"'})
    assert ended.status_code == 412 and ended.json()["error"]["current"] is None
    new = http.post("/norms/items", json={"id": "a", "text": "Five."}, headers={"if-none-match": "*"})
    assert new.json()["added"] == ["a"] and http.get("/norms/items/a").headers["etag"] == '"3"'
    there = http.post("/norms/items", json={"id": "a", "text": "Six."}, headers={"if-none-match": "*"})
    assert there.status_code == 412 and there.json()["error"]["current"]["text"] == "Five."
    assert [v["text"] for v in http.get("/norms/history/a").json()["data"]] == ["One.", "Two.", "Five."]


@pytest.mark.parametrize("headers", [{"if-match": "3"}, {"if-match": "*"}, {"if-none-match": '"1"'}])
def test_what_is_no_version_is_refused(http: httpx.Client, headers: dict[str, str]) -> None:
    refused = http.post("/norms/items", json={"text": "x"}, headers=headers)
    assert refused.status_code == 400 and refused.json()["error"]["param"].lower() in headers
    many = http.post(
        "/norms/items", json={"items": [{"text": "a"}, {"text": "b"}]}, headers={"if-match": '"1"'}
    )
    assert many.status_code == 400 and http.get("/norms").json()["items"] == 0


def test_pages_and_searches_of_what_passes(http: httpx.Client) -> None:
    items = [
        {"id": "all", "text": "Pool rule one", "mandatory": True},
        {"id": "bern", "text": "Pool rule two", "scope": "Bern", "tags": ["a", "b"]},
        {"id": "past", "text": "Pool rule three", "scope": "Rome", "valid_until": "2001-01-01"},
        {"id": "demo", "text": "Pool rule four", "answer": "Yes.", "tags": ["b"]},
    ]
    http.post("/norms/items", json={"items": items})

    def ids(**query: Any) -> list[str]:
        page = http.get("/norms/items", params=query).json()["data"]
        return [each["id"] for each in page]

    assert ids() == ["all", "bern", "past", "demo"]
    assert ids(kind="demo") == ["demo"] and ids(scope="Bern") == ["all", "bern", "demo"]
    assert ids(scope=["Bern", "Rome"], kind="norm") == ["all", "bern", "past"]
    assert ids(tag=["a"]) == ["bern"] and ids(tag=["a", "b"]) == ["bern", "demo"]
    assert ids(mandatory="true") == ["all"] and "all" not in ids(mandatory="false")
    assert ids(at="2026-01-01") == ["all", "bern", "demo"] and "past" in ids(at="2000-06-01")
    assert ids(limit=1, kind="demo") == ["demo"] and ids(limit=1, after=1, scope="x") == ["demo"]
    for bad in ({"kind": "law"}, {"mandatory": "1"}, {"at": "soon"}):
        assert http.get("/norms/items", params=bad).status_code == 400

    def found(**body: object) -> set[str]:
        return {
            each["id"] for each in http.post("/norms/search", json={"query": "pool", **body}).json()["data"]
        }

    assert found(mandatory=True) == {"all"} and found(mandatory=False) == {"bern", "demo"}
    assert found(at="any") == {"all", "bern", "past", "demo"}
    about = http.get("/norms").json()
    assert about["kinds"] == {"norm": 3, "demo": 1} and about["mandatory"] == 1
    assert about["scopes"] == ["Bern", "Rome"] and about["tags"] == ["a", "b"]
    http.delete("/norms/items/bern")
    about = http.get("/norms").json()
    assert about["scopes"] == ["Rome"] and about["tags"] == ["b"]


def test_an_import_is_looked_at_before_it_is_written(http: httpx.Client) -> None:
    http.post("/norms/items", json={"items": [{"id": "a", "text": "Old."}, {"id": "b", "text": "Same."}]})
    lines = '{"id": "a", "text": "New."}\n\n{"id": "b", "text": "Same."}\n{"no": 1}\n{"id": "c", "text": "Third."}\n'
    seen = http.post("/norms/import?dry_run=true", content=lines).json()
    assert (seen["added"], seen["replaced"], seen["unchanged"]) == (1, 1, 1)
    assert [each["line"] for each in seen["bad"]] == [4] and "no" in seen["bad"][0]["problem"]
    changed = [
        (c["line"], c["change"], c["item"]["text"], c.get("was", {}).get("text")) for c in seen["changes"]
    ]
    assert changed == [(1, "replaced", "New.", "Old."), (5, "added", "Third.", None)]
    assert http.get("/norms").json()["items"] == 2
    refused = http.post("/norms/import", content=lines).json()["error"]
    assert refused["code"] == "bad_lines" and refused["bad"] == seen["bad"]


def test_a_store_says_what_may_be_done_with_it(serving: Serving, tmp_path: Path) -> None:
    stores = Stores(tmp_path, word_embedder(dimension=64))
    stores.create("norms")
    with serving(ScriptedEngine(), stores=stores, config=of_the_file()) as url:
        may = {}
        for role in (Role.AUTHOR, Role.ADMIN):
            listed = httpx.get(f"{url}/v1/alignment/stores", headers={"x-api-key": TEXTS[role]}).json()
            may[role] = listed["data"][0]["may"]
            assert listed["shared"] == []
    stores.close()
    assert may[Role.AUTHOR] == {"write": True, "erase": False} and may[Role.ADMIN]["erase"]
