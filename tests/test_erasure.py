"""Erased is erased: from the store and its history, from every byte of its files, from memory, after a kill too."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import at_once
from tenants import serving_clients
from typer.testing import CliRunner

from heedful.retrieval import Filter, Item, UnknownItem
from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store import erasing
from heedful.retrieval.store.store import Store
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Client, Role, Tenant
from heedful.server.cli import store as store_cli
from heedful.server.cli.main import app
from heedful.strategies.scripted import ScriptedEngine

SECRET = "Ada Lovelace lives at 12 St James's Square"
ID = "person/ada"


@pytest.fixture
def embedder() -> Iterator[Embedder]:
    made = word_embedder(dimension=256)
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path, embedder: Embedder) -> Iterator[Store]:
    store = Store.create(tmp_path / "norms.db", embedder)
    _fill(store)
    yield store
    store.close()


def _fill(store: Store) -> None:
    """Versions of a secret among so many others that pages are split, moved and freed."""
    for i in range(8):
        secret = Item(
            f"{SECRET} {i}. " * 40, id=ID, answer=f"{SECRET}?", source=SECRET, scope=SECRET, tags=(SECRET,)
        )
        store.add([secret, *(Item(f"rule {i} {j}", answer="so " * (9 * j), id=f"r{j}") for j in range(60))])
    store.delete([f"r{j}" for j in range(0, 60, 3)])


def _bytes(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def _traces(folder: Path, embedder: Embedder) -> list[str]:
    """What of the secret is in any file below a folder."""
    there = _bytes(folder)
    vector = embedder.embed_now([f"{SECRET} 7. " * 40])[0]
    parts = {"id": ID.encode(), "name": b"Lovelace", "vector": vector.tobytes()}
    parts |= {"part of the vector": vector.tobytes()[:64], "place": b"James's Square"}
    return [name for name, part in parts.items() if part in there]


def test_no_byte_of_it_is_in_any_file(store: Store, embedder: Embedder, tmp_path: Path) -> None:
    assert {"id", "name", "vector", "place"} <= set(_traces(tmp_path, embedder))
    before = list(store)
    assert store.erase([ID], "key 7") == {ID: 8}
    assert _traces(tmp_path, embedder) == []
    assert list(store) == [item for item in before if item.id != ID]
    (told,) = store.erasures(ID)
    assert (told.by, told.versions, told.digest) == ("key 7", 8, hashlib.sha256(ID.encode()).hexdigest())
    assert store.erasures() == [told] and store.history(ID) == [] and store.get(ID) is None
    assert SECRET not in store.scopes()
    for as_of in (told.at - 0.001, told.at, told.at + 1):
        assert ID not in [version.item.id for _, version in store.page(0, 1000, as_of=as_of)]
    found = store.search(embedder.embed_now([SECRET])[0], 1000, Filter())
    assert ID not in [hit.item.id for hit in found] and len(found) == len(store)
    assert store.erase([ID, "never"]) == {} and len(store.erasures()) == 1
    store.close()
    assert _traces(tmp_path, embedder) == []


def test_what_sqlite_has_moved_or_freed_before_goes_too(
    store: Store, embedder: Embedder, tmp_path: Path
) -> None:
    """A cell that a page was split at, or a build of SQLite that overwrites nothing, leaves a copy behind."""
    with closing(sqlite3.connect(store.path, isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete=OFF")
        db.execute("CREATE TABLE copies AS SELECT * FROM items")
        db.execute("DROP TABLE copies")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.erase([ID])
    assert _traces(tmp_path, embedder) == []


def test_an_ended_item_is_erased_too_and_an_id_can_be_used_again(
    store: Store, embedder: Embedder, tmp_path: Path
) -> None:
    store.delete([ID])
    assert store.erase([ID, "r3"]) == {ID: 8, "r3": 8}
    store.add([Item("Anew.", id=ID, scope="Bern")])
    assert [(v.version, v.item.text) for v in store.history(ID)] == [(1, "Anew.")]
    (hit,) = store.search(embedder.embed_now(["anew"])[0], 1, Filter(scopes=frozenset({"Bern"})))
    assert hit.item.text == "Anew."
    assert store.erase([ID]) == {ID: 1} and [e.versions for e in store.erasures(ID)] == [8, 1]
    assert store.scopes() == []
    again = Store(store.path, embedder)
    assert list(again) == list(store) and len(again.erasures()) == 3
    again.close()


def test_what_others_have_open_forgets_it(store: Store, embedder: Embedder, tmp_path: Path) -> None:
    """In memory: rows of indexes, scopes, tags, remembered vectors."""
    asked = word_embedder(dimension=256)
    elsewhere = Store(store.path, asked)
    query = asked.embed_now([SECRET])[0]
    assert elsewhere.search(query, 1, Filter(tags=frozenset({SECRET})))[0].item.id == ID
    store.erase([ID])
    assert not elsewhere.search(query, 1, Filter(tags=frozenset({SECRET})))
    assert ID not in [hit.item.id for hit in elsewhere.search(query, 1000, Filter())]
    assert SECRET not in elsewhere.scopes()
    kept = vars(elsewhere)
    held = [vars(kept["_catalogue"]), dict(kept["_narrow"]), vars(asked)["_recent"]]
    assert SECRET not in str(held)
    assert len(kept["_index"]) == len(elsewhere)
    elsewhere.close()
    asked.close()


@pytest.mark.parametrize("saves_after", [False, True])
def test_saved_indexes_have_it_no_more(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, saves_after: bool
) -> None:
    """Those that are there, and those of processes that have not heard of it yet."""
    for place in ("index", "store"):
        monkeypatch.setattr(f"heedful.retrieval.store.{place}.FLAT_ROWS", 100)
    monkeypatch.setattr("heedful.retrieval.store.store._UNSAVED_ROWS", -1)
    store = Store.create(tmp_path / "norms.db", embedder)
    store.add([Item(f"rule {i}") for i in range(1000)])
    store.add([Item(f"{SECRET} 7. " * 40, id=ID)])
    store.add([Item(f"late rule {i}") for i in range(1000)])
    store.settle()
    elsewhere = Store(store.path, embedder)
    if not saves_after:
        elsewhere.close()
    assert list(tmp_path.glob("*.faiss"))
    left = tmp_path / ".norms.abc.7.7.faiss.123"  # by a process that was killed
    left.write_bytes(SECRET.encode())
    store.erase([ID])
    assert not left.exists()
    if saves_after:
        elsewhere.close()  # which would keep its index, that has it
    assert _traces(tmp_path, embedder) == []
    store.settle()
    store.close()
    assert list(tmp_path.glob("*.faiss")) and _traces(tmp_path, embedder) == []
    again = Store(store.path, embedder)
    assert len(vars(again)["_index"]) == len(again) == 2000
    again.close()


_KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store import erasing, files
from heedful.retrieval.store.store import Store

class Dying(sqlite3.Connection):
    def execute(self, statement, *more):
        if statement.startswith(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(statement, *more)

store = Store(Path(sys.argv[1]), word_embedder(dimension=256))
connect = sqlite3.connect
sqlite3.connect = lambda *a, **k: connect(*a, **k, factory=Dying)
vars(store)["_database"]._connections._idle.clear()
store.erase(["person/ada"], "key 7")
"""


