"""Stores: durable, live, filtered, and honest about damage."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import HANG

from heedful.retrieval import (
    DamagedStore,
    Embedder,
    EmbedderChanged,
    Filter,
    InvalidItem,
    Item,
    StoreError,
    UnknownStore,
)
from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store import index as index_module
from heedful.retrieval.store.index import Index
from heedful.retrieval.store.store import Store


@pytest.fixture
def embedder() -> Iterator[Embedder]:
    embedder = word_embedder()
    yield embedder
    embedder.close()


@pytest.fixture
def store(tmp_path: Path, embedder: Embedder) -> Iterator[Store]:
    store = Store.create(tmp_path / "norms.db", embedder)
    yield store
    store.close()


def found(store: Store, query: str, k: int = 5, filter: Filter | None = None) -> list[str]:
    vector = store.embedder.embed_now([query])[0]
    return [hit.item.text for hit in store.search(vector, k, filter or Filter())]


def test_adds_and_deletes_are_seen_by_the_next_search(store: Store) -> None:
    assert found(store, "cats") == []
    cat = Item("be kind to cats")
    store.add([cat, Item("be kind to dogs")])
    assert found(store, "kind cats", 1) == ["be kind to cats"]
    assert store.delete([cat.id, "nobody"]) == [cat.id]
    assert found(store, "kind cats") == ["be kind to dogs"]
    assert len(store) == 1


def test_same_content_is_the_same_item_and_a_change_is_a_new_version(store: Store) -> None:
    first = store.add([Item("keep secrets", id="s1")])
    again = store.add([Item("keep secrets", id="s1")])
    changed = store.add([Item("keep all secrets", id="s1", scope="at work")])
    assert (first.added, again.unchanged, changed.replaced) == (["s1"], ["s1"], ["s1"])
    store.delete(["s1"])
    back = store.add([Item("keep some secrets", id="s1")])
    assert back.added == ["s1"]
    history = store.history("s1")
    assert [v.item.text for v in history] == ["keep secrets", "keep all secrets", "keep some secrets"]
    assert [v.version for v in history] == [1, 2, 3]
    assert history[0].ended == history[1].began and history[2].ended is None
    stood = [v.item.text for _, v in store.page(as_of=history[1].began)]
    assert stood == ["keep all secrets"]
    assert found(store, "keep secrets") == ["keep some secrets"]


def test_a_change_of_metadata_alone_embeds_nothing(tmp_path: Path) -> None:
    seen: list[str] = []
    embedder = word_embedder(seen=seen)
    store = Store.create(tmp_path / "n.db", embedder)
    store.add([Item("wash your hands", id="w")])
    before = list(seen)
    store.add([Item("wash your hands", id="w", tags=("health",))])
    assert seen == before
    assert found(store, "wash hands", filter=Filter(tags=frozenset({"health"}))) == ["wash your hands"]
    store.close()
    embedder.close()


def test_filters_let_through_exactly_what_they_say(store: Store) -> None:
    now = time.time()
    store.add(
        [
            Item("rule everywhere"),
            Item("rule of Bern", scope="Bern"),
            Item("rule of Rome", scope="Rome", tags=("a",)),
            Item("rule ended", valid_until=now - 10),
            Item("rule to come", valid_from=now + 3600),
            Item("rule", kind="demo", answer="x", tags=("a", "b")),
        ]
    )
    norms = {"rule everywhere", "rule of Bern", "rule of Rome", "rule ended", "rule to come"}
    cases: list[tuple[Filter, set[str]]] = [
        (Filter(), norms | {"rule"}),
        (Filter(kind="norm"), norms),
        (Filter(kind="norm", at=now), norms - {"rule ended", "rule to come"}),
        (Filter(kind="norm", at=now + 7200), norms - {"rule ended"}),
        (Filter(kind="norm", scopes=frozenset(), at=now), {"rule everywhere"}),
        (Filter(kind="norm", scopes=frozenset({"Bern"}), at=now), {"rule everywhere", "rule of Bern"}),
        (Filter(tags=frozenset({"a"})), {"rule of Rome", "rule"}),
        (Filter(tags=frozenset({"none"})), set()),
    ]
    for filter, expected in cases:
        assert set(found(store, "rule", 10, filter)) == expected, filter


def test_mandatory_items_obey_scope_and_time(store: Store) -> None:
    store.add(
        [
            Item("always", mandatory=True),
            Item("in Bern", mandatory=True, scope="Bern"),
            Item("no more", mandatory=True, valid_until=1.0),
            Item("perhaps"),
        ]
    )
    bound = store.mandatory(Filter(scopes=frozenset({"Rome"}), at=time.time()))
    assert [(norm.item.text, norm.version) for norm in bound] == [("always", 1)]


def test_two_items_of_one_id_are_refused_whole(store: Store) -> None:
    with pytest.raises(InvalidItem, match="two different items"):
        store.add([Item("a", id="x"), Item("b", id="x")])
    assert len(store) == 0


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


def test_another_process_sees_what_this_one_writes(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from heedful.retrieval import Filter\n"
        "from heedful.retrieval.embedding.scripted import word_embedder\n"
        "from heedful.retrieval.store.store import Store\n"
        "e = word_embedder(); s = Store(Path(sys.argv[1]), e)\n"
        "for line in sys.stdin:\n"
        "    hits = s.search(e.embed_now([line])[0], 1, Filter())\n"
        "    print([h.item.text for h in hits], flush=True)\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin and reader.stdout
    try:
        for i in range(3):
            item = Item(f"word{i} of honour")
            store.add([item])
            print(f"word{i} of honour", file=reader.stdin, flush=True)
            assert reader.stdout.readline() == f"['word{i} of honour']\n"
            store.delete([item.id])
            print(f"word{i} of honour", file=reader.stdin, flush=True)
            assert reader.stdout.readline() == "[]\n"
    finally:
        reader.stdin.close()
        reader.wait(HANG)


_WRITER = """
import sys
from pathlib import Path
from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.store import Store
path, start = Path(sys.argv[1]), int(sys.argv[2])
store = Store(path, word_embedder())
print("open", flush=True)
for i in range(start, start + 100_000):
    store.add([Item(f"rule {i} part {j}", id=f"{i}-{j}") for j in range(3)])
    print("+", i, flush=True)
    if i % 3 == 0:
        store.delete([f"{i}-0"])
        print("-", i, flush=True)
