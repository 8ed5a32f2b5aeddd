"""Exact search under the filters in use that let few rows through, such as a tenant's: each has its own flat index.

Inverted lists have the rows of such a filter thinly spread over all of them, so that finding its nearest takes
longer the fewer pass; side by side they are gone through in a fraction of a millisecond.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from heedful.retrieval.items import Filter
from heedful.retrieval.store.index import Index

# Of a million, up to some 80,000 are gone through sooner than the lists are; but they have to be gathered first.
ROWS = 20_000
_TOTAL_ROWS, _LEAST_ROWS = (
    200_000,
    200,
)  # an index of fewer counts as so many, so that there are at most 1,000
_REMEMBERED = 256


class Narrow:
    """The indexes, by timeless filter; those used longest ago go first. Safe to use from many threads."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[Filter, Index] = OrderedDict()
        self._asked: OrderedDict[Filter, None] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, filter: Filter) -> Index | None:
        with self._lock:
            if filter in self._indexes:
                self._indexes.move_to_end(filter)
            return self._indexes.get(filter)

    def wanted(self, filter: Filter) -> bool:
        """Whether to make an index: where there is none, every second time that a filter is asked about."""
        with self._lock:
            if filter in self._indexes:
                return False
            if filter in self._asked:
                del self._asked[filter]
                return True
            self._asked[filter] = None
            while len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
            return False

    def put(self, filter: Filter, index: Index) -> None:
        with self._lock:
            self._indexes[filter] = index
            while sum(max(len(i), _LEAST_ROWS) for i in self._indexes.values()) > _TOTAL_ROWS:
                self._indexes.popitem(last=False)

    def drop(self, filter: Filter) -> None:
        with self._lock:
            self._indexes.pop(filter, None)

    def clear(self) -> None:
        with self._lock:
            self._indexes.clear()
            self._asked.clear()

    def __iter__(self) -> Iterator[tuple[Filter, Index]]:
        with self._lock:
            return iter(list(self._indexes.items()))
