"""Stores in PostgreSQL when it goes away, comes back, is another one, or is not what it has to be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import psycopg
import pytest
from waiting import HANG

from heedful.benchmarks.postgres_server import PostgresProcess, postgres
from heedful.retrieval import Embedder, Filter, Item, StoreError, StoreUnavailable, UnknownStore
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.postgres import indexing, layout
from heedful.retrieval.postgres import store as store_module
from heedful.retrieval.postgres.connections import Address, ConnectionPool, PgConnection
from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.backend import backend_of
from heedful.retrieval.store.stores import Stores

Opens = Callable[..., Stores]


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresProcess]:
    """A server that may be killed; whoever does it starts it again."""
    with postgres(shared_buffers="16MB") as server:
        yield server


@pytest.fixture
def server(embedder: Embedder) -> Iterator[Opens]:
    """`server(url)`: the stores as one server of several has them."""
    with ExitStack() as stack:

        def open(url: str) -> Stores:
            stores = Stores(url, embedder)
            stack.callback(stores.close)
            return stores

        yield open


def found(store: AnyStore, query: str, k: int = 5, filter: Filter | None = None) -> list[str]:
    vector = store.embedder.embed_now([query])[0]
    return [hit.item.text for hit in store.search(vector, k, filter or Filter())]


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG
    while not there():
        assert time.monotonic() < end
        time.sleep(0.005)


# -- a server that goes


def test_killed_under_reads_and_writes_it_has_all_that_was_acknowledged(
    mortal: PostgresProcess, server: Opens
) -> None:
    store = server(f"{mortal.url}&schema=killed").create("norms")[0]
    store.add([Item("rule 0")])
    acknowledged: list[str] = []
    told, odd = list[str](), list[BaseException]()
    stop = threading.Event()

    def write(name: str) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            try:
                store.add([Item(f"rule {name} {n} {part}", id=f"{name}-{n}-{part}") for part in range(3)])
                acknowledged.append(f"{name}-{n}")
            except StoreUnavailable as error:
                told.append(str(error))
            except BaseException as error:
                odd.append(error)

    def read() -> None:
        while not stop.is_set():
            try:
                assert found(store, "rule", 1)
            except StoreUnavailable as error:
                told.append(str(error))
            except BaseException as error:
                odd.append(error)

    threads = [threading.Thread(target=write, args=[name]) for name in "ab"]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        before = len(acknowledged)
        until(lambda before=before: len(acknowledged) > before + 5)  # type: ignore[misc]
        mortal.kill()
        failed = len(told)
        until(lambda failed=failed: len(told) > failed)  # type: ignore[misc]
        mortal.start()
    before = len(acknowledged)
    until(lambda: len(acknowledged) > before + 5)  # with no word from anybody
    stop.set()
    for thread in threads:
        thread.join(HANG)
    assert not odd
    standing = {item.id for item in store}
    for write_of in acknowledged:
        assert {f"{write_of}-{part}" for part in range(3)} <= standing
    for whole in {id.rpartition("-")[0] for id in standing if id.count("-") == 2}:
        assert {f"{whole}-{part}" for part in range(3)} <= standing
    assert len(found(store, "rule", 10**6)) == len(store) == len(standing)


def test_a_server_that_is_down_is_told_at_once_and_holds_nobody(
    mortal: PostgresProcess, server: Opens
) -> None:
    stores = server(f"{mortal.url}&schema=down")
    store = stores.create("norms")[0]
    mortal.stop()
    try:
        for ask in (
            lambda: found(store, "x"),
            lambda: store.add([Item("x")]),
            lambda: store.delete(["x"]),
            store.page,
            store.scopes,
            lambda: stores.create("more"),
        ):
            with pytest.raises(StoreUnavailable, match="the database of the stores .postgres at .* can't be"):
                ask()
        # What an event loop asks is known, and waits for nobody.
        assert stores.names() == ["norms"] and stores.has("norms") and store.stands
        with pytest.raises(StoreUnavailable, match="can't be reached"):
            server(f"{mortal.url}&schema=down").names()  # which never has been there
    finally:
        mortal.start()
    until(lambda: _works(store))
    assert found(store, "back") == ["back"]


def _works(store: AnyStore) -> bool:
    try:
        store.add([Item("back")])
    except StoreUnavailable:
        return False
    return True


def test_connections_that_were_cut_are_made_anew_without_a_word(
    postgres_server: PostgresProcess, postgres_url: str, server: Opens
) -> None:
    """As after a restart, or by a router that forgets who was quiet for long."""
    store = server(postgres_url).create("norms")[0]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: found(store, f"rule {i}"), range(32)))
    with psycopg.connect(postgres_server.url, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'heedful' AND pid <> pg_backend_pid()"
        )
    assert store.add([Item("be kind", id="k")]).added == ["k"]
    assert found(store, "be kind") == ["be kind"]


def test_a_commit_whose_end_is_not_known_is_told_so(
    postgres_server: PostgresProcess, postgres_url: str
) -> None:
    connections = ConnectionPool(Address.of(postgres_url))

    def cut_off(db: PgConnection) -> None:
        with psycopg.connect(postgres_server.url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [db.info.backend_pid])
        until(lambda: not _listed(postgres_server, db.info.backend_pid))

    with pytest.raises(StoreUnavailable, match="written whole or not at all; ask what stands"):
        connections.write(cut_off)
    connections.close()


def _listed(server: PostgresProcess, pid: int) -> bool:
    with psycopg.connect(server.url) as db:
        return db.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() is not None


def test_a_primary_that_became_a_standby_is_left_for_the_new_one(
    postgres_server: PostgresProcess, postgres_url: str, server: Opens
) -> None:
    """As after a failover that left the connections open: what they answer now is that nothing can be written."""
    stores = server(postgres_url)
    store = stores.create("norms")[0]
    connections: ConnectionPool = vars(stores.kept)[
        "_connections"
    ]  # private: whose are not to be had otherwise

    def demote(db: PgConnection) -> None:
        db.execute("SET default_transaction_read_only = on")

    connections.read(demote)
    assert store.add([Item("be kind", id="k")]).added == ["k"]


# -- several servers


def test_what_one_writes_is_in_the_next_search_of_the_other(postgres_url: str, server: Opens) -> None:
    here, there = server(postgres_url), server(postgres_url)
    mine = here.create("norms")[0]
    other = there.get("norms")
    for i in range(20):
        mine.add([Item(f"word{i} of honour", id="w", scope=f"town {i}", mandatory=True)])
        assert found(other, f"word{i}", 1) == [f"word{i} of honour"]
        assert other.scopes()[-1:] and f"town {i}" in other.scopes()
        assert [v.version for v in other.mandatory(Filter())] == [i + 1]
    mine.delete(["w"])
    assert found(other, "word") == [] and other.mandatory(Filter()) == []


def test_a_store_that_one_makes_or_drops_is_soon_known_to_the_other(postgres_url: str, server: Opens) -> None:
    here, there = server(postgres_url), server(postgres_url)
    assert there.names() == []
    here.create("norms")[0].add([Item("be kind")])
    here.below("acme").create("norms")
    until(lambda: there.has("norms") and there.below("acme").has("norms"))
    old = there.get("norms")
    assert found(old, "kind") == ["be kind"]
    here.drop("norms")
    with pytest.raises(UnknownStore, match="the store 'norms' has been deleted"):
        found(old, "kind")
    until(lambda: not there.has("norms"))
    assert there.tenants() == ["acme"] and not old.stands


def test_what_one_erases_the_other_remembers_no_more(postgres_url: str, server: Opens) -> None:
    here = server(postgres_url)
    mine = here.create("norms")[0]
    mine.add([Item("Ada lives here", id="ada", scope="Ada's", tags=("ada",))])
    asked = word_embedder()
    there = Stores(postgres_url, asked)
    assert found(there.get("norms"), "Ada lives here") == ["Ada lives here"]
    assert mine.erase(["ada"], "key 7") == {"ada": 1}
    assert there.get("norms").scopes() == [] and there.get("norms").history("ada") == []
    until(lambda: not vars(asked)["_recent"])  # private, as what is remembered changes no answer
    there.close()
    asked.close()


def test_two_that_start_at_once_make_the_tables_once(postgres_url: str, embedder: Embedder) -> None:
    begin = threading.Barrier(4)

    def start(_: int) -> list[str]:
        stores = Stores(postgres_url, embedder)
        begin.wait(HANG)
        stores.create("norms")[0].add([Item("be kind", id="k")])
        try:
            return [item.id for item in stores.get("norms")]
        finally:
            stores.close()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(start, range(4))) == [["k"]] * 4


# -- what it has to be


def test_a_change_of_the_layout_is_whole_or_not_there(
    postgres_url: str, server: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    server(postgres_url).create("norms")
    dies = [True]

    def migrate(db: psycopg.Connection[object]) -> None:
        db.execute("CREATE TABLE more (n integer)")
        if dies.pop():
            raise KeyboardInterrupt

    monkeypatch.setattr(layout, "LAYOUT", 2)
    monkeypatch.setattr(layout, "_MIGRATIONS", [migrate])
    with pytest.raises(KeyboardInterrupt):
        server(postgres_url).names()
    dies.append(False)
    assert server(postgres_url).names() == ["norms"]
    assert dies == []
    monkeypatch.undo()
    with pytest.raises(StoreError, match="has layout 2; this heedful reads up to 1"):
        server(postgres_url).names()


def test_what_is_too_old_or_missing_is_named(
    postgres_server: PostgresProcess, postgres_url: str, server: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_LEAST_SERVER", 99)
    with pytest.raises(StoreError, match="is PostgreSQL 18; stores need 99 or later"):
        server(postgres_url).names()
    monkeypatch.undo()
    server(postgres_url).names()
    monkeypatch.setattr(layout, "_LEAST_VECTOR", (99, 0))
    with pytest.raises(StoreError, match=r"pgvector 0\.\d+\.\d+, too old .*99\.0 or later.*ALTER EXTENSION"):
        server(postgres_url).names()
    with psycopg.connect(postgres_server.url, autocommit=True) as db:
        db.execute("DROP DATABASE IF EXISTS bare")
        db.execute("CREATE DATABASE bare")
        db.execute("DROP ROLE IF EXISTS guest")
        db.execute("CREATE ROLE guest LOGIN")
    bare = f"postgresql://guest@/bare?host={postgres_server.host}"
    with pytest.raises(StoreError, match="lacks the extension pgvector.*CREATE EXTENSION vector"):
        server(bare).names()
    with pytest.raises(StoreUnavailable, match='database "none" does not exist'):
        server(f"postgresql://postgres@/none?host={postgres_server.host}").names()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:secret@h/d?schema=No-Name", "the schema has lower-case letters"),
        ("postgresql://u:secret@h/d?nonsense=1", 'invalid URI query parameter: "nonsense"'),
        ("postgresql://u:secret@[h/d", "no address of a database"),
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url: str, told: str) -> None:
    with pytest.raises(StoreError, match=told) as raised:
        backend_of(url)
    assert "secret" not in str(raised.value)


def test_a_password_is_in_no_message(postgres_server: PostgresProcess) -> None:
    url = f"postgresql://postgres:secret@/none?host={postgres_server.host}"
    with pytest.raises(StoreUnavailable) as raised:
        backend_of(url).names()
    assert "secret" not in str(raised.value) and "secret" not in repr(raised.value.__cause__)


# -- an index


def test_many_get_an_index_and_every_filter_finds_as_many_as_pass(
    postgres_url: str, server: Opens, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (indexing, store_module):
        monkeypatch.setattr(module, "INDEXED_ROWS", 1000)
    monkeypatch.setattr(store_module, "EXACT_ROWS", 50)
    monkeypatch.setattr(store_module, "_COUNTED", 0)
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((3000, embedder.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = [
        Item(f"rule {i}", id=str(i), scope="s" if i % 100 == 0 else "t", valid_until=None if i % 7 else 1.0)
        for i in range(3000)
    ]
    by_text = {item.text: vector for item, vector in zip(items, vectors, strict=True)}
    store = server(postgres_url).create("large")[0]
    store.add(items[:500], by_text)
    assert store.describe()["index"] == "flat"
    store.add(items[500:2500], by_text)
    store.settle()
    assert store.describe()["index"] == "hnsw"
    store.add(items[2500:], by_text)  # into the index
    store.delete(["0"])
    cases = {
        Filter(): range(1, 3000),
        Filter(scopes=frozenset({"s"})): range(100, 3000, 100),  # fewer than are looked at one by one
        Filter(scopes=frozenset({"t"}), at=2.0): [i for i in range(3000) if i % 100 and i % 7],
    }
    for filter, allowed in cases.items():
        hit = 0
        for query in rng.standard_normal((20, embedder.dimension)).astype(np.float32):
            query /= np.linalg.norm(query)
            exact = sorted(allowed, key=lambda i: -float(vectors[i] @ query))[:10]
            hits = [int(each.item.id) for each in store.search(query, 10, filter)]
            assert set(hits) <= set(allowed) and len(hits) == 10
            hit += len(set(hits) & set(exact))
        assert hit >= 190
    # Few pass, which no count of a single scope, kind or tag tells; and all of them are asked for.
    assert len(store.search(vectors[1], 3000, Filter(scopes=frozenset({"t"}), at=2.0))) == 2546
    assert len(store.search(vectors[1], 5000, Filter())) == 2999


def test_an_index_that_was_cut_off_is_made_anew(
    postgres_server: PostgresProcess, postgres_url: str, server: Opens
) -> None:
    store = server(postgres_url).create("norms")[0]
    store.add([Item(f"rule {i}") for i in range(50)])
    connections = ConnectionPool(Address.of(postgres_url))
    tables = layout.Tables(vars(store)["_tables"].store)
    connections.read(lambda db: indexing.make(db, tables, 1, 64, beside=True))
    connections.read(
        lambda db: db.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass",
            [tables.index(1).as_string(db)],
        )
    )
    assert store.describe()["index"] == "flat" and len(found(store, "rule", 100)) == 50
    connections.read(lambda db: indexing.make(db, tables, 1, 64, beside=True))
    assert store.describe()["index"] == "hnsw" and len(found(store, "rule", 100)) == 50
    connections.close()
