"""All stores of one folder, with one embedder, for callers on an event loop."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import ParamSpec, TypeVar

from heedful.retrieval.database import Database
from heedful.retrieval.embedder import Embedder
from heedful.retrieval.errors import InvalidItem, UnknownStore
from heedful.retrieval.index import saved
from heedful.retrieval.ingest import STARTERS, import_items, starter
from heedful.retrieval.items import Filter, Hit
from heedful.retrieval.store import Progress, Store

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SUFFIX = ".db"
P = ParamSpec("P")
T = TypeVar("T")


class Stores:
    """Stores by name, each opened when first used. `embedder` is theirs, and whoever's needs one."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self.folder, self.embedder = folder, embedder
        self._open: dict[str, Store] = {}
        self._lock = threading.Lock()
        # Searches spend their time in FAISS and SQLite, which both let other threads run.
        self._threads = ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 2), "retrieval")

    def names(self) -> list[str]:
        return sorted(p.stem for p in self.folder.glob(f"*{_SUFFIX}") if _NAME.fullmatch(p.stem))

    def path(self, name: str) -> Path:
        """Raises InvalidItem for a name that can't be a store's."""
        if not _NAME.fullmatch(name):
            raise InvalidItem(
                "a store's name has lower-case letters, digits, - and _, 64 at most, and begins with no sign",
                "store",
            )
        return self.folder / f"{name}{_SUFFIX}"

    def embedder_of(self, name: str) -> str:
        """The name of the embedder that made a store's vectors. Blocks."""
        with closing(Database(self.path(name))) as database:
            return database.identity().embedder

    def count(self, name: str) -> int:
        """How many items stand in a store, without opening its index. Blocks."""
        with closing(Database(self.path(name))) as database:
            return database.count()

    def require(self, name: str) -> None:
        """Raises UnknownStore, with those that there are."""
        if not self.path(name).is_file():
            raise UnknownStore(f"unknown store {name!r}; known: {', '.join(self.names()) or 'none'}")

    def get(self, name: str, progress: Progress = lambda step, share: None) -> Store:
        """Opens a store or returns the open one. Blocks. Raises StoreError where it can't be opened.

        `progress` is told where it has to be embedded anew.
        """
        with self._lock:
            if name not in self._open or not self._open[name].path.is_file():
                self.require(name)
                self._open[name] = Store(self.path(name), self.embedder, progress)
            return self._open[name]

    def create(self, name: str) -> tuple[Store, bool]:
        """The store of that name, and whether it is new. Blocks."""
        path = self.path(name)
        try:
            Store.create(path, self.embedder).close()
        except FileExistsError:
            return self.get(name), False
        return self.get(name), True

    def open_all(self, progress: Progress) -> None:
        """Opens every store, so that no request waits for it. Blocks."""
        for name in self.names():
            self.get(name, progress)

    def check_all(self, progress: Progress) -> None:
        """Sees that every store can be opened, without loading what embeds. Blocks. Raises StoreError.

        One that an embedder of another name has made is opened, so that no request waits for its new vectors.
        """
        for name in self.names():
            if self.embedder_of(name) != self.embedder.name:
                self.get(name, progress)

    def missing_starters(self) -> list[str]:
        return [name for name in STARTERS if not self.path(name).is_file()]

    def add_starters(self) -> list[str]:
        """Makes the stores that ship with heedful, where they are not there yet. Blocks."""
        made = self.missing_starters()
        for name in made:
            import_items(self.create(name)[0], starter(name))
        return made

    def drop(self, name: str) -> None:
        """Deletes a store, history and all. Blocks."""
        self.require(name)
        with self._lock:
            if store := self._open.pop(name, None):
                store.close()
            path = self.path(name)
            for file in (path, *(path.with_name(path.name + s) for s in ("-wal", "-shm")), *saved(path)):
                file.unlink(missing_ok=True)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a blocking function in one of the threads for it."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: function(*args, **kwargs)
        )

    async def open(self, name: str) -> Store:
        """`get` for an event loop."""
        store = self._open.get(name)
        return store if store is not None else await self.call(self.get, name)

    async def search(self, name: str, text: str, k: int, filter: Filter) -> list[Hit]:
        """The `k` items of a store nearest in meaning to a text, best first. Raises StoreError."""
        store = await self.open(name)
        vectors = await self.embedder.embed([text])
        return await self.call(store.search, vectors[0], k, filter)

    def close(self) -> None:
        """Closes all stores."""
        self._threads.shutdown()
        for store in self._open.values():
            store.close()
        self._open.clear()
