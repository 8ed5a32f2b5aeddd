"""A store that is deleted, or made anew, while others use it: nobody crashes, and what is acknowledged is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from heedful.retrieval import Filter, Item, StoreError, UnknownStore
from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.index import Index
from heedful.retrieval.store.store import Store
from heedful.retrieval.store.stores import Stores

_WAIT = 60


@pytest.fixture
def stores(tmp_path: Path, embedder: Embedder) -> Iterator[Stores]:
    stores = Stores(tmp_path, embedder)
    yield stores
    stores.close()


def _folder(stores: Stores) -> Path:
    assert stores.folder
    return stores.folder


def texts(store: AnyStore) -> list[str]:
    vector = store.embedder.embed_now(["rule"])[0]
    return sorted(hit.item.text for hit in store.search(vector, 10**4, Filter()))


def connections(store: Store) -> int:
    files = psutil.Process().open_files()
    return sum(Path(file.path) == store.path.resolve() for file in files)


def test_a_search_that_meets_a_deletion_is_told_so(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.create("norms")[0]
    store.add([Item(f"rule {i}") for i in range(20)])
    begun, go, search = threading.Event(), threading.Event(), Index.search

    def waiting(*arguments: object) -> object:
        begun.set()
        assert go.wait(_WAIT)
        return search(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "search", waiting)
    with ThreadPoolExecutor(1) as thread:
        searching = thread.submit(texts, store)
        assert begun.wait(_WAIT)
        stores.drop("norms")  # does not wait for the search
        go.set()
        with pytest.raises(UnknownStore, match="the store 'norms' has been deleted"):
            searching.result(_WAIT)
    for later in (
        lambda: texts(store),
        lambda: store.add([Item("x")]),
        lambda: store.delete(["x"]),
        store.page,
    ):
        with pytest.raises(UnknownStore, match="has been deleted"):
            later()
    assert not list(_folder(stores).glob("norms*"))


def test_who_reads_on_keeps_what_was_deleted_and_harms_nothing_made_anew(stores: Stores) -> None:
    old = stores.create("norms")[0]
    assert isinstance(old, Store)
    old.add([Item("rule of old")])
    reading = old._database.reading()  # private: what every reader does between two rows
    with reading as connection:
        stores.drop("norms")
        new = stores.create("norms")[0]
        new.add([Item("rule anew")])
        assert connection.execute("SELECT text FROM items").fetchall() == [("rule of old",)]
    # The old file's last connection is closed by now; SQLite deletes a log with it: not that of the new one.
    new.add([Item("rule of late")])
    stores.close()
    assert texts(Store(old.path, new.embedder)) == ["rule anew", "rule of late"]


def test_a_store_that_another_process_makes_anew_is_the_new_one_here_too(
    place: Path | str, embedder: Embedder
) -> None:
    stores, elsewhere = Stores(place, embedder), Stores(place, embedder)
    here = stores.create("norms")[0]
    here.add([Item("rule of old")])
    elsewhere.drop("norms")
    with pytest.raises(UnknownStore):
        stores.get("norms")
    elsewhere.create("norms")[0].add([Item("rule anew")])
    for write in (lambda: here.add([Item("lost")]), lambda: here.delete([Item("rule of old").id])):
        with pytest.raises(UnknownStore, match="has been deleted"):  # and not acknowledged
            write()
    assert texts(stores.get("norms")) == ["rule anew"]
    stores.get("norms").add([Item("rule of here")])
    assert texts(elsewhere.get("norms")) == ["rule anew", "rule of here"]
    elsewhere.close()
    stores.close()


def test_what_a_deletion_that_was_cut_off_leaves_is_not_taken_for_the_next_store(stores: Stores) -> None:
    store = stores.create("norms")[0]
    assert isinstance(store, Store)
    store.add([Item(f"rule {i}") for i in range(50)])
    log = store.path.with_name("norms.db-wal")
    kept = _folder(stores) / "kept"
    shutil.copy(log, kept)
    assert kept.stat().st_size
    stores.drop("norms")
    shutil.copy(kept, log)
    assert texts(stores.create("norms")[0]) == []


def test_a_store_that_is_closed_says_that_it_is_closed(place: Path | str, embedder: Embedder) -> None:
    stores = Stores(place, embedder)
    store = stores.create("norms")[0]
    store.close()
    with pytest.raises(StoreError, match=r"norms(\.db)?: the store is closed") as told:
        len(store)
    assert not isinstance(told.value, UnknownStore)
    stores.close()


_SEARCHED = """
import sys, threading
from heedful.retrieval import Filter, Item, StoreError, UnknownStore
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.place import place_of
from heedful.retrieval.store.stores import Stores
embedder = word_embedder()
stores, query = Stores(place_of(sys.argv[1]), embedder), embedder.embed_now(["rule"])[0]
items = [Item(f"rule {i} of many") for i in range(200)]
done, odd = threading.Event(), []

def read(search):
    while not done.is_set():
        try:
            store = stores.get("norms")
            if search:
                store.search(query, 200, Filter())
            else:
                list(store), store.history(items[0].id)
        except UnknownStore:
            pass
        except BaseException as error:
            odd.append(error)

threads = [threading.Thread(target=read, args=[i % 2]) for i in range(8)]
for thread in threads:
    thread.start()
for _ in range(int(sys.argv[2])):
    stores.create("norms")[0].add(items)
    stores.drop("norms")
done.set()
for thread in threads:
    thread.join()
stores.close()
embedder.close()
print(odd)
"""


def test_deleting_under_search_again_and_again(place: Path | str) -> None:
    """In a process of its own: what went wrong here, in files, was a segmentation fault."""
    command = [sys.executable, "-c", _SEARCHED, str(place), "25" if isinstance(place, Path) else "8"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_connections_are_closed_by_their_last_user(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.retrieval.store.index.FLAT_ROWS", 100)
    monkeypatch.setattr("heedful.retrieval.store.store.FLAT_ROWS", 100)
    store = stores.create("norms")[0]
    assert isinstance(store, Store)
    store.add([Item(f"rule {i}") for i in range(200)])
    store.settle()
    texts(store)
    before, size = connections(store), 200
    for _ in range(5):  # each an index built anew
        store.add([Item(f"rule {size + i}") for i in range(size)])
        size *= 2
        store.settle()
    assert connections(store) <= before + 1  # that of a build, which waits for its next user
    for _ in range(3):  # threads that come and go
        with ThreadPoolExecutor(10) as threads:
            assert all(len(found) == size for found in threads.map(lambda _: texts(store), range(10)))
    assert connections(store) <= before + 10
    store.close()
    assert connections(store) == 0
