"""Who waits for whom: long things never keep short ones, readers never keep writers, writers never keep readers."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heedful.retrieval import Embedder, Filter, Item, StoreError
from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.catalogue import Catalogue
from heedful.retrieval.store.database import Database
from heedful.retrieval.store.index import Index
from heedful.retrieval.store.narrow import Narrow
from heedful.retrieval.store.sharing import Sharing
from heedful.retrieval.store.store import Store
from heedful.retrieval.store.stores import Stores

_WAIT = 60


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    embedder = word_embedder()
    stores = Stores(tmp_path, embedder)
    for name in ("norms", "laws"):
        stores.create(name)[0].add([Item(f"rule of {name}")])
    yield stores
    stores.close()
    embedder.close()


async def search(stores: Stores, name: str) -> list[str]:
    async with asyncio.timeout(_WAIT):
        return sorted(hit.item.text for hit in await stores.search(name, "rule", 10**4, Filter()))


async def test_long_jobs_and_a_writer_that_waits_keep_nobody(stores: Stores, tmp_path: Path) -> None:
    go = threading.Event()
    long = [asyncio.create_task(stores.long(go.wait, _WAIT)) for _ in range(50)]
    lock = sqlite3.connect(tmp_path / "norms.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")  # as another process that writes
    norms, laws = stores.get("norms"), stores.get("laws")
    waiting = [asyncio.wrap_future(norms.in_turn(norms.add, [Item(f"rule {i}")])) for i in range(50)]
    assert await search(stores, "norms") == ["rule of norms"]
    assert await search(stores, "laws") == ["rule of laws"]
    async with asyncio.timeout(_WAIT):
        assert await stores.delete(laws, [Item("rule of laws").id]) == [Item("rule of laws").id]
        await stores.make("more")
        await stores.delete_store("more")
    lock.execute("ROLLBACK")
    lock.close()
    go.set()
    await asyncio.gather(*long, *waiting)
    assert len(await search(stores, "norms")) == 51


async def test_a_store_that_takes_much_in_keeps_no_search_of_another(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heedful.retrieval.store.store._SOON", 100)
    elsewhere = Store(tmp_path / "norms.db", stores.embedder)
    elsewhere.add([Item(f"rule {i}") for i in range(300)])
    elsewhere.close()
    begun, go, vectors = threading.Event(), threading.Event(), Database.vectors

    def slowly(self: Database, after: int, upto: int, chunk: int) -> Iterator[tuple[np.ndarray, Vectors]]:
        if self.path.stem == "norms":
            begun.set()
            assert go.wait(_WAIT)
        yield from vectors(self, after, upto, chunk)

    monkeypatch.setattr(Database, "vectors", slowly)
    kept = [asyncio.create_task(search(stores, "norms")) for _ in range(40)]
    assert await asyncio.to_thread(begun.wait, _WAIT)
    assert await search(stores, "laws") == ["rule of laws"]
    assert not any(task.done() for task in kept)
    go.set()
    # And what was acknowledged elsewhere before a search is in it.
    assert {len(found) for found in await asyncio.gather(*kept)} == {301}


async def test_an_import_is_written_piece_by_piece_in_turn_with_others(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []
    begun, write = asyncio.Event(), Database.write
    loop = asyncio.get_running_loop()

    def written(self: Database, items: list[Item], *rest: object) -> object:
        order.append(len(items))
        loop.call_soon_threadsafe(begun.set)
        return write(self, items, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "write", written)
    norms = stores.get("norms")
    importing = asyncio.create_task(stores.add_all(norms, [Item(f"rule {i}") for i in range(5000)]))
    await begun.wait()
    await stores.add(norms, [Item("in between")])
    assert 1 in order and not importing.done()
    assert (await importing).added == 5000
    assert order.index(1) < order.count(256)


async def test_a_question_waits_for_one_piece_of_an_import_and_imports_for_one_batch_of_questions() -> None:
    batches: list[list[str]] = []
    begun, go = threading.Event(), threading.Event()

    def encode(texts: list[str]) -> Vectors:
        batches.append(texts)
        begun.set()
        assert go.wait(_WAIT)
        return np.ones((len(texts), 2), np.float32)

    embedder = Embedder("e", lambda: encode, batch=10)
    imports = [asyncio.create_task(embedder.embed([f"{name}{i}" for i in range(100)])) for name in "ab"]
    await asyncio.sleep(0)
    assert await asyncio.to_thread(begun.wait, _WAIT)
    # More questions than go into a few batches: none starves the others.
    asked = [asyncio.create_task(embedder.embed([f"question {i}"])) for i in range(40)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*imports, *asked)
    kinds = ["q" if batch[0].startswith("question") else batch[0][0] for batch in batches]
    assert kinds[1:8:2] == ["q"] * 4
    assert {kinds[2], kinds[4]} == {kinds[4], kinds[6]} == {"a", "b"}
    embedder.close()


async def test_the_failure_of_one_text_is_not_that_of_others_in_its_batch() -> None:
    begun, go = threading.Event(), threading.Event()

    def encode(texts: list[str]) -> Vectors:
        begun.set()
        assert go.wait(_WAIT)
        if "bad" in texts:
            raise ValueError("no")
        return np.ones((len(texts), 2), np.float32)

    embedder = Embedder("e", lambda: encode)
    tasks = [asyncio.create_task(embedder.embed([text])) for text in ("first", "good", "bad", "better")]
    await asyncio.sleep(0)
    assert await asyncio.to_thread(begun.wait, _WAIT)
    go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(f, ValueError) for f in found] == [False, False, True, False]
    embedder.close()


def test_readers_and_writers_come_in_turn() -> None:
    sharing, order = Sharing(), list[str]()
    waiting = vars(sharing)["_waiting"]  # private: that somebody waits shows nowhere else

    def later(name: str, writes: bool) -> threading.Thread:
        def enter() -> None:
            with sharing.writing() if writes else sharing.reading():
                order.append(name)

        thread, before = threading.Thread(target=enter), len(waiting)
        thread.start()
        while len(waiting) == before:
            pass
        return thread

    with sharing.reading():
        threads = [later(name, name[0] == "w") for name in ("w1", "r1", "w2", "r2")]
        assert order == []
    for thread in threads:
        thread.join(_WAIT)
    assert order == ["w1", "r1", "w2", "r2"]


def test_what_is_remembered_by_filter_is_bounded_whatever_clients_ask(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heedful.retrieval.store.index.FLAT_ROWS", 50)
    monkeypatch.setattr("heedful.retrieval.store.store.FLAT_ROWS", 50)
    store = stores.get("norms")
    store.add([Item(f"rule {i}", scope=f"s{i % 3}", tags=(f"t{i % 2}",)) for i in range(3000)])
    store.settle()
    query = stores.embedder.embed_now(["rule"])[0]
    catalogue: Catalogue = vars(store)["_catalogue"]
    own: Narrow = vars(store)["_narrow"]
    for i in range(700):
        for _ in range(2):
            assert not store.search(query, 5, Filter(tags=frozenset({f"unknown {i}"})))
            store.search(query, 5, Filter(scopes=frozenset({f"unknown {i}", "s1"}), tags=frozenset({"t1"})))
            store.search(query, 5, Filter(kind="norm", at=float(i)))
    assert len(vars(catalogue)["_recent"]) == 3
    assert len(list(own)) <= 3 and len(vars(own)["_asked"]) <= 3
    # Nor does what is empty count as nothing.
    empty = Index.flat_in_half_precision(64)
    for i in range(3000):
        own.put(Filter(scopes=frozenset({str(i)})), empty)
    assert len(list(own)) <= 1000


async def test_remembered_vectors_are_few_and_of_short_texts_that_were_asked() -> None:
    embedder = Embedder("e", lambda: lambda texts: np.ones((len(texts), 2), np.float32), cache=5)
    await embedder.embed(["question"])
    await embedder.embed(["long " * 10_000])
    await embedder.embed([f"imported {i}" for i in range(100)])
    remembered = vars(embedder)["_recent"]  # private, as what is remembered changes no answer
    assert list(remembered) == [("", "question")]
    for i in range(20):
        await embedder.embed([f"question {i}"])
    assert len(remembered) == 5
    embedder.close()


def test_what_was_taken_in_before_a_failure_is_not_taken_in_twice(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores.get("laws")
    vectors, failures = Database.vectors, [StoreError("the disk is gone")]

    def failing(self: Database, after: int, upto: int, chunk: int) -> Iterator[Any]:
        yield from vectors(self, after, upto, chunk)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(Database, "vectors", failing)
    with pytest.raises(StoreError):
        store.add([Item(f"rule {i}") for i in range(5)])
        store.search(store.embedder.embed_now(["rule 1"])[0], 10, Filter())
    assert not failures
    hits = store.search(store.embedder.embed_now(["rule 1"])[0], 10, Filter())
    assert sorted(hit.item.text for hit in hits) == [*(f"rule {i}" for i in range(5)), "rule of laws"]