"""


def test_killed_writers_lose_nothing_acknowledged(store: Store) -> None:
    dice = random.Random(1)
    added: set[int] = set()
    deleted: set[int] = set()
    for round in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(store.path), str(round * 100_000)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout and writer.stdout.readline() == "open\n"
        end = dice.randrange(60)  # acknowledged; the kill meets what comes after, wherever that is
        for n, line in enumerate(writer.stdout):
            if n == end:
                writer.kill()
            sign, _, number = line.rstrip("\n").partition(" ")
            if line.endswith("\n"):
                (added if sign == "+" else deleted).add(int(number))
        assert writer.wait(HANG) == -signal.SIGKILL
    assert len(added) > 50
    again = Store(store.path, store.embedder)
    standing = {item.id for item in again}
    for i in added:
        assert {f"{i}-1", f"{i}-2"} <= standing
    for i in deleted:
        assert f"{i}-0" not in standing and again.history(f"{i}-0")
    # Each write is whole: three items or none.
    for i in {int(id.split("-")[0]) for id in standing}:
        assert {f"{i}-1", f"{i}-2"} <= standing
    assert set(found(again, "rule", 10**6)) == {item.text for item in again}
    again.close()


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


def test_another_embedder_embeds_anew_and_never_mixes(store: Store) -> None:
    store.add([Item("alpha beta"), Item("gamma delta")])
    other = word_embedder("other", dimension=48, salt="x")
    seen: list[float] = []
    anew = Store(store.path, other, lambda step, share: seen.append(share))
    assert seen and seen[-1] == 1.0
    assert found(anew, "gamma delta", 1) == ["gamma delta"]
    assert anew.describe()["dimension"] == 48
    # The one that was open with the old embedder says so, on either side.
    with pytest.raises(EmbedderChanged):
        found(store, "alpha")
    with pytest.raises(EmbedderChanged):
        store.add([Item("epsilon")])
    anew.close()
    other.close()


def test_embedding_anew_goes_on_where_it_was_cut_off(store: Store) -> None:
    store.add([Item(f"rule {i}") for i in range(1500)])
    seen: list[str] = []
    other = word_embedder("other", dimension=48, salt="x", seen=seen)
    other.probe  # noqa: B018 - made now, so that `seen` counts texts only

    def stop(step: str, share: float) -> None:
        if 0 < share < 1 and step.startswith("embedding"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(store.path, other, stop)
    assert found(store, "rule 7", 1) == ["rule 7"]  # the old vectors still serve
    seen.clear()
    anew = Store(store.path, other)
    assert 0 < len(seen) < 1500
    assert found(anew, "rule 7", 1) == ["rule 7"]
    anew.close()
    other.close()


def test_readers_and_writers_at_once(store: Store) -> None:
    stop, failures = threading.Event(), list[BaseException]()

    def guarded(work: object) -> None:
        try:
            while not stop.is_set():
                work()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    count = iter(range(10**6))
    threads = [threading.Thread(target=guarded, args=[lambda: found(store, "rule", 3)]) for _ in range(3)]
    threads += [
        threading.Thread(target=guarded, args=[lambda: store.add([Item(f"rule {next(count)}")])])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    while len(store) < 60 and not failures:
        pass
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(found(store, "rule", 10**6)) == len(store)


def test_a_vector_of_another_length_is_refused(store: Store) -> None:
    with pytest.raises(StoreError):
        store.add([Item("x")], {"x": np.ones(5, np.float32)})
    assert len(store) == 0


def test_cosines_are_scores(store: Store) -> None:
    store.add([Item("one two"), Item("one three")])
    query: Vectors = store.embedder.embed_now(["one two"])[0]
    hits = store.search(query, 2, Filter())
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert 0 < hits[1].score < 1
