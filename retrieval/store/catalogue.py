"""What filters need of every standing row, in memory: a filter becomes the set of rows that it lets through."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from heedful.retrieval.items import KINDS, Filter
from heedful.retrieval.store.database import StoreFacts

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
_KEPT = 64  # masks
_NO_TAG = frozenset({""})  # no item has it


@dataclass(frozen=True, slots=True)
class Passing:
    """The rows that stand and pass a filter: `mask`, shape (rows,), how many they are, and the mask as bits."""

    mask: Mask
    count: int
    bits: NDArray[np.uint8]
    ends: int
    """How many ends of rows it knows of."""

    @classmethod
    def of(cls, mask: Mask, ends: int = 0) -> Passing:
        return cls(mask, int(np.count_nonzero(mask)), np.packbits(mask, bitorder="little"), ends)


class Catalogue:
    """Columns indexed by row number. Not safe for concurrent changes; reading concurrently is."""

    def __init__(self) -> None:
        self._alive: Mask = np.zeros(1024, bool)
        self._kind = np.zeros(1024, np.int8)
        self._scope = np.zeros(1024, np.int32)
        self._scopes: dict[str, int] = {"": 0}
        self._last_scope = 0
        self._tags: dict[str, array[int]] = {}
        # Of the rows that are not valid always: the row, and from when until when.
        self._bounded, self._from, self._until = array("q"), array("d"), array("d")
        self._ended = array("q")
        self._mandatory: set[int] = set()
        self._recent: OrderedDict[Filter, Passing] = OrderedDict()
        self.size = 0
        """One past the last row."""
        self.count = 0
        """Rows that stand."""

    def add(self, facts: Sequence[StoreFacts]) -> None:
        """Takes in standing rows, which come after all earlier ones."""
        if not facts:
            return
        rows = np.fromiter((f[0] for f in facts), np.int64, len(facts))
        self._reserve(int(rows.max()) + 1)
        self._alive[rows] = True
        self._kind[rows] = [KINDS.index(f[1]) for f in facts]
        self._scope[rows] = [self._code(f[2]) for f in facts]
        for row, _, _, tags, mandatory, valid_from, valid_until in facts:
            if tags != "[]":
                for tag in msgspec.json.decode(tags):
                    self._tags.setdefault(tag, array("q")).append(row)
            if valid_from is not None or valid_until is not None:
                self._bounded.append(row)
                self._from.append(-np.inf if valid_from is None else valid_from)
                self._until.append(np.inf if valid_until is None else valid_until)
            if mandatory:
                self._mandatory.add(row)
        self.size = max(self.size, int(rows.max()) + 1)
        self.count += len(facts)

    def end(self, rows: Iterable[int]) -> None:
        for row in rows:
            if row < self.size and self._alive[row]:
                self._alive[row] = False
                self._ended.append(row)
                self._mandatory.discard(row)
                self.count -= 1

    def forget(self, erased: Sequence[int]) -> None:
        """What rows that have ended said, and no other row: their scopes and tags."""
        rows = np.array([row for row in erased if row < self.size], np.int64)
        codes = set(self._scope[rows].tolist()) - {0}
        self._scope[rows] = 0
        gone = {code for code in codes if not (self._scope[: self.size] == code).any()}
        self._scopes = {scope: code for scope, code in self._scopes.items() if code not in gone}
        for tag, having in list(self._tags.items()):
            tagged = np.array(having, np.int64)
            left = tagged[~np.isin(tagged, rows)]
            if not len(left):
                del self._tags[tag]
            elif len(left) < len(tagged):
                self._tags[tag] = array("q", left.tolist())
        self._recent.clear()

    def scopes(self) -> list[str]:
        """Every scope that has been used, but the one that is everywhere."""
        return [s for s in self._scopes if s]

    def facets(self, most: int) -> dict[str, Any]:
        """Of what stands: how many of each kind, how many are mandatory, and its scopes and tags, at most so many."""
        alive = self._alive[: self.size]
        kinds = np.bincount(self._kind[: self.size][alive], minlength=len(KINDS))
        used = set(np.unique(self._scope[: self.size][alive]).tolist())
        scopes = sorted(scope for scope, code in self._scopes.items() if scope and code in used)
        tags = sorted(tag for tag, rows in self._tags.items() if alive[np.array(rows, np.int64)].any())
        return {
            "kinds": dict(zip(KINDS, kinds.tolist(), strict=True)),
            "mandatory": len(self._mandatory),
            "scopes": scopes[:most],
            "tags": tags[:most],
        }

    def known(self, filter: Filter) -> Filter:
        """Without scopes and tags that no item has ever had, so that what is remembered by filter is bounded."""
        scopes = filter.scopes and frozenset(s for s in filter.scopes if s in self._scopes)
        tags = filter.tags and (frozenset(t for t in filter.tags if t in self._tags) or _NO_TAG)
        return replace(filter, scopes=scopes, tags=tags)

    def passing(self, filter: Filter) -> Passing:
        """Which rows stand and pass."""
        timeless = filter.timeless
        passing = self._recent.get(timeless)
        if passing is None or len(passing.mask) < self.size or passing.ends < len(self._ended):
            passing = self._recent[timeless] = self._brought_up(timeless, passing)
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        mask = passing.mask
        if filter.at is not None and self._bounded:
            bounded, start, end = np.array(self._bounded), np.array(self._from), np.array(self._until)
            out = bounded[(start > filter.at) | (end <= filter.at)]
            if mask[out].any():
                mask = mask.copy()
                mask[out] = False
        if filter.upto is not None and mask[filter.upto + 1 :].any():
            mask = np.concatenate([mask[: filter.upto + 1], np.zeros_like(mask[filter.upto + 1 :])])
        return passing if mask is passing.mask else Passing.of(mask)

    def rows(self, filter: Filter, since: int) -> Rows:
        """The rows from `since` on that stand and pass, whenever they are valid."""
        return np.flatnonzero(self._mask(filter, since)) + since

    def mandatory(self, filter: Filter) -> list[int]:
        """Standing rows that are mandatory and pass, in the order written."""
        if not self._mandatory:
            return []
        mask = self.passing(filter).mask
        return sorted(row for row in self._mandatory if mask[row])

    def _code(self, scope: str) -> int:
        if (code := self._scopes.get(scope)) is None:
            self._last_scope += 1
            code = self._scopes[scope] = self._last_scope
        return code

    def _brought_up(self, filter: Filter, old: Passing | None) -> Passing:
        """What has been written since is all that is looked at: rows never change, and only end."""
        if old is None:
            return Passing.of(self._mask(filter, 0), len(self._ended))
        mask = np.concatenate([old.mask, self._mask(filter, len(old.mask))])
        mask[np.array(self._ended[old.ends :], np.int64)] = False
        return Passing.of(mask, len(self._ended))

    def _mask(self, filter: Filter, since: int) -> Mask:
        part = slice(since, self.size)
        mask = self._alive[part].copy()
        if filter.kind is not None:
            mask &= self._kind[part] == KINDS.index(filter.kind)
        if filter.scopes is not None:
            codes = [0, *(self._scopes[s] for s in filter.scopes if s in self._scopes)]
            scope = self._scope[part]
            passing = scope == 0
            for code in codes[1:]:
                passing |= scope == code
            mask &= passing
        if filter.mandatory is not None:
            binds = np.zeros(len(mask), bool)
            binds[[row - since for row in self._mandatory if row >= since]] = True
            mask &= binds == filter.mandatory
        if filter.tags:
            tagged = np.zeros(len(mask), bool)
            for tag in filter.tags:
                if tag in self._tags:
                    rows = np.array(self._tags[tag], np.int64)
                    tagged[rows[np.searchsorted(rows, since) :] - since] = True
            mask &= tagged
        return mask

    def _reserve(self, size: int) -> None:
        if size > len(self._alive):
            more = max(size, 2 * len(self._alive)) - len(self._alive)
            self._alive = np.concatenate([self._alive, np.zeros(more, bool)])
            self._kind = np.concatenate([self._kind, np.zeros(more, np.int8)])
            self._scope = np.concatenate([self._scope, np.zeros(more, np.int32)])
