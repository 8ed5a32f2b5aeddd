"""What filters need of every standing row, in memory: a filter becomes the set of rows that it lets through."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

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

    def add(self, facts: Iterable[Facts]) -> None:
        for f in facts:
            self._reserve(f.row + 1)
            self._alive[f.row] = True
            self._kind[f.row] = KINDS.index(f.kind)
            self._scope[f.row] = self._scopes.setdefault(f.scope, len(self._scopes))
            for tag in f.tags:
                self._tags.setdefault(tag, array("q")).append(f.row)
            if f.valid_from is not None or f.valid_until is not None:
                start = -np.inf if f.valid_from is None else f.valid_from
                self._bounds[f.row] = (start, np.inf if f.valid_until is None else f.valid_until)
            if f.mandatory:
                self._mandatory.add(f.row)
            self.size = max(self.size, f.row + 1)
            self.count += 1
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
