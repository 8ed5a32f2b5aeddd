"""What every store promises, in a file and in PostgreSQL: durable, live, filtered."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from waiting import HANG

from heedful.retrieval import Embedder, EmbedderChanged, Filter, InvalidItem, Item, StoreError, UnknownStore
from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.any_store import AnyStore, Progress
from heedful.retrieval.store.backend import backend_of
from heedful.retrieval.store.stores import Stores

Opens = Callable[..., AnyStore]


@pytest.fixture
def store(place: Path | str, embedder: Embedder) -> Iterator[AnyStore]:
    stores = Stores(place, embedder)
    yield stores.create("norms")[0]
    stores.close()


@pytest.fixture
def opened(place: Path | str, store: AnyStore) -> Iterator[Opens]:
    """The same store as another server has it."""
    with ExitStack() as stack:

        def open(embedder: Embedder, progress: Progress = lambda step, share: None) -> AnyStore:
            backend = backend_of(place)
            stack.callback(backend.close)
            again = backend.open("norms", embedder, progress)
            stack.callback(again.close)
            return again

        yield open


def found(store: AnyStore, query: str, k: int = 5, filter: Filter | None = None) -> list[str]:
    vector = store.embedder.embed_now([query])[0]
    return [hit.item.text for hit in store.search(vector, k, filter or Filter())]


def test_adds_and_deletes_are_seen_by_the_next_search(store: AnyStore) -> None:
    assert found(store, "cats") == []
    cat = Item("be kind to cats")
    store.add([cat, Item("be kind to dogs")])
    assert found(store, "kind cats", 1) == ["be kind to cats"]
    assert store.delete([cat.id, "nobody"]) == [cat.id]
    assert found(store, "kind cats") == ["be kind to dogs"]
    assert len(store) == 1


def test_same_content_is_the_same_item_and_a_change_is_a_new_version(store: AnyStore) -> None:
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


def test_a_change_of_metadata_alone_embeds_nothing(place: Path | str) -> None:
    seen: list[str] = []
    embedder = word_embedder(seen=seen)
    stores = Stores(place, embedder)
    store = stores.create("norms")[0]
    store.add([Item("wash your hands", id="w")])
    before = list(seen)
    store.add([Item("wash your hands", id="w", tags=("health",))])
    assert seen == before
    assert found(store, "wash hands", filter=Filter(tags=frozenset({"health"}))) == ["wash your hands"]
    stores.close()
    embedder.close()


def test_filters_let_through_exactly_what_they_say(store: AnyStore) -> None:
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


def test_mandatory_items_obey_scope_and_time(store: AnyStore) -> None:
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


def test_two_items_of_one_id_are_refused_whole(store: AnyStore) -> None:
    with pytest.raises(InvalidItem, match="two different items"):
        store.add([Item("a", id="x"), Item("b", id="x")])
    assert len(store) == 0


def test_another_process_sees_what_this_one_writes(store: AnyStore, place: Path | str) -> None:
    code = (
        "import sys\n"
        "from heedful.retrieval import Filter\n"
        "from heedful.retrieval.embedding.scripted import word_embedder\n"
        "from heedful.retrieval.store.stores import Stores\n"
        "from heedful.retrieval.store.place import place_of\n"
        "e = word_embedder(); s = Stores(place_of(sys.argv[1]), e).get('norms')\n"
        "for line in sys.stdin:\n"
        "    hits = s.search(e.embed_now([line])[0], 1, Filter())\n"
        "    print([h.item.text for h in hits], flush=True)\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(place)],
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
from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.place import place_of
from heedful.retrieval.store.stores import Stores
start = int(sys.argv[2])
store = Stores(place_of(sys.argv[1]), word_embedder()).get("norms")
print("open", flush=True)
for i in range(start, start + 100_000):
    store.add([Item(f"rule {i} part {j}", id=f"{i}-{j}") for j in range(3)])
    print("+", i, flush=True)
    if i % 3 == 0:
        store.delete([f"{i}-0"])
        print("-", i, flush=True)
"""


def test_killed_writers_lose_nothing_acknowledged(store: AnyStore, place: Path | str, opened: Opens) -> None:
    dice = random.Random(1)
    added: set[int] = set()
    deleted: set[int] = set()
    # Of a file it is the writer who must leave it whole; of a database, the server, which is not killed here.
    for round in range(12 if isinstance(place, Path) else 5):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(place), str(round * 100_000)],
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
    again = opened(store.embedder)
    standing = {item.id for item in again}
    for i in added:
        assert {f"{i}-1", f"{i}-2"} <= standing
    for i in deleted:
        assert f"{i}-0" not in standing and again.history(f"{i}-0")
    # Each write is whole: three items or none.
    for i in {int(id.split("-")[0]) for id in standing}:
        assert {f"{i}-1", f"{i}-2"} <= standing
    assert set(found(again, "rule", 10**6)) == {item.text for item in again}


def test_another_embedder_embeds_anew_and_never_mixes(store: AnyStore, opened: Opens) -> None:
    store.add([Item("alpha beta"), Item("gamma delta")])
    other = word_embedder("other", dimension=48, salt="x")
    seen: list[float] = []
    anew = opened(other, lambda step, share: seen.append(share))
    assert seen and seen[-1] == 1.0
    assert found(anew, "gamma delta", 1) == ["gamma delta"]
    assert anew.describe()["dimension"] == 48
    # The one that was open with the old embedder says so, on either side.
    with pytest.raises(EmbedderChanged):
        found(store, "alpha")
    with pytest.raises(EmbedderChanged):
        store.add([Item("epsilon")])
    other.close()


def test_embedding_anew_goes_on_where_it_was_cut_off(store: AnyStore, opened: Opens) -> None:
    store.add([Item(f"rule {i}") for i in range(1500)])
    seen: list[str] = []
    other = word_embedder("other", dimension=48, salt="x", seen=seen)
    other.probe  # noqa: B018 - made now, so that `seen` counts texts only

    def stop(step: str, share: float) -> None:
        if 0 < share < 1 and step.startswith("embedding"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(other, stop)
    assert found(store, "rule 7", 1) == ["rule 7"]  # the old vectors still serve
    seen.clear()
    anew = opened(other)
    assert 0 < len(seen) < 1500
    assert found(anew, "rule 7", 1) == ["rule 7"]
    other.close()


def test_readers_and_writers_at_once(store: AnyStore) -> None:
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


def test_a_vector_of_another_length_is_refused(store: AnyStore) -> None:
    with pytest.raises(StoreError):
        store.add([Item("x")], {"x": np.ones(5, np.float32)})
    assert len(store) == 0


def test_cosines_are_scores(store: AnyStore) -> None:
    store.add([Item("one two"), Item("one three")])
    query: Vectors = store.embedder.embed_now(["one two"])[0]
    hits = store.search(query, 2, Filter())
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert 0 < hits[1].score < 1


def test_a_store_that_is_not_there_is_told(store: AnyStore, place: Path | str) -> None:
    stores = Stores(place, store.embedder)
    with pytest.raises(UnknownStore, match="unknown store 'absent'; known: norms"):
        stores.get("absent")
    assert stores.names() == ["norms"] and not stores.has("absent")
    stores.close()