@pytest.mark.parametrize(
    ("at", "whole"),
    [
        ("DELETE FROM vectors", False),
        ("INSERT OR REPLACE INTO meta", False),
        ("VACUUM", True),
        ("PRAGMA wal_checkpoint", True),
        ("DELETE FROM meta", True),
    ],
)
def test_killed_at_any_step_it_is_whole_or_not_there(
    store: Store, embedder: Embedder, tmp_path: Path, at: str, whole: bool
) -> None:
    before = list(store)
    store.close()
    done = subprocess.run([sys.executable, "-c", _KILLED, str(store.path), at], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    again = Store(store.path, embedder)
    try:
        assert len(again.history(ID)) == (0 if whole else 8) and len(again.erasures(ID)) == whole
        assert list(again) == ([item for item in before if item.id != ID] if whole else before)
        assert (_traces(tmp_path, embedder) == []) == whole
        if not whole:
            again.erase([ID])
            assert _traces(tmp_path, embedder) == []
    finally:
        again.close()


def test_a_store_from_before_there_was_erasure(store: Store, embedder: Embedder, tmp_path: Path) -> None:
    store.close()
    with closing(sqlite3.connect(store.path)) as db:
        db.executescript("DROP TABLE erasures; DROP TABLE erased_rows;")
    again = Store(store.path, embedder)
    assert again.erasures() == [] and again.erase([ID]) == {ID: 8}
    assert _traces(tmp_path, embedder) == []
    again.close()


def test_over_http(tmp_path: Path, embedder: Embedder) -> None:
    stores = Stores(tmp_path, embedder)
    client = Client(Tenant("acme"), Role.ADMIN, "key 7")
    with serving_clients(ScriptedEngine(model="m"), stores, {"acme": client}) as asking:
        http: httpx.Client = asking["acme"]
        base = "/v1/alignment/stores/norms"
        http.put(base)
        for i in range(3):
            http.post(f"{base}/items", json={"id": ID, "text": f"{SECRET} {i}"})
        http.post(f"{base}/items", json={"text": "Another."})
        assert http.post(f"{base}/search", json={"query": f"{SECRET} 2"}).json()["data"][0]["id"] == ID
        item = f"{base}/items/{ID}"
        assert http.delete(item, params={"erase": "yes"}).json()["error"]["param"] == "erase"
        erased = http.delete(item, params={"erase": "true"})
        assert erased.json() == {"id": ID, "deleted": True, "erased": True, "versions": 3}
        assert b"Lovelace" not in _bytes(tmp_path)
        assert http.delete(item, params={"erase": "true"}).json()["error"]["code"] == "item_not_found"
        assert http.get(item).status_code == 404
        (mark,) = http.get(f"{base}/history/{ID}").json()["data"]
        assert mark.keys() == {"erased", "versions"} and mark["versions"] == 3
        (told,) = http.get(f"{base}/erasures").json()["data"]
        assert (
            (told["by"], told["versions"]) == ("key 7", 3) and SECRET not in str(told) and ID not in str(told)
        )
        assert "Lovelace" not in http.get(f"{base}/export").text
        assert not [key for key in vars(embedder)["_recent"] if key[0] == "acme" and "Lovelace" in key[1]]
        http.post(f"{base}/items", json={"id": ID, "text": "Somebody lives somewhere."})
        assert [d.get("version") for d in http.get(f"{base}/history/{ID}").json()["data"]] == [None, 1]
    stores.close()


def test_readers_and_writers_meet_no_error_while_items_are_erased(store: Store, embedder: Embedder) -> None:
    query = embedder.embed_now(["rule"])[0]

    def read() -> None:
        for _ in range(60):
            store.search(query, 50, Filter(at=1.0))
            store.mandatory(Filter())
            store.page(0, 50)
            store.history("r1")

    def write(name: str) -> None:
        for i in range(15):
            store.add([Item(f"rule {name} {i}", id=name, mandatory=True, scope=name)])
            assert store.erase([name]) == {name: 1}

    at_once(read, read, read, lambda: write("a"), lambda: write("b"))
    assert store.mandatory(Filter()) == [] and len(store.erasures("a")) == 15
    assert len(store.search(query, 1000, Filter())) == len(store)


@pytest.fixture
def heedful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setattr(store_cli, "load", lambda model: word_embedder(dimension=256))
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path))

    def run(*arguments: str, **more: Any) -> str:
        result = CliRunner().invoke(app, ["store", *arguments], **more)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


