"""Files into stores and out again: encodings, spreadsheets, ids, and exports while others write."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_fixtures import place_of_kind
from typer.testing import CliRunner

from heedful.retrieval import InvalidItem, Item
from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.ingest import decoded, parse
from heedful.retrieval.items import item_of
from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.store import Store
from heedful.retrieval.store.stores import Stores
from heedful.server.api import store_files
from heedful.server.api import stores as stores_http
from heedful.server.cli import store as store_cli
from heedful.server.cli.main import app
from heedful.strategies.scripted import ScriptedEngine

_WAIT = 60


in_each = pytest.mark.parametrize("place", ["folder", "postgres"], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Path | str:
    """Most of what is tested here is done before a store is reached."""
    return place_of_kind(request, getattr(request, "param", "folder"))


@pytest.fixture
def stores(place: Path | str, tmp_path: Path) -> Iterator[Stores]:
    embedder = word_embedder(longest=100)
    stores = Stores(place, embedder, folder=tmp_path)
    yield stores
    stores.close()
    embedder.close()


@pytest.fixture
def http(serving: Callable[..., AbstractContextManager[str]], stores: Stores) -> Iterator[httpx.Client]:
    with (
        serving(ScriptedEngine(model="m"), stores=stores) as url,
        httpx.Client(base_url=f"{url}/v1/alignment/stores", timeout=_WAIT) as client,
    ):
        client.put("/norms").raise_for_status()
        yield client


@pytest.fixture
def heedful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def words(model: str) -> Embedder:
        return word_embedder(longest=100)

    monkeypatch.setattr(store_cli, "load", words)
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path / "home"))

    def run(*arguments: str, fails: bool = False) -> str:
        result = CliRunner().invoke(app, ["store", *arguments])
        assert bool(result.exception) == fails, result.output
        return result.output + (f"{type(result.exception).__name__}: {result.exception}" if fails else "")

    return run


@in_each
def test_an_export_is_what_stood_at_its_start(
    http: httpx.Client, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of two, held before the third, in which an item of an earlier and of a later one is replaced."""
    there = [{"id": f"i{i}", "text": f"rule {i}"} for i in range(10)]
    http.post("/norms/items", json={"items": there}).raise_for_status()
    held, go, pieces = threading.Event(), threading.Event(), [0]
    kind = type(stores.get("norms"))
    page = kind.page

    def waiting(self: AnyStore, *arguments: Any, **options: Any) -> Any:
        pieces[0] += 1
        if pieces[0] == 3:
            held.set()
            assert go.wait(_WAIT)
        return page(self, *arguments, **options)

    monkeypatch.setattr(store_files, "_EXPORTED", 2)
    monkeypatch.setattr(kind, "page", waiting)
    with ThreadPoolExecutor(1) as thread:
        exporting = thread.submit(lambda: http.get("/norms/export").text)
        assert held.wait(_WAIT)
        for id in ("i1", "i8"):
            http.post("/norms/items", json={"id": id, "text": "replaced"}).raise_for_status()
        http.delete("/norms/items/i7").raise_for_status()
        http.post("/norms/items", json={"id": "i99", "text": "late"}).raise_for_status()
        go.set()
        exported = exporting.result(_WAIT)
    assert [json.loads(line)["text"] for line in exported.splitlines()] == [i["text"] for i in there]
    taken = http.post("/norms/import", content=exported).json()
    assert (taken["added"], taken["replaced"], taken["unchanged"], taken["bad"]) == (1, 2, 7, [])


@in_each
def test_an_export_of_a_store_that_is_deleted_meanwhile_breaks_off(
    http: httpx.Client, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.post("/norms/items", json={"items": [{"text": f"rule {i}"} for i in range(10)]}).raise_for_status()
    held, go = threading.Event(), threading.Event()
    kind = type(stores.get("norms"))
    page = kind.page

    def waiting(self: AnyStore, after: int, *arguments: Any, **options: Any) -> Any:
        if after:
            held.set()
            assert go.wait(_WAIT)
        return page(self, after, *arguments, **options)

    monkeypatch.setattr(store_files, "_EXPORTED", 2)
    monkeypatch.setattr(kind, "page", waiting)
    with ThreadPoolExecutor(1) as thread:
        exporting = thread.submit(http.get, "/norms/export")
        assert held.wait(_WAIT)
        assert http.delete("/norms").status_code == 200
        go.set()
        with pytest.raises(httpx.RemoteProtocolError):  # and not a file that looks whole
            exporting.result(_WAIT)
    gone = http.post("/norms/search", json={"query": "rule"})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "store_not_found")


