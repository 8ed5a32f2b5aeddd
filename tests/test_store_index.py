"""A store in a file: the index that is made from it, and what is told of files that are none."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import HANG

from heedful.retrieval import DamagedStore, Embedder, Filter, Item, StoreError, UnknownStore
from heedful.retrieval.store import index as index_module
from heedful.retrieval.store.index import Index
from heedful.retrieval.store.store import Store


@pytest.fixture
def store(tmp_path: Path, embedder: Embedder) -> Iterator[Store]:
    store = Store.create(tmp_path / "norms.db", embedder)
    yield store
    store.close()


def test_a_large_store_gets_lists_beside_the_old_index_and_keeps_every_filter(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("index", "store"):
        monkeypatch.setattr(f"heedful.retrieval.store.{module}.FLAT_ROWS", 400)
    monkeypatch.setattr(index_module, "_EXACT_ROWS", 50)
    monkeypatch.setattr(index_module, "_OF_ROWS", 1)
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((3000, embedder.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = [Item(f"rule {i}", scope="s" if i % 100 == 0 else "t") for i in range(3000)]
    by_text = {item.text: vector for item, vector in zip(items, vectors, strict=True)}
    store = Store.create(tmp_path / "large.db", embedder)
    for start in range(0, 3000, 300):
        store.add(items[start : start + 300], by_text)
        assert store.search(vectors[start], 1, Filter())[0].item.text == f"rule {start}"
    store.delete([items[0].id])
    store.settle()
    assert str(store.describe()["index"]).startswith("ivf")
    scoped = Filter(scopes=frozenset({"s"}))
    for query in rng.standard_normal((20, embedder.dimension)).astype(np.float32):
        hits = store.search(query, 10, scoped)
        allowed = [i for i in range(100, 3000, 100)]
        exact = sorted(allowed, key=lambda i: -float(vectors[i] @ query))[:10]
        assert [hit.item.text for hit in hits] == [f"rule {i}" for i in exact]
        assert [hit.item.text for hit in store.search(query, 2, scoped)] == [f"rule {i}" for i in exact[:2]]
        assert len(store.search(query, 2000, Filter())) == 2000  # whatever the lists looked at first
    store.close()
    # The index was kept on the disk, and what came after it is taken in again.
    assert list(tmp_path.glob("large.*.faiss"))
    store = Store(tmp_path / "large.db", embedder)
    assert str(store.describe()["index"]).startswith("ivf")
    assert len(store.search(vectors[0], 5000, Filter())) == 2999
    store.close()
    # A database that is older than the index (restored from a copy) does not believe it.
    for file in tmp_path.glob("large.*.faiss"):
        generation, built = file.name.split(".")[1], file.name.split(".")[3]
        file.rename(file.with_name(f"large.{generation}.99999.{built}.faiss"))
    store = Store(tmp_path / "large.db", embedder)
    store.settle()
    assert len(store.search(vectors[0], 5000, Filter())) == 2999
    assert "99999" not in "".join(p.name for p in tmp_path.glob("large.*.faiss"))
    store.close()
    # A damaged copy of the index is only a copy.
    for file in tmp_path.glob("large.*.faiss"):
        file.write_bytes(file.read_bytes()[:100])
    store = Store(tmp_path / "large.db", embedder)
    assert store.search(vectors[5], 1, Filter())[0].item.text == "rule 5"
    store.close()


def test_a_filter_that_lets_few_through_is_exact_whatever_is_written(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heedful.retrieval.store.index.FLAT_ROWS", 400)
    monkeypatch.setattr("heedful.retrieval.store.store.FLAT_ROWS", 400)
    monkeypatch.setattr("heedful.retrieval.store.narrow.ROWS", 60)
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((3000, embedder.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    standing: dict[str, int] = {}
    store = Store.create(tmp_path / "narrow.db", embedder)

    def add(numbers: range) -> None:
        items = [
            Item(f"rule {i}", id=str(i), tags=("a",) if i % 50 == 0 else (), valid_until=i % 3 * 1000.0 + 1)
            for i in numbers
        ]
        store.add(items, {item.text: vectors[i] for i, item in zip(numbers, items, strict=True)})
        standing.update({str(i): i for i in numbers})

    def check(filter: Filter, allowed: list[int]) -> None:
        for query in rng.standard_normal((5, embedder.dimension)).astype(np.float32):
            query /= np.linalg.norm(query)
            exact = sorted((float(vectors[i] @ query) for i in allowed), reverse=True)[:10]
            found = [int(hit.item.id) for hit in store.search(query, 10, filter)]
            assert set(found) <= set(allowed)  # and as near as the nearest, to half precision
            assert [float(vectors[i] @ query) for i in found] == pytest.approx(exact, abs=1e-3)

    def check_all() -> None:
        tagged = [i for i in standing.values() if i % 50 == 0]
        check(Filter(tags=frozenset({"a"})), tagged)
        check(Filter(tags=frozenset({"a"}), at=1500.0), [i for i in tagged if i % 3 * 1000 + 1 > 1500])

    add(range(1000))
    store.settle()
    check_all()
    narrow = vars(store)[
        "_narrow"
    ]  # private, but whether it took part can't be told from answers that are right
    assert [len(index) for _, index in narrow] == [20]
    add(range(1000, 1500))  # into the filter's own index
    check_all()
    for gone in ("0", "1050"):
        store.delete([gone])
        del standing[gone]
    check_all()
    store.add([Item("rule 50 anew", id="50")], {"rule 50 anew": vectors[50]})  # untagged from now on
    del standing["50"]
    check_all()
    assert [len(index) for _, index in narrow] == [30]
    add(range(1500, 3000, 10))
    add(range(1501, 3000, 10))
    assert [len(index) for _, index in narrow] == [60]
    add(range(50))
    add(range(3, 53))
    assert not list(narrow)  # more than a filter's own index takes
    check_all()
    store.close()


def test_a_store_closed_while_it_builds_lets_the_build_come_to_its_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, told = threading.Event(), threading.Event(), []

    def build(dimension: int, count: int, chunks: Any) -> Index:
        pieces = chunks()
        next(pieces)
        begun.set()
        assert go.wait(HANG)
        try:
            next(pieces)
        except StoreError as error:
            told.append(str(error))
            raise
        raise AssertionError("the build was not given up")

    monkeypatch.setattr(Index, "build", build)
    monkeypatch.setattr("heedful.retrieval.store.index.FLAT_ROWS", 10)
    monkeypatch.setattr("heedful.retrieval.store.store._CHUNK", 20)
    store.add([Item(f"rule {i}") for i in range(60)])
    assert begun.wait(HANG)
    store.close()
    go.set()
    store.settle()
    assert told == ["norms.db: the store is closed"]


def test_damaged_and_foreign_files_are_named_not_replaced(store: Store, tmp_path: Path) -> None:
    store.add([Item(f"rule number {i} of many, with some length to it") for i in range(300)])
    store.close()
    whole = (tmp_path / "norms.db").read_bytes()
    (tmp_path / "text.db").write_text("dear diary, " * 100)
    (tmp_path / "empty.db").touch()
    (tmp_path / "cut.db").write_bytes(whole[: len(whole) // 2])
    middle = len(whole) // 2
    (tmp_path / "noise.db").write_bytes(
        whole[:middle] + random.Random(0).randbytes(9000) + whole[middle + 9000 :]
    )
    foreign = sqlite3.connect(tmp_path / "foreign.db")
    foreign.execute("CREATE TABLE items (a)")
    foreign.close()
    for name in ("text", "empty", "cut", "noise", "foreign"):
        path = tmp_path / f"{name}.db"
        before = path.read_bytes()
        with pytest.raises(DamagedStore, match=f"{name}.db"):
            Store(path, store.embedder)
        assert path.read_bytes() == before
    with pytest.raises(UnknownStore):
        Store(tmp_path / "absent.db", store.embedder)
    assert not (tmp_path / "absent.db").exists()
