"""All stores of one place, with one embedder, for callers on an event loop; those of tenants below."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.errors import UnknownStore
from heedful.retrieval.ingest import STARTERS, Imported, import_items, pieces, starter
from heedful.retrieval.items import Filter, Hit, Item
from heedful.retrieval.store.any_store import AnyStore, Progress
from heedful.retrieval.store.backend import Backend, backend_of, check_name_of_store
from heedful.retrieval.store.database import Written
from heedful.retrieval.store.expected import Expected
from heedful.retrieval.store.hurry import Behind, in_a_hurry

_LONG_JOBS, _OPENINGS = 2, 4  # threads
_FEW_ITEMS = 1000  # are looked up in milliseconds
P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Those in which the stores' work is done, whoever's they are.

    Searches spend their time in FAISS and SQLite, or wait for PostgreSQL, and let other threads run. What is not
    done in milliseconds has threads of its own; who writes has its store's (`AnyStore.in_turn`).
    """

    def __init__(self) -> None:
        self.quick = ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 2), "retrieval", in_a_hurry)
        self.long = ThreadPoolExecutor(_LONG_JOBS, "retrieval-long")
        self.opening = ThreadPoolExecutor(_OPENINGS, "retrieval-open")

    def close(self) -> None:
        for threads in (self.quick, self.long, self.opening):
            threads.shutdown()


