"""The stores that one tenant's answers read: its own, and those that are shared with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.errors import UnknownStore
from heedful.retrieval.items import Filter, Hit, Item
from heedful.retrieval.store import past
from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.backend import check_name_of_store
from heedful.retrieval.store.stores import Stores

SHARED = "shared/"
P = ParamSpec("P")
T = TypeVar("T")


class Found(NamedTuple):
    """An item and the store that it is of, as that was asked for; `score` None: it is mandatory.

    `since`: when it was recorded, in seconds since 1970.
    """

    store: str
    item: Item
    version: int
    score: float | None
    since: float = 0.0


class Readable:
    """Names of stores as answers may use them: `NAME`, or `shared/NAME`.

    `reads`: stores of the folder above that are shared. `shared/NAME` is always such a one. `NAME` is the tenant's
    own, or, where it has none of that name, the shared one. In the folder above both are the same. What is neither
    does not exist: nothing here looks into another tenant's folder. `above`: the names are those of the one whose the
    folder above is, such as in a floor; a store of that folder comes first then, and no tenant's own takes its place.
    """

    def __init__(self, own: Stores, reads: Collection[str] = (), *, above: bool = False) -> None:
        self._own, self._reads, self._above = own, reads, above

    @property
    def embedder(self) -> Embedder:
        return self._own.embedder

    def names(self) -> list[str]:
        base = self._own.base
        shared = () if base is None else [f"{SHARED}{name}" for name in sorted(self._reads) if base.has(name)]
        return [*self._own.names(), *shared]

    def has(self, name: str) -> bool:
        """Raises InvalidItem for a name that can't be a store's."""
        stores, plain = self._place(name)
        return stores is not None and stores.has(plain)

    def require(self, name: str) -> None:
        """Raises UnknownStore, with those that there are."""
        if not self.has(name):
            raise self._unknown(name)

    async def open(self, name: str) -> AnyStore:
        """A store to read. Raises UnknownStore."""
        return (await self._opened(name))[1]

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a blocking function of an open store that takes milliseconds."""
        return await self._own.call(function, *args, **kwargs)

    async def search(self, name: str, text: str, k: int, filter: Filter) -> list[Hit]:
        """The `k` items of a store nearest in meaning to a text, best first. Raises StoreError."""
        found = await self.nearest([name], text, k, filter)
        return [Hit(each.item, each.score or 0.0, each.version, each.since) for each in found]

    async def nearest(
        self,
        names: Sequence[str],
        text: str,
        k: int,
        filter: Filter,
        *,
        bar: Iterable[Found] = (),
        as_of: float | None = None,
    ) -> list[Found]:
        """The `k` items of several stores nearest to a text, best first, in one ranking, without those in `bar`.

        The text is embedded once, the stores are searched at once. A store that is named twice is searched once.
        `as_of`: among what stood at this time. Raises StoreError, InvalidItem where too much has changed since.
        """
        opened = await self._all_opened(names)
        vector = (await self.embedder.embed([text]))[0]
        barred = {(found.store, found.item.id) for found in bar}
        # More than k, so that barred ones among them take nobody's place.
        more = k + len(barred)
        looked = await _at_once(
            *(
                stores.call(store.search, vector, more, filter)
                if as_of is None
                else stores.long(past.search, store, vector, more, filter, as_of)
                for stores, store in opened.values()
            )
        )
        found = [
            Found(name, hit.item, hit.version, hit.score, hit.since)
            for name, hits in zip(opened, looked, strict=True)
            for hit in hits
            if (name, hit.item.id) not in barred
        ]
        return sorted(found, key=lambda each: -(each.score or 0.0))[:k]

    async def mandatory(
        self, names: Sequence[str], filter: Filter, *, as_of: float | None = None
    ) -> list[Found]:
        """The mandatory items of each store that pass, in the order written; those that stood at a time."""
        opened = await self._all_opened(names)
        looked = await _at_once(
            *(
                stores.call(store.mandatory, filter)
                if as_of is None
                else stores.long(past.mandatory, store, filter, as_of)
                for stores, store in opened.values()
            )
        )
        return [
            Found(name, each.item, each.version, None, each.began)
            for name, versions in zip(opened, looked, strict=True)
            for each in versions
        ]

    async def scopes(self, names: Sequence[str]) -> list[str]:
        """Scopes in use in these stores, or used once."""
        opened = await self._all_opened(names)
        looked = await _at_once(*(stores.call(store.scopes) for stores, store in opened.values()))
        return list(dict.fromkeys(scope for scopes in looked for scope in scopes))

    async def _all_opened(self, names: Sequence[str]) -> dict[str, tuple[Stores, AnyStore]]:
        """Each store once, under the first of its names."""
        opened = [await self._opened(name) for name in names]  # which nearly always are
        once: dict[int, tuple[str, tuple[Stores, AnyStore]]] = {}
        for name, place in zip(names, opened, strict=True):
            once.setdefault(id(place[1]), (name, place))
        return dict(once.values())

    async def _opened(self, name: str) -> tuple[Stores, AnyStore]:
        stores, plain = self._place(name)
        if stores is not None:
            try:
                return stores, await stores.open(plain)
            except UnknownStore:
                pass  # whose message may name what is above
        raise self._unknown(name)

    def _place(self, name: str) -> tuple[Stores | None, str]:
        """Whose store a name means, and its name there; None: nobody's that may be read here."""
        own, base = self._own, self._own.base
        plain = name.removeprefix(SHARED)
        check_name_of_store(
            plain
        )  # raises for what can't be a name, before anybody's names are compared with it
        if base is None:
            return own, plain
        if self._above:
            return (base if plain != name or base.has(plain) else own), plain
        if plain != name:
            return (base if plain in self._reads else None), plain
        if plain in self._reads and not own.has(plain):
            return base, plain
        return own, plain

    def _unknown(self, name: str) -> UnknownStore:
        return UnknownStore(f"unknown store {name!r}; known: {', '.join(self.names()) or 'none'}")


async def _at_once(*calls: Awaitable[T]) -> list[T]:
    """One alone is waited for as it is: a task for it would take longer than the call of it."""
    return [await calls[0]] if len(calls) == 1 else list(await asyncio.gather(*calls))