def test_on_the_command_line_by_tenant(
    heedful: Callable[..., str], tmp_path: Path, embedder: Embedder
) -> None:
    acme = ("--tenant", "acme")
    heedful("add", "norms", SECRET, "--id", ID, *acme)
    heedful("add", "norms", "The default tenant's.", "--id", ID)
    assert (tmp_path / "stores" / "tenants" / "acme" / "norms.db").is_file()
    assert "Lovelace" in heedful("search", "norms", "who", *acme) and "Lovelace" not in heedful(
        "search", "norms", "who"
    )
    for options, there in ((acme, True), ((), False)):
        heedful("export", "norms", str(tmp_path / "out.jsonl"), *options)
        assert ("Lovelace" in (tmp_path / "out.jsonl").read_text()) == there
    assert "Aborted" in heedful("erase", "norms", ID, *acme, input="n\n")
    assert "erased 1 items, 1 versions" in heedful("erase", "norms", ID, "--yes", *acme)
    assert "erased" in heedful("history", "norms", ID, *acme)
    assert _traces(tmp_path / "stores" / "tenants", embedder) == []
    assert "The default tenant's." in heedful("history", "norms", ID)
    with pytest.raises(UnknownItem, match="never were"):
        heedful("erase", "norms", "nobody", "--yes", *acme)


def test_a_log_in_use_is_told(store: Store, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process reads an old state all the while: erased, and out of the files at the next opening."""
    monkeypatch.setattr("heedful.retrieval.store.connections._BUSY", 0.1)
    store.close()
    again = Store(store.path, embedder)
    reader = sqlite3.connect(store.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM items").fetchone()
    with pytest.raises(Exception, match=erasing.STILL_READ):
        again.erase([ID])
    assert again.history(ID) == [] and len(again.erasures()) == 1
    reader.execute("COMMIT")
    reader.close()
    again.close()
    Store(store.path, embedder).close()
    assert _traces(store.path.parent, embedder) == []