class Stores:
    """Stores by name, each opened when first used. `embedder` is theirs, and whoever's needs one.

    `place`: a folder, a database's address, or a Backend. `folder`: where the server keeps its other files, beside
    stores that are files themselves. `base`: whose place this one is below. No name means a store of another
    place, above, beside or below.
    """

    def __init__(
        self,
        place: Path | str | Backend,
        embedder: Embedder,
        *,
        folder: Path | None = None,
        base: Stores | None = None,
    ) -> None:
        self.kept = backend_of(place) if isinstance(place, Path | str) else place
        self.folder = place if folder is None and isinstance(place, Path) else folder
        self.embedder, self.base = embedder, base
        self._open: dict[str, AnyStore] = {}
        # A name's lock is held while its store is opened, made or deleted; names share them, so that they stay few.
        self._locks = [threading.Lock() for _ in range(64)]
        self._threads: Threads = Threads() if base is None else base._threads
        self._shared: dict[Hashable, Future[Any]] = {}
        self._below: dict[str, Stores] = {}
        self._making = threading.Lock()

    # -- tenants

    def below(self, tenant: str) -> Stores:
        """A tenant's stores: their own place and names; model and threads are these. Raises InvalidItem."""
        if self.base is not None:
            return self.base.below(tenant)
        kept = self.kept.below(tenant)
        with self._making:
            stores = self._below.get(tenant)
            if stores is None:
                apart = self.embedder.apart(tenant)
                stores = self._below[tenant] = Stores(kept, apart, folder=self.folder, base=self)
            return stores

    def tenants(self) -> list[str]:
        """Those who have a place below this one."""
        return self.kept.tenants()

    def left_below(self, tenant: str) -> list[str]:
        """Names of a tenant's stores of which there is anything, whole or not. Blocks. Raises StoreError."""
        return self.kept.below(tenant).left()

    def drop_below(self, tenant: str) -> list[str]:
        """Deletes all stores of a tenant, history and all; returns their names. Blocks. Raises StoreError."""
        stores = self.below(tenant)
        stores.kept.look()
        dropped = stores.names()
        for name in dropped:
            with suppress(UnknownStore):  # by another process in this moment
                stores.drop(name)
        with self._making:
            self._below.pop(tenant, None)
        stores.close()
        self.embedder.forget(tenant)
        stores.kept.clear()
        return dropped

    @property
    def gone(self) -> bool:
        """Whether the place is no longer there, though stores of it are open."""
        return bool(self._open) and self.kept.gone

    def names(self) -> list[str]:
        return self.kept.names()

    def embedder_of(self, name: str) -> str:
        """The name of the embedder that made a store's vectors. Blocks."""
        return self.kept.embedder_of(name)

    def count(self, name: str) -> int:
        """How many items stand in a store, without opening its index. Blocks."""
        return self.kept.count(name)

    def has(self, name: str) -> bool:
        """Raises InvalidItem for a name that can't be a store's."""
        check_name_of_store(name)
        return self.kept.has(name)

    def require(self, name: str) -> None:
        """Raises UnknownStore, with those that there are."""
        if not self.has(name):
            raise UnknownStore(f"unknown store {name!r}; known: {', '.join(self.names()) or 'none'}")

    def get(self, name: str, progress: Progress = lambda step, share: None) -> AnyStore:
        """Opens a store or returns the open one. Blocks. Raises StoreError where it can't be opened.

        `progress` is told where it has to be embedded anew.
        """
        with self._lock(name):
            self.kept.look()
            store = self._open.get(name)
            if store is None or not store.stands:
                self._forget(name)
                self.require(name)
                store = self._open[name] = self.kept.open(name, self.embedder, progress)
            return store

    def create(self, name: str) -> tuple[AnyStore, bool]:
        """The store of that name, and whether it is new. Blocks. Raises InvalidItem."""
        check_name_of_store(name)
        new = self.kept.create(name, self.embedder)
        return self.get(name), new

    def open_all(self, progress: Progress) -> None:
        """Opens every store, so that no request waits for it; those of tenants once they are asked for. Blocks."""
        for name in self.names():
            self.get(name, progress)
        self._check_below(progress)

    def check_all(self, progress: Progress) -> None:
        """Sees that every store can be opened, without loading what embeds. Blocks. Raises StoreError.

        One that an embedder of another name has made is opened, so that no request waits for its new vectors.
        """
        for name in self.names():
            if self.embedder_of(name) != self.embedder.name:
                self.get(name, progress)
        self._check_below(progress)

    def _check_below(self, progress: Progress) -> None:
        for tenant in self.tenants():
            self.below(tenant).check_all(progress)

    def missing_starters(self) -> list[str]:
        return [name for name in STARTERS if not self.has(name)]

    def add_starters(self) -> list[str]:
        """Makes the stores that ship with heedful, where they are not there yet. Blocks."""
        made = self.missing_starters()
        for name in made:
            import_items(self.create(name)[0], starter(name))
        return made

    def drop(self, name: str) -> None:
        """Deletes a store, history and all. Blocks, but not for those who read it or write to it."""
        self.kept.look()
        self.require(name)
        with self._lock(name):
            self._forget(name)
            self.kept.drop(name)

    # -- for an event loop

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a blocking function that takes milliseconds in one of the threads for it.

        A store that has much to take in first does so in a thread for long jobs, and keeps nobody else waiting.
        """
        while True:
            try:
                return await _in(self._threads.quick, function, *args, **kwargs)
            except Behind as behind:
                await self._once(behind.catch_up, self._threads.long, behind.catch_up)

    async def long(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a blocking function that takes longer: it waits for a thread while others do such things."""
        return await _in(self._threads.long, function, *args, **kwargs)

    async def open(self, name: str) -> AnyStore:
        """`get` for an event loop."""
        store = self._open.get(name)
        if store is not None and store.stands:
            return store
        return await self._once(name, self._threads.opening, self.get, name)

    async def make(self, name: str) -> tuple[AnyStore, bool]:
        """`create` for an event loop."""
        return await _in(self._threads.opening, self.create, name)

    async def delete_store(self, name: str) -> None:
        """`drop` for an event loop."""
        await _in(self._threads.opening, self.drop, name)

    async def search(self, name: str, text: str, k: int, filter: Filter) -> list[Hit]:
        """The `k` items of a store nearest in meaning to a text, best first. Raises StoreError."""
        store = await self.open(name)
        vectors = await self.embedder.embed([text])
        return await self.call(store.search, vectors[0], k, filter)

    async def add(self, store: AnyStore, items: Sequence[Item], expected: Expected | None = None) -> Written:
        """`AnyStore.add`, embedding before the store's turn to write comes."""
        look = self.call if len(items) <= _FEW_ITEMS else self.long
        new = await look(store.unembedded, items, {})
        vectors = dict(zip(new, await self.embedder.embed(new), strict=True))
        written = await asyncio.wrap_future(store.in_turn(store.add, items, vectors, expected))
        cut = await self.embedder.truncated(new)
        return replace(written, truncated=list(dict.fromkeys(item.id for item in items if item.text in cut)))

    async def delete(
        self, store: AnyStore, ids: Sequence[str], expected: Expected | None = None
    ) -> list[str]:
        """`AnyStore.delete` when its turn comes."""
        return await asyncio.wrap_future(store.in_turn(store.delete, ids, expected))

    async def erase(self, store: AnyStore, ids: Sequence[str], by: str | None) -> dict[str, int]:
        """`AnyStore.erase` when its turn comes."""
        return await asyncio.wrap_future(store.in_turn(store.erase, ids, by))

    async def add_all(self, store: AnyStore, items: Sequence[Item]) -> Imported:
        """`import_items`: a few items at a time, each of which waits for its turn like anybody's."""
        total = Imported()
        for piece in pieces(items):
            total.count(await self.add(store, piece))
        return total

    def close(self) -> None:
        """Closes all stores, those of tenants too; the threads are let go by whose they are."""
        if self.base is None:
            self._threads.close()
        for stores in self._below.values():
            stores.close()
        for store in self._open.values():
            store.close()
        self._open.clear()
        self.kept.close()

    def _lock(self, name: str) -> threading.Lock:
        return self._locks[hash(name) % len(self._locks)]

    def _forget(self, name: str) -> None:
        if store := self._open.pop(name, None):
            store.close(deleted=True)

    async def _once(
        self,
        key: Hashable,
        threads: ThreadPoolExecutor,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Runs it once for all who wait for the same."""
        shared: Future[T] | None = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = threads.submit(function, *args, **kwargs)
            shared.add_done_callback(lambda _: self._shared.pop(key, None))
        return await asyncio.shield(asyncio.wrap_future(shared))


async def _in(threads: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: function(*args, **kwargs))
