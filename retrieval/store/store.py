"""A store in a file: the database, and what is derived from it in memory to find things fast."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from heedful.retrieval.embedding.embedder import Embedder, Vectors
from heedful.retrieval.errors import EmbedderChanged, StoreError
from heedful.retrieval.items import ALL, Filter, Hit, Item, Version
from heedful.retrieval.store import adding, erasing, narrow, past, wholes
from heedful.retrieval.store.any_store import AnyStore, Kept, Progress
from heedful.retrieval.store.catalogue import Catalogue, Rows
from heedful.retrieval.store.database import Database, Identity, News, Written, clock
from heedful.retrieval.store.erasing import Erasure
from heedful.retrieval.store.expected import Expected
from heedful.retrieval.store.hurry import Behind, hurry
from heedful.retrieval.store.index import FLAT_ROWS, Index
from heedful.retrieval.store.narrow import Narrow
from heedful.retrieval.store.paging import Cursor
from heedful.retrieval.store.reembedding import reembed
from heedful.retrieval.store.sharing import Sharing

P = ParamSpec("P")
T = TypeVar("T")
_CHUNK = 20_000
_FACETS = 1000  # scopes, and tags, that a description names
_FEW_ROWS = 1000  # are read while searches wait
_UNSAVED_ROWS = 20_000  # taken in again at the next start in a second or two
_SOON = 2000  # rows written elsewhere that a hurried thread takes in by itself, in a few milliseconds
_SOON_SECONDS = 0.05  # for which it waits for another that takes them in


class Store(AnyStore):
    """AnyStore, in a file of its own.

    A search first takes in what anybody has written since the last one, in this process or another. Building the
    index anew happens in a thread beside the old one, which goes on answering.
    """

    def __init__(self, path: Path, embedder: Embedder, progress: Progress = lambda step, share: None) -> None:
        """Opens a store; if another embedder made its vectors, embeds it anew first, telling `progress`.

        Raises a StoreError where it can't be opened.
        """
        self.path, self.embedder = path, embedder
        self._database = Database(path)
        erasing.scrub(self._database)  # what was cut off; else that is done at the next time
        if not self._database.identity().made_by(embedder.probe):
            reembed(self._database, embedder.name, embedder.probe, embedder.embed_now, progress)
        self._identity: Identity = self._database.identity()
        self._catalogue, self._narrow, self._sharing = Catalogue(), Narrow(), Sharing()
        self._seen = Cursor()  # up to where catalogue and index have what was written
        self._refreshing = threading.Lock()
        self._building: threading.Thread | None = None
        self._closing = False
        self._writer = ThreadPoolExecutor(1, f"write-{path.stem}")
        dimension, last_row = embedder.dimension, self._database.cursor().row
        self._erasure = erasing.last(self._database)  # up to which the index has none of what was erased
        self._index = Index.load(path, self._stamp, dimension, last_row) or Index.flat(dimension)
        self.catch_up()

    @classmethod
    def create(cls, path: Path, embedder: Embedder) -> Store:
        """Raises FileExistsError where there is one."""
        Database.create(path, embedder.name, embedder.probe).close()
        return cls(path, embedder)

    @property
    def name(self) -> str:
        return self.path.stem

    # -- reading

    def search(self, query: Vectors, k: int, filter: Filter) -> list[Hit]:
        """The `k` items nearest to a unit vector, shape (d,), best first."""
        self._refresh()
        with self._sharing.reading():
            filter = self._catalogue.known(filter)
            passing = self._catalogue.passing(filter)
            own = self._narrow.get(filter.timeless)
            rows, scores = (self._index if own is None else own).search(query, k, passing)
            few = len(self._index) > FLAT_ROWS and passing.count <= narrow.ROWS
        if own is None and few and self._narrow.wanted(filter.timeless):
            self._narrow_down(filter.timeless)
        found = self._database.versions(
            [int(r) for r in rows]
        )  # what has been erased in this moment is not there
        there = [(found[int(r)], float(s)) for r, s in zip(rows, scores, strict=True) if int(r) in found]
        return [Hit(v.item, score, v.version, v.began) for v, score in there]

    def mandatory(self, filter: Filter) -> list[Version]:
        self._refresh()
        with self._sharing.reading():
            rows = self._catalogue.mandatory(self._catalogue.known(filter))
        found = self._database.versions(rows)
        return [found[row] for row in rows if row in found]

    def scopes(self) -> list[str]:
        self._refresh()
        with self._sharing.reading():
            return self._catalogue.scopes()

    def standing(self, ids: Sequence[str]) -> dict[str, Version]:
        return self._database.standing(ids)

    def vectors(self, ids: Sequence[str]) -> Vectors:
        return self._database.vectors_of(ids)

    def history(self, id: str) -> list[Version]:
        return self._database.history(id)

    def erasures(self, id: str | None = None) -> list[Erasure]:
        return erasing.erasures(self._database, id)

    def page(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        as_of: float | None = None,
        within: Cursor | None = None,
        filter: Filter = ALL,
    ) -> list[tuple[int, Version]]:
        return self._database.page(after, limit, as_of=as_of, within=within, filter=filter)

    def stood(self, at: float) -> past.Then:
        return past.then(self._database, at)

    def cursor(self) -> Cursor:
        return self._database.cursor()

    def whole(self) -> AbstractContextManager[Iterator[Kept]]:
        return wholes.whole(self._database)

    def __len__(self) -> int:
        return self._database.count()

    def describe(self) -> dict[str, object]:
        self._refresh()
        with self._sharing.reading():
            facets = self._catalogue.facets(_FACETS)
        return {
            "name": self.name,
            "items": self._catalogue.count,
            "embedder": self._identity.embedder,
            "dimension": int(self._identity.probe.shape[1]),
            "index": self._index.kind,
            **facets,
        }

    # -- writing

    def add(
        self,
        items: Sequence[Item],
        vectors: Mapping[str, Vectors] | None = None,
        expected: Expected | None = None,
    ) -> Written:
        """Adds or replaces (same id) items, all in one transaction; on the disk when it returns.

        `vectors`: those of texts that this store's embedder has embedded already, shape (d,). Raises InvalidItem
        for two different items of one id, EmbedderChanged where the store was embedded anew, VersionConflict where
        an item's version is not the one that is `expected` to stand.
        """
        written = adding.add(
            self._database, self.embedder, self._identity.generation, items, vectors or {}, expected
        )
        self._refresh()
        return written

    def unembedded(self, items: Sequence[Item], known: Mapping[str, Vectors]) -> list[str]:
        return adding.unembedded(self._database, items, known)

    def delete(self, ids: Sequence[str], expected: Expected | None = None) -> list[str]:
        """Ends items; returns the ids that stood. On the disk when it returns; their history stays.

        Raises VersionConflict where an item's version is not the one that is `expected` to stand.
        """
        gone = self._database.delete(ids, expected)
        self._refresh()
        return gone

    def erase(self, ids: Sequence[str], by: str | None = None) -> dict[str, int]:
        """Removes every version of items from all files of the store; returns how many each had, by id.

        What stays is an Erasure each. `by`: who asked for it.
        """
        erased = erasing.erase(self._database, ids, by, clock())
        if not erasing.scrub(self._database):
            raise StoreError(f"{self.path.name}: {erasing.STILL_READ}")
        self.catch_up()
        return erased

    def take(self, versions: Iterator[Kept], erasures: Sequence[Erasure]) -> int:
        taken = wholes.take(self._database, versions, erasures)
        self.catch_up()
        return taken

    def in_turn(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs a function that writes in this store's own thread for that, after those given to it before.

        So no writer waits long for a lock that others take again and again, nor keeps a thread from other stores.
        """
        self._database.raise_if_closed()
        return self._writer.submit(function, *args, **kwargs)

    def settle(self) -> None:
        if (building := self._building) is not None:
            building.join()

    @property
    def stands(self) -> bool:
        """Whether it is open, and its file still the one of its name."""
        return self._database.stands

    def close(self, *, deleted: bool = False) -> None:
        """Keeps a large index for the next start and lets go of the file; `deleted`: keeps nothing.

        Waits for nobody who reads or writes: they finish what they do, and raise StoreError (UnknownStore where it is
        deleted) at their next step. A build that is under way is given up.
        """
        if deleted:  # first, so that nobody who sees that it is closing takes it for merely closed
            self._database.close(deleted=True)
        self._closing = True
        self._writer.shutdown(wait=False)
        if deleted:
            return
        with self._refreshing:
            unsaved = self._index.row - self._index.saved_row > _UNSAVED_ROWS
            if self._index.kind != "flat" and unsaved and self._building is None:
                self._index.save(self.path, self._stamp, partial(erasing.stamp, self._database))
            self._database.close()

    # -- what is derived

    def catch_up(self) -> None:
        """Takes in what has been written since the last time, however long it takes."""
        hurried, hurry.on = hurry.on, False
        try:
            self._refresh()
        finally:
            hurry.on = hurried

    def _refresh(self) -> None:
        with self._one_refreshing():
            now = self._database.cursor()
            if now == self._seen:
                return
            if self._database.identity().generation != self._identity.generation:
                raise EmbedderChanged(f"{self.path.name}: the store has been embedded anew; open it again")
            if hurry.on and now.row - self._seen.row > _SOON:
                raise Behind(self.path.name, self.catch_up)
            self._take_in()
            if self._building is None and self._index.outgrown(self._catalogue.count):
                self._building = threading.Thread(target=self._build, name="index", daemon=True)
                self._building.start()

    @contextmanager
    def _one_refreshing(self) -> Iterator[None]:
        if not self._refreshing.acquire(timeout=_SOON_SECONDS if hurry.on else -1):
            raise Behind(self.path.name, self.catch_up)
        try:
            yield
        finally:
            self._refreshing.release()

    def _take_in(self) -> None:
        """In pieces, so that searches run in between; vectors first: no filter passes them before their facts."""
        while True:
            self._raise_if_closing()
            news = self._database.news(self._seen, _CHUNK)
            for rows, vectors in self._database.vectors(self._index.row, news.upto.row, _CHUNK):
                with self._sharing.writing():
                    self._index.add(rows, vectors)
                    self._index.row = int(rows[-1])  # what fails after this is not added again
            done = news.upto.row < self._seen.row + _CHUNK
            with self._sharing.writing():
                self._catalogue.end(news.ended)
                if news.erased:
                    self._forget(news)
                since = self._catalogue.size
                self._catalogue.add(news.facts)
                self._take_into_narrow(since)
            self._index.row = max(self._index.row, news.upto.row)
            self._seen = news.upto
            if done:
                return

    def _forget(self, news: News) -> None:
        rows = [row for seq, row in news.erased if seq > self._erasure]
        if not rows:  # it was erased before anything of it has been here
            return
        self._erasure = max(seq for seq, _ in news.erased)
        self._catalogue.end(rows)
        self._catalogue.forget(rows)
        self._index.remove(rows)
        self._narrow.clear()
        self.embedder.forget()

    @property
    def _stamp(self) -> str:
        return erasing.stamped(self._identity.generation, self._erasure)

    def _take_into_narrow(self, since: int) -> None:
        for filter, index in self._narrow:
            new = self._catalogue.rows(filter, since)
            if len(index) + len(new) > narrow.ROWS or len(new) > _FEW_ROWS:
                self._narrow.drop(filter)  # made anew where it is asked for again, if it is narrow still
            else:
                self._gather(index, new)

    def _narrow_down(self, filter: Filter) -> None:
        """Makes a filter's own index while others go on."""
        with self._sharing.reading():
            there, since = self._catalogue.rows(filter, 0), self._catalogue.size
        index = Index.flat_in_half_precision(self.embedder.dimension)
        self._gather(index, there)
        with self._sharing.writing():
            self._gather(index, self._catalogue.rows(filter, since))
            self._narrow.put(filter, index)

    def _gather(self, index: Index, rows: Rows) -> None:
        for standing, vectors in self._database.vectors_at(rows):
            index.add(standing, vectors)

    def _build(self) -> None:
        """Builds the index anew until it fits what is there by then."""
        try:
            while self._index.outgrown(self._catalogue.count):
                self._rebuild()
        except StoreError:
            if not self._closing:
                raise
        finally:
            with self._refreshing:
                self._building = None

    def _rebuild(self) -> None:
        """Builds an index beside the old one, catches up with what was written meanwhile, and swaps it in."""
        upto, count, stamp = self._seen.row, self._catalogue.count, self._stamp
        index = Index.build(self.embedder.dimension, count, lambda: self._vectors(upto))
        index.row = upto
        if count > FLAT_ROWS and not self._closing:
            index.save(self.path, stamp, partial(erasing.stamp, self._database))
        while self._index.row - index.row > _CHUNK:  # most of it while others go on
            self._catch_up(index)
        with self._refreshing:
            self._catch_up(index)
            if self._stamp != stamp:  # it may have been built over what was erased meanwhile
                index.remove(erasing.rows_erased(self._database))
            with self._sharing.writing():
                self._index = index

    def _vectors(self, upto: int) -> Iterator[tuple[Rows, Vectors]]:
        for piece in self._database.vectors(0, upto, _CHUNK):
            self._raise_if_closing()
            yield piece

    def _raise_if_closing(self) -> None:
        if self._closing:
            self._database.raise_if_closed()
            raise StoreError(f"{self.path.name}: the store is closed")

    def _catch_up(self, index: Index) -> None:
        for rows, vectors in self._database.vectors(index.row, upto := self._index.row, _CHUNK):
            index.add(rows, vectors)
        index.row = upto
