"""What a store promises, wherever it is kept: in a file (`store.Store`) or in PostgreSQL (`postgres.store`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from heedful.retrieval.embedding.embedder import Embedder, Vectors
from heedful.retrieval.items import ALL, Filter, Hit, Item, Version
from heedful.retrieval.store.database import Written
from heedful.retrieval.store.erasing import Erasure
from heedful.retrieval.store.expected import Expected
from heedful.retrieval.store.paging import Cursor
from heedful.retrieval.store.past import Then

P = ParamSpec("P")
T = TypeVar("T")
_PIECE = 1000  # items that are read at once
Progress = Callable[[str, float], None]
"""Told the step under way and the share of the whole that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A version with its vector, shape (d,), which it has while it stands."""

    version: Version
    vector: Vectors | None


class AnyStore(Protocol):
    """Methods block, are safe to call from many threads, and raise a StoreError where they can't do what they say.

    What is written is durable when the method returns, and is in the next answer of everybody who has the store
    open, in this process or another: `tests/test_store.py` is what each has to pass.
    """

    embedder: Embedder

    @property
    def name(self) -> str: ...

    @property
    def stands(self) -> bool:
        """Whether it is open, and still the store of its name. Never waits."""
        ...

    # -- reading

    def search(self, query: Vectors, k: int, filter: Filter) -> list[Hit]:
        """The `k` items nearest to a unit vector, shape (d,), best first: as many as pass, if they are fewer."""
        ...

    def mandatory(self, filter: Filter) -> list[Version]:
        """The mandatory items that pass, in the order written."""
        ...

    def scopes(self) -> list[str]:
        """Scopes in use, or used once."""
        ...

    def get(self, id: str) -> Item | None:
        return found.item if (found := self.standing([id]).get(id)) else None

    def standing(self, ids: Sequence[str]) -> dict[str, Version]:
        """The standing versions of those of these items that have one, by id."""
        ...

    def vectors(self, ids: Sequence[str]) -> Vectors:
        """Vectors of standing items, shape (n, d), in the order of ids; zeros for one that stands no more."""
        ...

    def history(self, id: str) -> list[Version]:
        """All versions of an item, the oldest first; empty where there never was one."""
        ...

    def erasures(self, id: str | None = None) -> list[Erasure]:
        """What is kept of erased items, or of one, the oldest first."""
        ...

    def page(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        as_of: float | None = None,
        within: Cursor | None = None,
        filter: Filter = ALL,
    ) -> list[tuple[int, Version]]:
        """Up to `limit` versions past row `after` with their rows: those that stand, stood at a time, or `within`."""
        ...

    def stood(self, at: float) -> Then:
        """Where what stood at a time is found. Raises InvalidItem."""
        ...

    def cursor(self) -> Cursor:
        """Now, for `page`: whatever is written meanwhile, its pages within this together are what stands now."""
        ...

    def whole(self) -> AbstractContextManager[Iterator[Kept]]:
        """Every version as of now, ended ones too, in the order written."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """All items that stand now, in the order written."""
        after, now = 0, self.cursor()
        while page := self.page(after, _PIECE, within=now):
            yield from (version.item for _, version in page)
            after = page[-1][0]

    def __len__(self) -> int: ...

    def describe(self) -> dict[str, object]:
        """Name, number of items, what they are by kind, scopes and tags, embedder and kind of index."""
        ...

    # -- writing

    def add(
        self,
        items: Sequence[Item],
        vectors: Mapping[str, Vectors] | None = None,
        expected: Expected | None = None,
    ) -> Written:
        """Adds or replaces (same id) items, all in one transaction.

        `vectors`: those of texts that this store's embedder has embedded already, shape (d,). Raises InvalidItem
        for two different items of one id, EmbedderChanged where the store was embedded anew, VersionConflict where
        an item's version is not the one that is `expected` to stand.
        """
        ...

    def unembedded(self, items: Sequence[Item], known: Mapping[str, Vectors]) -> list[str]:
        """The texts that `add` would have to embed. Raises InvalidItem for items that it would refuse."""
        ...

    def delete(self, ids: Sequence[str], expected: Expected | None = None) -> list[str]:
        """Ends items; returns the ids that stood; their history stays. Raises VersionConflict."""
        ...

    def erase(self, ids: Sequence[str], by: str | None = None) -> dict[str, int]:
        """Removes every version of items; returns how many each had, by id. What stays is an Erasure each."""
        ...

    def take(self, versions: Iterator[Kept], erasures: Sequence[Erasure]) -> int:
        """Fills an empty store with another's whole, all or nothing; returns how many versions. Raises StoreError."""
        ...

    def in_turn(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs a function that writes in this store's own thread for that, after those given to it before."""
        ...

    def settle(self) -> None:
        """Waits until no index is being built."""
        ...

    def close(self, *, deleted: bool = False) -> None:
        """Waits for nobody who reads or writes: they raise StoreError (UnknownStore where it is deleted) next."""
        ...