def test_large_bodies_are_checked_while_others_are_answered(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, check = threading.Event(), threading.Event(), item_of

    def waiting(value: Any) -> Item:
        begun.set()
        assert go.wait(_WAIT)
        return check(value)

    monkeypatch.setattr(stores_http, "item_of", waiting)
    items = [{"text": f"rule {i}", "meta": {"about": "x" * 1000}} for i in range(100)]
    with ThreadPoolExecutor(1) as thread:
        posting = thread.submit(lambda: http.post("/norms/items", json={"items": items}))
        assert begun.wait(_WAIT)
        assert http.post("/norms/search", json={"query": "rule"}).json()["data"] == []
        go.set()
        assert len(posting.result(_WAIT).json()["added"]) == 100


@pytest.mark.parametrize("id", ["a\nb", "a\x00", "\u2028", "a/../b", ".", "x" * 513, "\x85", "..", "tab\t"])
def test_an_id_that_no_address_can_hold_is_refused_at_every_door(
    http: httpx.Client, heedful: Callable[..., str], stores: Stores, tmp_path: Path, id: str
) -> None:
    refused = http.post("/norms/items", json={"id": id, "text": "rule"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "id")
    line = json.dumps({"id": id, "text": "rule"})
    assert "line 1: id: " in http.post("/norms/import", content=line).json()["error"]["message"]
    file = tmp_path / "rules.jsonl"
    file.write_text(line)
    assert "nothing was imported" in heedful("import", "norms", str(file), fails=True)
    if "\x00" not in id:  # which no command line can hold
        assert "InvalidItem: id: " in heedful("add", "norms", "rule", "--id", id, fails=True)
    with pytest.raises(InvalidItem, match="id: "):
        stores.get("norms").add([Item("rule", id=id)])
    assert http.get("/norms").json()["items"] == 0


@in_each
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(id=st.text(min_size=1, max_size=40))
def test_an_id_that_can_be_written_can_be_read_and_deleted(http: httpx.Client, id: str) -> None:
    written = http.post("/norms/items", content=json.dumps({"id": id, "text": "rule"}))
    if written.status_code == 400:
        assert written.json()["error"]["param"] == "id"
        return
    at = quote(id, safe="")
    assert http.get(f"/norms/items/{at}").json()["id"] == id
    assert http.delete(f"/norms/items/{at}").json() == {"id": id, "deleted": True}
    assert http.get(f"/norms/history/{at}").json()["data"][-1]["id"] == id


def test_an_id_from_before_the_rule_can_be_read_and_deleted(http: httpx.Client, stores: Stores) -> None:
    store = stores.get("norms")
    assert isinstance(store, Store)
    vector = {"rule": stores.embedder.embed_now(["rule"])[0]}
    generation = store._database.identity().generation  # private: the door that earlier versions left open
    store._database.write([Item("rule", id="a\nb")], vector, generation)
    assert http.get("/norms/items/a%0Ab").json()["text"] == "rule"
    assert http.delete("/norms/items/a%0Ab").status_code == 200
    assert len(http.get("/norms/history/a%0Ab").json()["data"]) == 1


def test_files_in_other_encodings(http: httpx.Client, heedful: Callable[..., str], tmp_path: Path) -> None:
    text = '{"text": "Grüße alle"}\n'
    file = tmp_path / "rules.jsonl"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes(text.encode(encoding))
        assert "1 added" in heedful("import", encoding, str(file))
        assert json.loads(heedful("list", encoding))["text"] == "Grüße alle"
    file.write_bytes(text.encode("latin-1"))
    told = heedful("import", "norms", str(file), fails=True)
    assert "InvalidItem" in told and "line 1 is not UTF-8 (byte 13 is 0xfc)" in told and "latin-1" in told
    assert "1 added" in heedful("import", "norms", str(file), "--encoding", "latin-1")
    assert "'nonsense' is not known" in heedful(
        "import", "norms", str(file), "--encoding", "nonsense", fails=True
    )
    # Over HTTP it is the content type that says so.
    latin = {"content-type": "application/jsonl; charset=latin-1"}
    assert http.post("/norms/import", content=text.encode("latin-1"), headers=latin).json()["added"] == 1
    assert http.get("/norms/items").json()["data"][0]["text"] == "Grüße alle"
    for charset in ("punycode", "hex", "x-none"):
        refused = http.post(
            "/norms/import", content=b"x", headers={"content-type": f"a/b; charset={charset}"}
        )
        assert refused.json()["error"]["code"] == "invalid_encoding"
    with pytest.raises(InvalidItem, match="is not UTF-16"):
        decoded(b"\xff\xfea")


@pytest.mark.parametrize("format", ["jsonl", "csv", "markdown", "text"])
def test_control_characters_are_named_by_line(
    http: httpx.Client, heedful: Callable[..., str], tmp_path: Path, format: str
) -> None:
    good, bad = {
        "jsonl": ('{"text": "good"}\n', '{"text": "a\\u0000b"}\n{"text": "a\\u001b[31m"}'),
        "csv": ("text\ngood\n", "a\x01b\n"),
        "markdown": ("# good\n", "# a\x1b[31m\n"),
        "text": ("good\n\n", "a\x01b\n"),
    }[format]
    refused = http.post("/norms/import", params={"format": format}, content=good + bad)
    assert refused.status_code == 400
    assert "a control character" in refused.json()["error"]["message"]
    file = tmp_path / "rules.x"
    file.write_text(good + bad)
    told = heedful("import", "norms", str(file), "--format", format, fails=True)
    assert "a control character" in told and "InvalidItem" in told and "\x1b" not in told
    assert http.get("/norms").json()["items"] == 0


def test_spreadsheets() -> None:
    def problems(content: str) -> list[int]:
        return [line for line, _ in parse(content, "csv").problems]

    assert problems("text,source\nshort\n") == [2]
    assert problems("text,source\n\n\nshort\nBe fair,x\nshort\n") == [4, 6]
    assert problems('text,source\n"a\nb",x\nBe fair,y,z\n"open') == [4, 5]
    assert problems("text,colour\nBe fair,red\n") == [2]
    assert problems("text,text\na,b\n") == [1]
    assert problems("sep=;\ntext;source\nshort\n") == [3]
    for sign in ",;\t|":
        content = f'text{sign}source\n"Be kind, fair; and so on"{sign}Home\n'
        for written in (content, f"sep={sign}\r\n" + content, "\ufeff" + content):
            parsed = parse(written, "csv")
            assert [(i.text, i.source) for i in parsed.items] == [("Be kind, fair; and so on", "Home")]
            assert not parsed.problems
    assert [i.text for i in parse("text\nBe fair; always\n", "csv").items] == ["Be fair; always"]


@pytest.mark.parametrize("time", [-1e11 + 1, 0.1234567, "9999-12-31", "0001-01-01T00:00:00Z", 99999999998])
def test_every_time_comes_back_from_an_export_as_it_went_in(http: httpx.Client, time: float | str) -> None:
    http.post("/norms/items", json={"text": "rule", "valid_from": time}).raise_for_status()
    exported = http.get("/norms/export").text
    assert http.post("/norms/import", content=exported).json()["unchanged"] == 1


def test_a_text_that_is_longer_than_the_model_reads_is_told(
    http: httpx.Client, heedful: Callable[..., str], tmp_path: Path
) -> None:
    long = {"id": "long", "text": "word " * 101}
    told = http.post("/norms/items", json={"items": [long, {"id": "short", "text": "word " * 100}]}).json()
    assert (told["added"], told["truncated"]) == (["long", "short"], ["long"])
    assert http.post("/norms/items", json=long).json()["truncated"] == []  # nothing was embedded
    again = json.dumps(long | {"text": "words " * 101})
    assert http.post("/norms/import", content=again).json()["truncated"] == 1
    file = tmp_path / "long.jsonl"
    file.write_text(again)
    assert "1 longer than the 100 tokens" in heedful("import", "norms", str(file))


def test_an_export_to_a_file_is_whole_or_not_there(
    heedful: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heedful("add", "norms", "Be kind.")
    file = tmp_path / "out.jsonl"
    heedful("export", "norms", str(file))
    whole = file.read_bytes()

    def broken(items: Any) -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_cli, "export_lines", broken)
    assert "No space left" in heedful("export", "norms", str(file), fails=True)
    assert file.read_bytes() == whole and [p.name for p in tmp_path.iterdir() if p.suffix == ".jsonl"] == [
        "out.jsonl"
    ]
