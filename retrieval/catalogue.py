"""What filters need of every standing row, in memory: a filter becomes the set of rows that it lets through."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from heedful.retrieval.database import Facts
from heedful.retrieval.items import KINDS, Filter

Mask = NDArray[np.bool_]
_KEPT_MASKS = 64


class Catalogue:
    """Columns indexed by row number. Not safe for concurrent changes; reading concurrently is."""

    def __init__(self) -> None:
        self._alive: Mask = np.zeros(1024, bool)
        self._kind = np.zeros(1024, np.int8)
        self._scope = np.zeros(1024, np.int32)
        self._scopes: dict[str, int] = {"": 0}
        self._tags: dict[str, array[int]] = {}
        self._bounds: dict[int, tuple[float, float]] = {}
        self._mandatory: set[int] = set()
        self._masks: OrderedDict[Filter, Mask] = OrderedDict()
        self.size = 0
        """One past the last row."""
        self.count = 0
        """Rows that stand."""

    def add(self, facts: Sequence[Facts]) -> None:
        """Takes in standing rows."""
        if not facts:
            return
        rows = np.fromiter((f[0] for f in facts), np.int64, len(facts))
        self._reserve(int(rows.max()) + 1)
        self._alive[rows] = True
        self._kind[rows] = [KINDS.index(f[1]) for f in facts]
        self._scope[rows] = [self._scopes.setdefault(f[2], len(self._scopes)) for f in facts]
        for row, _, _, tags, mandatory, valid_from, valid_until in facts:
            if tags != "[]":
                for tag in msgspec.json.decode(tags):
                    self._tags.setdefault(tag, array("q")).append(row)
            if valid_from is not None or valid_until is not None:
                start = -np.inf if valid_from is None else valid_from
                self._bounds[row] = (start, np.inf if valid_until is None else valid_until)
            if mandatory:
                self._mandatory.add(row)
        self.size = max(self.size, int(rows.max()) + 1)
        self.count += len(facts)
        self._masks.clear()

    def end(self, rows: Iterable[int]) -> None:
        for row in rows:
            if row < self.size and self._alive[row]:
                self._alive[row] = False
                self._bounds.pop(row, None)
                self._mandatory.discard(row)
                self.count -= 1
        self._masks.clear()

    def scopes(self) -> list[str]:
        """Every scope that has been used, but the one that is everywhere."""
        return [s for s in self._scopes if s]

    def mask(self, filter: Filter) -> Mask:
        """Which rows stand and pass, shape (size,)."""
        timeless = replace(filter, at=None)
        mask = self._masks.get(timeless)
        if mask is None:
            mask = self._masks[timeless] = self._mask(timeless)
            while len(self._masks) > _KEPT_MASKS:
                self._masks.popitem(last=False)
        if filter.at is not None:
            late = [row for row, (start, end) in self._bounds.items() if not start <= filter.at < end]
            if late:
                mask = mask.copy()
                mask[late] = False
        return mask

    def mandatory(self, filter: Filter) -> list[int]:
        """Standing rows that are mandatory and pass, in the order written."""
        if not self._mandatory:
            return []
        mask = self.mask(filter)
        return sorted(row for row in self._mandatory if mask[row])

    def _mask(self, filter: Filter) -> Mask:
        mask = self._alive[: self.size].copy()
        if filter.kind is not None:
            mask &= self._kind[: self.size] == KINDS.index(filter.kind)
        if filter.scopes is not None:
            codes = [0, *(self._scopes[s] for s in filter.scopes if s in self._scopes)]
            scope = self._scope[: self.size]
            passing = scope == 0
            for code in codes[1:]:
                passing |= scope == code
            mask &= passing
        if filter.tags:
            tagged = np.zeros(self.size, bool)
            for tag in filter.tags:
                if tag in self._tags:
                    tagged[np.array(self._tags[tag], np.int64)] = True
            mask &= tagged
        return mask

    def _reserve(self, size: int) -> None:
        if size > len(self._alive):
            more = max(size, 2 * len(self._alive)) - len(self._alive)
            self._alive = np.concatenate([self._alive, np.zeros(more, bool)])
            self._kind = np.concatenate([self._kind, np.zeros(more, np.int8)])
            self._scope = np.concatenate([self._scope, np.zeros(more, np.int32)])
